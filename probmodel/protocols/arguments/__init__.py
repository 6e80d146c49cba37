"""Checks of arguments by the annotations and names of a function's parameters."""
