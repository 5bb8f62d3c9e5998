import shutil
import struct
import urllib.error
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torchvision import transforms

from mlpbench.errors import InputError
from mlpbench.workload import datasets

# 1,540 of the originals, in order, are for training; every seventh, from the first on, is for testing.
ORIGINALS = {
    "train": [index for index in range(1797) if index % 7 != 0],
    "test": [index for index in range(1797) if index % 7 == 0],
}

FROM_THE_NETWORK = [name for name in datasets.DATASETS if name != "digits"]

every_half = pytest.mark.parametrize("half", ["train", "test"])


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def enlarged(small):
    """20x20 pixels of 0 to 255 from 8x8 of 0 to 16: linear between pixel centres, the edges held, half rounded up."""

    def neighbours(index):
        position = min(max((index + Fraction(1, 2)) * 8 / 20 - Fraction(1, 2), Fraction(0)), Fraction(7))
        left = min(int(position), 6)
        return (left, 1 - (position - left)), (left + 1, position - left)

    return [
        [
            int(
                sum(wy * wx * int(small[y][x]) for y, wy in neighbours(row) for x, wx in neighbours(column))
                * Fraction(255, 16)
                + Fraction(1, 2)
            )
            for column in range(20)
        ]
        for row in range(20)
    ]


def bounding_box(image):
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def raw(*batches):
    return [(tuple(x.shape), x.numpy().tobytes(), y.tolist()) for x, y in batches]


# --- digits


@every_half
def test_digits_have_mnists_shapes_dtypes_classes_and_range(digits, half):
    images, labels = getattr(digits, half).images, getattr(digits, half).labels
    num_images = {"train": 60_000, "test": 10_000}[half]
    assert ((num_images, 28, 28), torch.uint8) == (tuple(images.shape), images.dtype)
    assert ((num_images,), torch.int64) == (tuple(labels.shape), labels.dtype)
    assert list(range(10)) == labels.unique().tolist()
    assert (images.min().item(), images.max().item()) == (0, 255)


@every_half
def test_digits_classes_are_balanced(digits, half):
    labels = getattr(digits, half).labels
    counts = labels.bincount() / len(labels)
    assert 0.08 < counts.min().item() <= counts.max().item() < 0.13


def test_no_test_image_of_the_digits_is_a_train_image_not_even_a_shifted_one(digits):
    boxes = {}
    for half in ("train", "test"):
        found = (bounding_box(image) for image in getattr(digits, half).images.numpy())
        boxes[half] = {(box.shape, box.tobytes()) for box in found}
    assert len(ORIGINALS["test"]) <= len(boxes["test"])
    assert set() == boxes["train"] & boxes["test"]


def test_digits_are_the_same_every_time(digits):
    again = datasets.DATASETS["digits"]()
    assert again is not digits
    for half in ("train", "test"):
        assert torch.equal(getattr(digits, half).images, getattr(again, half).images)
        assert torch.equal(getattr(digits, half).labels, getattr(again, half).labels)


def test_a_data_set_is_read_once():
    assert datasets.load("digits") is datasets.load("digits")


@every_half
@pytest.mark.parametrize("index", [0, 1, 100, 256])
def test_digits_start_with_the_originals_enlarged_by_exact_arithmetic(digits, half, index):
    originals = load_digits()
    original = ORIGINALS[half][index]
    expected = np.zeros((28, 28), dtype=int)
    expected[4:24, 4:24] = enlarged(originals.images[original].tolist())
    assert expected.tolist() == getattr(digits, half).images[index].tolist()
    assert originals.target[original] == getattr(digits, half).labels[index].item()


@every_half
def test_digits_repeat_the_originals_under_different_small_shifts(digits, half):
    images, labels = getattr(digits, half).images.numpy(), getattr(digits, half).labels
    num_originals = len(ORIGINALS[half])
    shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    found = []
    for start in range(0, len(images), num_originals):
        part = images[start : start + num_originals]
        found += [shift for shift in shifts if np.array_equal(np.roll(images[: len(part)], shift, axis=(1, 2)), part)]
        assert torch.equal(labels[: len(part)], labels[start : start + len(part)])
    assert 39 == len(found) == len(set(found))
    lengths = [dy**2 + dx**2 for dy, dx in found]
    assert sorted(dy**2 + dx**2 for dy, dx in shifts)[:39] == lengths


# --- normalisation


def assert_normalised_as_torchvision(half, indices):
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (1.0,))])
    normalised = half.normalised()
    assert ((len(half.labels), 784), torch.float32) == (tuple(normalised.shape), normalised.dtype)
    for index in indices:
        expected = transform(transforms.functional.to_pil_image(half.images[index]))
        assert expected.numpy().tobytes() == normalised[index].numpy().tobytes()


@every_half
def test_normalised_digits_have_the_bits_of_torchvisions_transforms(digits, half):
    assert_normalised_as_torchvision(getattr(digits, half), range(0, 10_000, 97))


def test_every_grey_level_is_normalised_to_the_bits_of_torchvisions_transforms():
    levels = torch.arange(1024).remainder(256).to(torch.uint8)[: 28 * 28].reshape(1, 28, 28)
    assert_normalised_as_torchvision(datasets.Images(images=levels, labels=torch.zeros(1, dtype=torch.int64)), [0])


def test_normalising_leaves_the_images_as_they_were(digits):
    before = digits.test.images.clone()
    digits.test.normalised()
    assert torch.equal(before, digits.test.images)


# --- batches


@pytest.fixture
def part(digits):
    return datasets.Images(images=digits.train.images[:250], labels=digits.train.labels[:250])


def test_memory_and_dataloader_give_the_same_bits_in_the_same_order(part):
    order = datasets.batch_order(0, 0, 250)
    from_memory = raw(*datasets.memory_batches(part.normalised(), part.labels, order, 100))
    assert from_memory == raw(*datasets.dataloader_batches(part, order, 100, torch.device("cpu")))


def test_batches_follow_the_order_and_the_last_may_be_short(part):
    x, y = part.normalised(), part.labels
    order = datasets.batch_order(3, 1, 250)
    expected = [(x[order[start : start + 100]], y[order[start : start + 100]]) for start in (0, 100, 200)]
    batches = list(datasets.memory_batches(x, y, order, 100))
    assert [len(labels) for _, labels in batches] == [100, 100, 50]
    assert raw(*expected) == raw(*batches)


@given(st.integers(0, 2**63 - 1), st.integers(0, 1000), st.integers(1, 2000))
def test_batch_order_is_a_permutation_that_depends_on_its_arguments_alone(seed, epoch, num_samples):
    order = datasets.batch_order(seed, epoch, num_samples)
    torch.rand(1)  # somebody else's use of the global generator
    assert list(range(num_samples)) == sorted(order.tolist())
    assert torch.equal(order, datasets.batch_order(seed, epoch, num_samples))


@given(st.integers(0, 2**62), st.integers(0, 1000), st.integers(50, 2000))
def test_batch_order_differs_by_epoch_and_by_seed(seed, epoch, num_samples):
    order = datasets.batch_order(seed, epoch, num_samples)
    assert not torch.equal(order, datasets.batch_order(seed, epoch + 1, num_samples))
    assert not torch.equal(order, datasets.batch_order(seed + 1, epoch, num_samples))


def test_batch_order_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    datasets.batch_order(0, 0, 100)
    assert torch.equal(before, torch.get_rng_state())


# --- torchvision's data sets


@pytest.fixture
def from_mnist(mnist, monkeypatch):
    monkeypatch.setenv("MLPBENCH_DATA", str(mnist))
    return datasets.load("mnist")


@pytest.mark.mnist
def test_mnist_has_its_published_sizes_and_first_labels(from_mnist):
    assert ((60_000, 28, 28), torch.uint8) == (tuple(from_mnist.train.images.shape), from_mnist.train.images.dtype)
    assert ((10_000, 28, 28), torch.uint8) == (tuple(from_mnist.test.images.shape), from_mnist.test.images.dtype)
    assert torch.int64 == from_mnist.train.labels.dtype == from_mnist.test.labels.dtype
    assert from_mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert from_mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.mnist
@every_half
def test_normalised_mnist_has_the_bits_of_torchvisions_transforms(from_mnist, half):
    assert_normalised_as_torchvision(getattr(from_mnist, half), range(0, 10_000, 97))


@pytest.mark.mnist
@pytest.mark.parametrize(
    "corrupt",
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
)
def test_mnist_with_one_changed_byte_is_refused_by_the_files_name(mnist, tmp_path, monkeypatch, corrupt):
    shutil.copytree(mnist / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / corrupt
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match="not the published file") as caught:
        datasets.load("mnist")
    assert str(path) in str(caught.value)


def idx(shape, values):
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(values)


@pytest.fixture
def kmnist(tmp_path, monkeypatch):
    """Four small files in KMNIST's place, of which no digest is known."""
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for half in ("train", "t10k"):
        (folder / f"{half}-images-idx3-ubyte").write_bytes(idx((3, 28, 28), (n % 256 for n in range(3 * 784))))
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(idx((3,), (7, 0, 9)))
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    return folder


def test_files_are_read_as_they_are(kmnist):
    half = datasets.load("kmnist").train
    assert half.labels.tolist() == [7, 0, 9]
    assert half.images.flatten().tolist() == [n % 256 for n in range(3 * 784)]


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("byte", range(8))
@pytest.mark.parametrize("bit", range(8))
def test_a_damaged_header_is_refused_by_the_files_name(kmnist, name, byte, bit):
    content = bytearray((kmnist / name).read_bytes())
    content[byte] ^= 1 << bit
    (kmnist / name).write_bytes(content)
    with pytest.raises(InputError, match="damaged") as caught:
        datasets.load("kmnist")
    assert str(kmnist / name) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", idx((3,), (1, 2)), idx((3,), (1, 2, 3, 4)), idx((3,), (1, 2, 10))]
)
def test_labels_cut_short_too_long_or_out_of_range_are_refused(kmnist, content):
    (kmnist / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(InputError, match="train-labels-idx1-ubyte is damaged"):
        datasets.load("kmnist")


def test_images_and_labels_of_different_numbers_are_refused(kmnist):
    (kmnist / "t10k-labels-idx1-ubyte").write_bytes(idx((2,), (7, 0)))
    with pytest.raises(InputError, match="differ in number"):
        datasets.load("kmnist")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)


def assert_is_one_line_that_helps(message, folder):
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    assert "dataset=digits" in message
    assert "MLPBENCH_DATA" in message


@pytest.mark.parametrize("name", FROM_THE_NETWORK)
def test_absent_data_without_network_names_the_folder_and_the_digits(name, tmp_path, monkeypatch, offline, capsys):
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match="could not be downloaded") as caught:
        datasets.load(name)
    assert_is_one_line_that_helps(str(caught.value), tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", FROM_THE_NETWORK)
def test_a_folder_that_cannot_be_made_is_named_along_with_the_digits(name, tmp_path, monkeypatch, offline):
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("MLPBENCH_DATA", str(file))
    with pytest.raises(InputError, match=r"no \w+ in ") as caught:
        datasets.load(name)
    assert_is_one_line_that_helps(str(caught.value), file)


def test_unknown_data_set_is_named_along_with_the_known_ones():
    with pytest.raises(InputError, match="unknown dataset 'mist'; known: digits, mnist, fashion_mnist, kmnist"):
        datasets.load("mist")


@pytest.mark.parametrize("value", [None, ""])
def test_data_is_kept_in_the_users_cache_unless_told_otherwise(value, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("MLPBENCH_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("MLPBENCH_DATA", value)
    assert tmp_path / ".cache" / "mlpbench" == datasets.data_dir()


def test_data_is_kept_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    assert tmp_path == datasets.data_dir()
