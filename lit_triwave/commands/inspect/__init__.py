"""`inspect`: what a checkpoint holds, in figures of both kinds."""
