"""What concerns the running session of Python: imports on first use, and progress that is shown."""
