"""Assignments of rows to the experts of a mixture, and gates as their prior."""
