"""What a run leaves: the report and its signed statement."""
