"""Benchmarks and reproducibility checks for training multilayer perceptrons in PyTorch.

Re-exports nothing: importing the package must not load torch for someone who only wants a report.
"""

__version__ = "0.1.0"
