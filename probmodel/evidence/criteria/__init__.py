"""Information criteria that approximate the evidence: BIC (Schwarz, 1978) and WBIC (Watanabe, 2013)."""
