"""From a configuration to the stages that a run executes."""
