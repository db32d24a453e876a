"""`fit`, `validate`, `test` and `predict`: Lightning's CLI with run folders, loggers and callbacks."""
