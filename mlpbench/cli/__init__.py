"""The command line: one file a verb; each parses its arguments, calls public functions, and prints."""
