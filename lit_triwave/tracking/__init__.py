"""The records of a run: its folder, run.json, metrics.csv and the Weights & Biases run."""
