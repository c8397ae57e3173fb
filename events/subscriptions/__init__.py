"""Subscribing to events: a subscriber is a reader of the log with a position and a wake-up."""
