import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No test judges a real duration, so hypothesis has no deadline. Every run uses the same examples, so that a new failure
# comes from the change of the code. `--hypothesis-profile explore` tries new examples.
settings.register_profile("mlpbench", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("mlpbench")

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """Return a folder that holds MNIST in torchvision's layout."""
    folder = os.environ.get("MLPBENCH_DATA")
    if not folder or not all((Path(folder) / "MNIST" / "raw" / name).is_file() for name in MNIST_FILES):
        pytest.skip("needs MNIST's four files in $MLPBENCH_DATA/MNIST/raw")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Store compiled libraries in a temporary folder, also for processes that the tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cuda() -> None:
    """Skip a test without a CUDA device."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Restore the thread count after a test that trains, because it is a setting of the whole process."""
    import torch

    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, restore_threads: None) -> str:
    """Return the name of a data set with 1,230 and 430 of the digits.

    An epoch takes milliseconds, and its last batch is short.
    """
    from mlpbench.workload import datasets

    digits = datasets.load("digits")
    dataset = datasets.Dataset(
        train=datasets.Images(images=digits.train.images[:1230], labels=digits.train.labels[:1230]),
        test=datasets.Images(images=digits.test.images[:430], labels=digits.test.labels[:430]),
    )
    monkeypatch.setitem(datasets.DATASETS, "small", lambda: dataset)
    return "small"
