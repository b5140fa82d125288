"""Hostile files: whatever a reader is given, it answers with right values or its one documented error."""
