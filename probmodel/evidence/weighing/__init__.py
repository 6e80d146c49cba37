"""Components that the estimators of the evidence share: starting draws, proposals, weights, bounds and checks."""
