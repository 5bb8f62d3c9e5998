"""DATASETS, whole and in memory; and the two ways to take batches from them.

`digits` needs no network. The others come through torchvision into `$MLPBENCH_DATA` (else `~/.cache/mlpbench`), and are
downloaded when absent.

Shapes: N images, B batch, D = 28 * 28 pixels.
"""

import contextlib
import functools
import hashlib
import http.client
import importlib.util
import io
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from mlpbench.errors import InputError, choose
from mlpbench.workload.seeding import derive_seed

SIDE = 28  # pixels
MEAN, STD = 0.5, 1.0  # the tutorial's Normalize
NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """One half of a data set: images (N, 28, 28) uint8 and labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def normalised(self) -> Tensor:
        """(N, D) float32, bit for bit what torchvision's ToTensor and Normalize(.5, 1.0) give."""
        return self.images.flatten(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A data set split for training and testing."""

    train: Images
    test: Images


def data_dir() -> Path:
    """Where torchvision's data sets are kept: `$MLPBENCH_DATA`, else `~/.cache/mlpbench`."""
    return Path(os.environ.get("MLPBENCH_DATA") or Path.home() / ".cache" / "mlpbench")


# --- digits -----------------------------------------------------------------------------------------------------------

_DIGITS_SHA256 = "6440bf4558f23ab5cc9e1e390a66fd7eed9eaee68142c863e2d8884022fea2b8"
_ENLARGED = 20  # pixels, centred in 28 as MNIST's digits are

# The 39 smallest shifts, in a fixed order; 39 is what 1,540 training images need to become 60,000.
_SHIFTS = sorted(((dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)), key=lambda s: (s[0] ** 2 + s[1] ** 2, s))[
    :39
]


def _digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, enlarged and shifted to 60,000 and 10,000 images.

    Every seventh original, and nothing made from it, is in the test half. All arithmetic is on integers, so the bytes
    are the same on every machine; their digest is checked.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0).
    """
    originals = _originals()
    small = originals[:, :-1].reshape(-1, 8, 8)  # 0 to 16
    weights = _interpolation(small.shape[1], _ENLARGED)
    scale = 16 * int(weights.sum(axis=1)[0]) ** 2
    large = (weights @ small @ weights.T * 255 + scale // 2) // scale
    labels = originals[:, -1]
    is_test = np.arange(len(labels)) % 7 == 0
    dataset = Dataset(
        train=_expand(large[~is_test], labels[~is_test], 60_000),
        test=_expand(large[is_test], labels[is_test], 10_000),
    )
    recipe = hashlib.sha256()
    for half in (dataset.train, dataset.test):
        recipe.update(half.images.numpy().tobytes())
        recipe.update(half.labels.numpy().astype("<i8").tobytes())
    assert recipe.hexdigest() == _DIGITS_SHA256, "the digits of this scikit-learn differ from those of mlpbench"
    return dataset


def _originals() -> NDArray[np.int64]:
    """The rows of scikit-learn's digits.csv.gz (1797, 65): 64 pixels and the label.

    Read without importing scikit-learn, which takes longer than all the rest, in every fresh process.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None, "scikit-learn is a dependency"
    assert spec.origin is not None, "a package with its files"
    rows: NDArray[np.int64] = np.loadtxt(
        Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.int64
    )
    return rows


def _interpolation(num_in: int, num_out: int) -> NDArray[np.int64]:
    """Linear interpolation between pixel centres, edges held: integer weights (num_out, num_in) of equal row sums."""
    denominator = 2 * num_out
    weights = np.zeros((num_out, num_in), dtype=np.int64)
    for row in range(num_out):
        position = (2 * row + 1) * num_in - num_out  # of the output's centre, in input pixels times the denominator
        left, rest = divmod(position, denominator)
        weights[row, max(left, 0)] += denominator - rest
        weights[row, min(left + 1, num_in - 1)] += rest
    return weights


def _expand(large: NDArray[np.int64], labels: NDArray[np.int64], num_images: int) -> Images:
    """Each original under one shift after the other, until there are enough."""
    margin = (SIDE - _ENLARGED) // 2
    images = np.zeros((num_images, SIDE, SIDE), dtype=np.uint8)
    for index, (dy, dx) in enumerate(_SHIFTS):
        part = images[index * len(large) : (index + 1) * len(large)]
        top, left = margin + dy, margin + dx
        part[:, top : top + _ENLARGED, left : left + _ENLARGED] = large[: len(part)]
    return Images(images=torch.from_numpy(images), labels=torch.from_numpy(np.resize(labels, num_images)))


# --- torchvision's ----------------------------------------------------------------------------------------------------

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def _torchvision(name: str, sha256: dict[str, str]) -> Dataset:
    """MNIST or one of its kin, from disk or the network; files with a known digest are checked before they are read."""
    import torchvision.datasets

    folder = data_dir() / name / "raw"
    if not all((folder / file_name).exists() for file_name in _MNIST_SHA256):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints a traceback for every mirror that fails
                getattr(torchvision.datasets, name)(data_dir(), download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise InputError(
                f"no {name} in {folder}, and it could not be downloaded ({_one_line(error)}); point MLPBENCH_DATA or "
                "--data at a folder that has it, or use --set dataset=digits, which needs no network"
            ) from None
    for file_name, expected in sha256.items():
        if hashlib.sha256(_read(folder / file_name)).hexdigest() != expected:
            raise InputError(
                f"{folder / file_name} is not the published file (its SHA-256 differs); delete it to download it again"
            )
    train, test = (
        Images(
            images=_idx(folder / f"{half}-images-idx3-ubyte", 3), labels=_idx(folder / f"{half}-labels-idx1-ubyte", 1)
        )
        for half in ("train", "t10k")
    )
    if any(len(half.images) != len(half.labels) for half in (train, test)):
        raise InputError(f"images and labels in {folder} differ in number; delete them to download them again")
    return Dataset(train=train, test=test)


def _one_line(error: Exception) -> str:
    """What went wrong, without the list of mirrors that torchvision appends."""
    return next(iter(str(error).splitlines()), "").rstrip(":") or type(error).__name__


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _idx(path: Path, num_dimensions: int) -> Tensor:
    """An IDX file of unsigned bytes, images (N, 28, 28) uint8 or labels (N,) int64.

    Read here because torchvision's reader trusts the header, and prefers its own old cache to the files.
    """
    content = _read(path)
    header = 4 + 4 * num_dimensions
    shape = struct.unpack(f">{num_dimensions}I", content[4:header].ljust(4 * num_dimensions, b"\0"))
    is_whole = content[:4] == bytes((0, 0, 8, num_dimensions)) and len(content) == header + math.prod(shape)
    values = torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy() if is_whole else np.empty(0))
    if not is_whole or shape[1:] not in ((), (SIDE, SIDE)) or (num_dimensions == 1 and values.max() >= NUM_CLASSES):
        raise InputError(f"{path} is damaged; delete it to download it again")
    return values.to(torch.int64) if num_dimensions == 1 else values.reshape(shape)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "mnist": lambda: _torchvision("MNIST", _MNIST_SHA256),
    # torchvision itself checks the MD5 of what it downloads of these two
    "fashion_mnist": lambda: _torchvision("FashionMNIST", {}),
    "kmnist": lambda: _torchvision("KMNIST", {}),
}


def load(name: str) -> Dataset:
    """A data set, read once per process and folder.

    Raises:
        InputError: for an unknown name, or if the files are neither there nor to be had.
    """
    choose(DATASETS, name, "dataset")
    return _load(name, data_dir())


@functools.lru_cache(maxsize=2)
def _load(name: str, _folder: Path) -> Dataset:
    return DATASETS[name]()


@functools.lru_cache(maxsize=4)
def resident(name: str, half: str, folder: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """The normalised images (N, D) and labels (N,) of one half, on the device. Shared: do not write to them."""
    images: Images = getattr(_load(name, folder), half)
    return images.normalised().to(device), images.labels.to(device)


# --- batches ----------------------------------------------------------------------------------------------------------

Batches = Iterator[tuple[Tensor, Tensor]]


def batch_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """The permutation (N,) in which an epoch visits the samples; depends on nothing but its arguments."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "batch order", epoch))
    return torch.randperm(num_samples, generator=generator)


def memory_batches(x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Batches:
    """Slices of resident tensors, (B, D) and (B,); the last batch may be short."""
    for batch in order.to(x.device).split(batch_size):
        yield x.index_select(0, batch), y.index_select(0, batch)


class _PerSample(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """One image at a time through PIL and transforms: what torchvision's MNIST does in its __getitem__."""

    def __init__(self, half: Images) -> None:
        from torchvision import transforms

        self._half = half
        self._transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])

    def __len__(self) -> int:
        return len(self._half.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        image: Any = Image.fromarray(self._half.images[index].numpy())
        return self._transform(image), int(self._half.labels[index])


def dataloader_batches(half: Images, order: Tensor, batch_size: int, device: torch.device) -> Batches:
    """The tutorial's own loop: a DataLoader of single transformed images, in the same order and of the same bits."""
    own = torch.Generator()  # or the loader would draw from the global one
    loader = DataLoader(_PerSample(half), batch_size=batch_size, sampler=order.tolist(), generator=own)
    for x, y in loader:
        yield x.flatten(1).to(device), y.to(device)
