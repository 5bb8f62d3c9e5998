"""The verbs of `mlpbench`: each parses its arguments, calls public functions, and prints."""
