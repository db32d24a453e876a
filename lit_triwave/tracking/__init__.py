"""What a run leaves behind: its folder, run.json, metrics.csv and the Weights & Biases run."""
