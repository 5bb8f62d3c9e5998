"""Load data sets into memory, and take batches from them in two ways.

`digits` needs no network. The others are downloaded through torchvision if they are missing. They are stored in
`$MLPBENCH_DATA`, by default `~/.cache/mlpbench`.

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

SIDE = 28
"""Height and width of an image, in pixels."""
MEAN, STD = 0.5, 1.0
"""The arguments of the tutorial's Normalize."""
NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Hold a training set or a test set."""

    images: Tensor
    """Shape (N, 28, 28), uint8."""
    labels: Tensor
    """Shape (N,), int64."""

    def normalised(self) -> Tensor:
        """Return the images (N, D) as float32, with the bits of torchvision's ToTensor and Normalize(0.5, 1.0)."""
        return self.images.flatten(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Hold the training set and the test set of a data set."""

    train: Images
    test: Images


def data_dir() -> Path:
    """Return the folder of torchvision's data sets: `$MLPBENCH_DATA`, by default `~/.cache/mlpbench`.

    Raises:
        InputError: if the user has no home folder.
    """
    try:
        return Path(os.environ.get("MLPBENCH_DATA") or Path.home() / ".cache" / "mlpbench")
    except RuntimeError:
        raise InputError("there is no home folder for data sets; set MLPBENCH_DATA or --data to a folder") from None


# --- digits -----------------------------------------------------------------------------------------------------------

_DIGITS_SHA256 = "6440bf4558f23ab5cc9e1e390a66fd7eed9eaee68142c863e2d8884022fea2b8"
_ENLARGED = 20
"""Height and width of an enlarged digit in pixels. It is centred in 28 pixels, as MNIST's digits are."""


def _length_first(shift: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    return shift[0] ** 2 + shift[1] ** 2, shift


_SHIFTS = sorted(((dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)), key=_length_first)[:39]
"""The 39 smallest shifts (dy, dx), in a fixed order. With 39 shifts, 1,540 training images become 60,000."""


def _digits() -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits, enlarged, and shifted to get 60,000 and 10,000 images.

    The test set has every seventh original, and only images of these originals. All arithmetic uses integers, so the
    bytes are the same on every machine. Their digest is checked.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0).
    """
    originals = _originals()
    # The pixels have values from 0 to 16.
    small = originals[:, :-1].reshape(-1, 8, 8)
    weights = _interpolation(small.shape[1], _ENLARGED)
    scale = 16 * int(weights.sum(axis=1)[0]) ** 2
    large = (weights @ small @ weights.T * 255 + scale // 2) // scale
    labels = originals[:, -1]
    is_test = np.arange(len(labels)) % 7 == 0
    dataset = Dataset(
        train=_expand(large[~is_test], labels[~is_test], 60_000),
        test=_expand(large[is_test], labels[is_test], 10_000),
    )
    sha256 = hashlib.sha256()
    for part in (dataset.train, dataset.test):
        sha256.update(part.images.numpy().tobytes())
        sha256.update(part.labels.numpy().astype("<i8").tobytes())
    assert sha256.hexdigest() == _DIGITS_SHA256, "the digits of this scikit-learn are not those that mlpbench expects"
    return dataset


def _originals() -> NDArray[np.int64]:
    """Return the rows (1797, 65) of scikit-learn's digits.csv.gz: 64 pixels and the label.

    The file is read without importing scikit-learn. That import takes longer than all other work here, and every fresh
    process would repeat it.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None, "scikit-learn is a dependency"
    assert spec.origin is not None, "scikit-learn is a package with files"
    rows: NDArray[np.int64] = np.loadtxt(
        Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.int64
    )
    return rows


def _interpolation(num_in: int, num_out: int) -> NDArray[np.int64]:
    """Return integer weights (num_out, num_in) of a linear interpolation between pixel centres.

    All rows have the same sum. Beyond the outer centres, the value of the edge pixel is used.
    """
    denominator = 2 * num_out
    weights = np.zeros((num_out, num_in), dtype=np.int64)
    for row in range(num_out):
        # The centre of the output pixel, in input pixels times the denominator.
        position = (2 * row + 1) * num_in - num_out
        left, remainder = divmod(position, denominator)
        weights[row, max(left, 0)] += denominator - remainder
        weights[row, min(left + 1, num_in - 1)] += remainder
    return weights


def _expand(large: NDArray[np.int64], labels: NDArray[np.int64], num_images: int) -> Images:
    """Return all originals under the first shift, then under the second, until there are `num_images` images."""
    margin = (SIDE - _ENLARGED) // 2
    images = np.zeros((num_images, SIDE, SIDE), dtype=np.uint8)
    for index, (dy, dx) in enumerate(_SHIFTS):
        shifted = images[index * len(large) : (index + 1) * len(large)]
        top, left = margin + dy, margin + dx
        shifted[:, top : top + _ENLARGED, left : left + _ENLARGED] = large[: len(shifted)]
    return Images(images=torch.from_numpy(images), labels=torch.from_numpy(np.resize(labels, num_images)))


# --- torchvision's ----------------------------------------------------------------------------------------------------

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def _torchvision(name: str, sha256: dict[str, str]) -> Dataset:
    """Return MNIST or a data set of its format, and download it if it is missing.

    A file whose SHA-256 is given is checked before its content is used.
    """
    import torchvision.datasets

    folder = data_dir() / name / "raw"
    if not all((folder / file_name).exists() for file_name in _MNIST_SHA256):
        try:
            # torchvision prints a traceback for every mirror that fails.
            with contextlib.redirect_stdout(io.StringIO()):
                getattr(torchvision.datasets, name)(data_dir(), download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise InputError(
                f"no {name} in {folder}, and the download failed ({_one_line(error)}); set MLPBENCH_DATA or --data to "
                "a folder that has it, or use --set dataset=digits, which needs no network"
            ) from None
    for file_name, expected in sha256.items():
        if hashlib.sha256(_read(folder / file_name)).hexdigest() != expected:
            raise InputError(
                f"{folder / file_name} differs from the published file (SHA-256); delete it to download it again"
            )
    train, test = (
        Images(
            images=_idx(folder / f"{part}-images-idx3-ubyte", 3), labels=_idx(folder / f"{part}-labels-idx1-ubyte", 1)
        )
        for part in ("train", "t10k")
    )
    if any(len(part.images) != len(part.labels) for part in (train, test)):
        raise InputError(f"images and labels in {folder} differ in number; delete the files to download them again")
    return Dataset(train=train, test=test)


def _one_line(error: Exception) -> str:
    """Return the message of an error, without the list of mirrors that torchvision appends."""
    return next(iter(str(error).splitlines()), "").rstrip(":") or type(error).__name__


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _idx(path: Path, num_dimensions: int) -> Tensor:
    """Return the content of an IDX file of unsigned bytes: images (N, 28, 28) uint8 or labels (N,) int64.

    torchvision's reader is not used, because it does not check the header, and prefers its old cache to the files.

    Raises:
        InputError: if the file cannot be read, or its header, its length or a label is wrong.
    """
    content = _read(path)
    header = 4 + 4 * num_dimensions
    shape = struct.unpack(f">{num_dimensions}I", content[4:header].ljust(4 * num_dimensions, b"\0"))
    is_complete = content[:4] == bytes((0, 0, 8, num_dimensions)) and len(content) == header + math.prod(shape)
    values = torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy() if is_complete else np.empty(0))
    if not is_complete or shape[1:] not in ((), (SIDE, SIDE)) or (num_dimensions == 1 and values.max() >= NUM_CLASSES):
        raise InputError(f"{path} is damaged; delete it to download it again")
    return values.to(torch.int64) if num_dimensions == 1 else values.reshape(shape)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "mnist": lambda: _torchvision("MNIST", _MNIST_SHA256),
    # For these two, torchvision checks the MD5 of each download.
    "fashion_mnist": lambda: _torchvision("FashionMNIST", {}),
    "kmnist": lambda: _torchvision("KMNIST", {}),
}


def load(name: str) -> Dataset:
    """Return a data set, which is read once for each process and folder.

    Raises:
        InputError: for an unknown name, for a damaged file, or if files are missing and cannot be downloaded.
    """
    choose(DATASETS, name, "dataset")
    return _load(name, data_dir())


@functools.lru_cache(maxsize=2)
def _load(name: str, _folder: Path) -> Dataset:
    return DATASETS[name]()


@functools.lru_cache(maxsize=4)
def resident(name: str, part: str, folder: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the normalised images (N, D) and labels (N,) of part `train` or `test`, on the device.

    They are shared: do not write to them.
    """
    images: Images = getattr(_load(name, folder), part)
    return images.normalised().to(device), images.labels.to(device)


# --- batches ----------------------------------------------------------------------------------------------------------

Batches = Iterator[tuple[Tensor, Tensor]]


def batch_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the permutation (N,) in which an epoch uses the samples; it depends on the arguments only."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "batch order", epoch))
    return torch.randperm(num_samples, generator=generator)


def memory_batches(x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Batches:
    """Yield batches (B, D) and (B,) of tensors in memory; the last batch may be short."""
    for batch in order.to(x.device).split(batch_size):
        yield x.index_select(0, batch), y.index_select(0, batch)


class _PerSample(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Transform one image at a time through PIL, as torchvision's MNIST does in its `__getitem__`."""

    def __init__(self, images: Images) -> None:
        from torchvision import transforms

        self._images = images
        self._transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])

    def __len__(self) -> int:
        return len(self._images.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        image: Any = Image.fromarray(self._images.images[index].numpy())
        return self._transform(image), int(self._images.labels[index])


def dataloader_batches(images: Images, order: Tensor, batch_size: int, device: torch.device) -> Batches:
    """Yield the batches of the tutorial's loop: a DataLoader that transforms single images.

    Order and bits are those of `memory_batches`.
    """
    # Without this generator, the loader would draw from the global one.
    generator = torch.Generator()
    loader = DataLoader(_PerSample(images), batch_size=batch_size, sampler=order.tolist(), generator=generator)
    for x, y in loader:
        yield x.flatten(1).to(device), y.to(device)
