"""A group of runs: one run for each variant of a sweep, planned, run and resumed together."""
