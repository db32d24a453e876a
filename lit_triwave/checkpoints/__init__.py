"""Writes, chooses, loads and compares checkpoints, and rebuilds modules from them."""
