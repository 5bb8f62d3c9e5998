"""Times and memory: interleaved, in fresh processes, from pytest."""
