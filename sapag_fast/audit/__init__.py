"""Many victims of one model, kept on disk, one after the other."""
