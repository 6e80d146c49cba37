"""Log evidence of problems whose value is known: error, bounds, seconds, coverage over seeds, and two other packages."""
