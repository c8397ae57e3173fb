"""One run at work: its files, and which of its images are valid."""
