"""`reproduce`: trains the networks of the paper's tables and shows our results beside the paper's."""
