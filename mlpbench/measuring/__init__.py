"""Measure times and memory: interleaved, in fresh processes, from pytest."""
