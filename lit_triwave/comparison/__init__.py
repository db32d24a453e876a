"""`python -m lit_triwave compare`: runs on disk or in Weights & Biases side by side, as a table, a page and figures."""

from lit_triwave.comparison.command import run

__all__ = ["run"]
