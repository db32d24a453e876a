"""`inspect`: what a checkpoint holds, in figures of both kinds."""

from lit_triwave.inspection.command import run

__all__ = ["run"]
