"""What a run makes of lists: its prompts, from files and templates."""
