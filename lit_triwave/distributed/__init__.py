"""Several processes: cluster environment, launcher, ranks, signals and the watch over them."""
