"""Ways to go on with a run that stopped, or whose log is damaged."""
