"""A whole run, and many runs."""
