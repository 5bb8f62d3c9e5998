"""Which bits a run computes, and where else they are the same."""
