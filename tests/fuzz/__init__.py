"""Coverage-guided fuzzing of whatever parses: make fuzz."""
