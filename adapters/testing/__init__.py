"""The pytest plugin and its snapshots of timelines."""
