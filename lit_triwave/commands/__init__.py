"""The commands of `python -m lit_triwave`, one folder each, and the parser that they share."""
