"""A queue of jobs that survives crashes, and the runner that works on it."""
