"""Train with other libraries, for comparison."""
