"""Structure of biological networks: protein signaling with and without interventions, and gene regulation (DREAM4)."""
