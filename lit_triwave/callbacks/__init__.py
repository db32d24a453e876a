"""What happens around the training loop: the stage switch, checkpoints, Ctrl-C, progress, figures, the summary."""
