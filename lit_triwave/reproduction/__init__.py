"""`python -m lit_triwave reproduce`: the paper's tables, and ours beside them."""

from lit_triwave.reproduction.command import run

__all__ = ["run"]
