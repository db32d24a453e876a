"""`sweep`: makes the runs of a sweep file in W&B's format, without W&B's server."""
