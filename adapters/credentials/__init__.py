"""Finds and replaces passwords, keys, home folders and mail addresses in texts."""
