"""What rankers of impressions share: declared fields, tasks and their weights, and what a model file adds to them."""
