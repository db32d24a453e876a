"""Matplotlib figures of a run, and the style they share."""
