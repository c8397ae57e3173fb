"""Messages about runs and groups: what is told (facts), to whom (channels), and when."""
