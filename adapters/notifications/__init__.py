"""Messages about runs and groups: their facts, the channels that take them, and the times."""
