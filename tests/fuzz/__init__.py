"""Coverage-guided fuzzing of all parsers: make fuzz."""
