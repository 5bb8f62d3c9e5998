"""The engine in Triton, for CUDA."""
