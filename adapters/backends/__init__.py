"""The servers that make images."""
