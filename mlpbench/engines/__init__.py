"""Ways to compute training: one file each, and their registry."""
