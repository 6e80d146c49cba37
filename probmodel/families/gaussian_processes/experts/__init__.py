"""Products of Gaussian-process experts on shards of the rows."""
