"""Test whether the portable arithmetic learns as float32 does, on MNIST.

    python docs/evidence/learning.py [--data DIR]

Train one epoch of SGD and three of Nesterov, seeds 0 to 2, with engine=portable and with PyTorch's own float32. Both
get the portable initial parameters and orders. Exit code 1 if a test accuracy differs by more than 0.003.
"""

import argparse
import os
import sys

from mlpbench.config import RunConfig
from mlpbench.engines.eager import Eager
from mlpbench.engines.portable.engine import Portable
from mlpbench.engines.registry import ENGINES
from mlpbench.training.trainer import Trainer

MOST_APART = 0.003


class SameDraws(Eager):
    """Train in PyTorch's float32, from the initial parameters and orders of `portable`."""

    draw_parameters = Portable.draw_parameters
    batch_order = Portable.batch_order


def main() -> int:
    """Train both ways, and print a row for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of MNIST (default: $MLPBENCH_DATA)")
    parsed = parser.parse_args()
    if parsed.data:
        os.environ["MLPBENCH_DATA"] = parsed.data
    ENGINES["float32"] = SameDraws
    farthest = 0.0
    print("optimizer  epochs  seed  portable  float32  difference")
    for optimizer, num_epochs in (("sgd", 1), ("nesterov", 3)):
        for seed in range(3):
            accuracies = []
            for engine in ("portable", "float32"):
                config = RunConfig(
                    dataset="mnist", optimizer=optimizer, num_epochs=num_epochs, seed=seed, engine=engine
                )
                accuracies.append(Trainer(config).fit("-").test_accuracy[-1])
            ours, theirs = accuracies
            farthest = max(farthest, abs(ours - theirs))
            print(f"{optimizer:9}  {num_epochs:6}  {seed:4}  {ours:8.4f}  {theirs:7.4f}  {ours - theirs:+10.4f}")
    print(f"at most {farthest:.4f} apart (bound {MOST_APART})")
    return int(farthest > MOST_APART)


if __name__ == "__main__":
    sys.exit(main())
