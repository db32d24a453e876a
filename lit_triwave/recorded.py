"""What is known of a run besides its config; without imports, as `compare` reads it in a moment."""

RECORDED = ("git", "versions", "hardware", "branched_from")
"""Parts of run.json that Weights & Biases gets too, flat, beside the config."""
