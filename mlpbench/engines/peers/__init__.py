"""Engines of other libraries, to compare with."""
