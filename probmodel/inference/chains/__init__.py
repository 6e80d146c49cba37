"""Parts of Markov chain samplers: warm start, adaptation, trajectory trees, and compiled windows of steps."""
