"""What the estimators of the evidence are made of: starting draws, proposals, weights, bounds, and whether to trust them."""
