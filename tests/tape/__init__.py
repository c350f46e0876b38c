"""A model of what torch documents about the tape, and a machine that drives it beside torch."""
