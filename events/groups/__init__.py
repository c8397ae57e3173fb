"""The facts of a group: one run for each variant of a sweep."""
