"""The outputs that a core is written to, from its first byte to its last, and the last cores of a
process (recordings.py)."""
