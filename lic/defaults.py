"""What is used unless something else is asked for: by the command line, in Python and in measurements. No torch here."""

QUALITY = 50.0  # 0 (smallest) .. 100 (best)
EFFORT = 1  # 0 .. 9, see search.py
MODEL, ENTROPY = "lite", "parallel"  # weights: transforms and entropy model
