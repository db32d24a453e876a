"""What a network is made of: linear regions, dead units, parameters and operations."""
