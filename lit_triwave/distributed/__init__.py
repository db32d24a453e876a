"""Runs of several processes: how they find each other, stop, and end together."""
