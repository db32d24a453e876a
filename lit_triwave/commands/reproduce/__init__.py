"""`python -m lit_triwave reproduce`: the paper's tables, and ours beside them."""
