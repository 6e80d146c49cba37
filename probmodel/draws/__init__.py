"""Diagnostics, files and plots of draws by ArviZ; nothing here needs torch."""
