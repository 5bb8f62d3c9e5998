"""Record the bits that a run computes, and check where else they are the same."""
