"""Copies of a run's images, under names that people choose."""
