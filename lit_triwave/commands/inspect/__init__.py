"""`inspect`: the content of a checkpoint, as numbers and pictures."""
