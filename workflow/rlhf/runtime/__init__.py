"""What carries a run out and decides no byte of its result; no torch; no code of any stage."""
