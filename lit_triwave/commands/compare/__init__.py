"""`python -m lit_triwave compare`: runs on disk or in Weights & Biases side by side, as a table, a page and figures."""
