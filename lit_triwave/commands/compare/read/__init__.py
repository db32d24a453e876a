"""Reads runs from run folders and from Weights & Biases."""
