"""``sapag-fast``, one file a command."""
