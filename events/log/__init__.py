"""The log of a run: its format, the writer, the readers, the lock and the storage."""
