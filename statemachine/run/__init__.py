"""One run of a plan: its creation, its stages, its requests."""
