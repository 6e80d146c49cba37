"""Assignments of rows to the experts of a mixture, and the gates that give their prior."""
