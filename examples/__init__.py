"""Configurations and programs to start from; ``stagewright init --examples FOLDER`` copies them."""
