"""The losses of the default config's first steps, kept in a file: `python tests/test_golden.py` writes it anew."""

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
