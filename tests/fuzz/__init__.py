"""Coverage-guided fuzzing of everything that reads what somebody else wrote. Run: python -m tests.fuzz TARGET."""
