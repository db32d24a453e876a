"""Analysis of networks: linear regions, dead units, parameters and operations."""
