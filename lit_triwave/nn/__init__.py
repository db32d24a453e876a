"""Torch modules: banks of constructed subnetworks, the wirings that combine them, heads and baselines."""
