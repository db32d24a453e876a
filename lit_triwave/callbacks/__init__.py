"""What happens around the training loop: diagnostics, progress, the summary, figures and predictions."""
