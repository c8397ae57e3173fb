"""The files of a run folder: where they are, how images are written, and their check."""
