"""What leaves the runs folder as one file: the report and the bundle."""
