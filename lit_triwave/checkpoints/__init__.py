"""Checkpoints: written, chosen, loaded, compared with the run that asks for them, and rebuilt into modules."""
