"""`compare-heads`: constructed and dense classifier heads on the same backbone, data and seeds."""
