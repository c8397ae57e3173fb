"""Ways to continue a run that stopped, or whose log is damaged."""
