"""Finds and replaces passwords, keys and home folders in texts."""
