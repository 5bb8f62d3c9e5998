"""Test that the first losses of the default config are those of a file.

`python -m tests.training.test_golden` writes the file again.
"""

import pytest

from mlpbench.config import RunConfig
from mlpbench.training.trainer import Trainer
from tests.paths import GOLDEN

FILE = GOLDEN / "losses_eager.txt"
NUM_STEPS = 50


def first_losses():
    trainer = Trainer(RunConfig(num_threads=1))
    trainer.use_threads()
    return [trainer.train_step()[0].item() for _ in range(NUM_STEPS)]


def test_first_losses_of_the_default_config_are_those_of_the_golden_file(restore_threads):
    expected = [float(line) for line in FILE.read_text().splitlines()]
    assert len(expected) == NUM_STEPS
    assert expected == pytest.approx(first_losses(), rel=1e-5, abs=0)


if __name__ == "__main__":
    FILE.write_text("".join(f"{loss!r}\n" for loss in first_losses()))
