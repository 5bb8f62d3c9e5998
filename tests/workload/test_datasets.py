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

# The test set has every seventh original, beginning with the first. The training set has the other 1,540, in order.
ORIGINALS = {
    "train": [index for index in range(1797) if index % 7 != 0],
    "test": [index for index in range(1797) if index % 7 == 0],
}

FROM_THE_NETWORK = [name for name in datasets.DATASETS if name != "digits"]

each_part = pytest.mark.parametrize("part", ["train", "test"])


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def enlarged(small):
    """Return 20x20 pixels of 0 to 255 for 8x8 pixels of 0 to 16.

    The interpolation is linear between pixel centres, and constant beyond the outer centres. 0.5 is rounded up.
    """

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


@each_part
def test_digits_have_mnists_shapes_dtypes_classes_and_range(digits, part):
    images, labels = getattr(digits, part).images, getattr(digits, part).labels
    num_images = {"train": 60_000, "test": 10_000}[part]
    assert ((num_images, 28, 28), torch.uint8) == (tuple(images.shape), images.dtype)
    assert ((num_images,), torch.int64) == (tuple(labels.shape), labels.dtype)
    assert list(range(10)) == labels.unique().tolist()
    assert (images.min().item(), images.max().item()) == (0, 255)


@each_part
def test_classes_of_digits_are_balanced(digits, part):
    labels = getattr(digits, part).labels
    counts = labels.bincount() / len(labels)
    assert 0.08 < counts.min().item() <= counts.max().item() < 0.13


def test_no_test_image_is_a_shifted_training_image(digits):
    boxes = {}
    for part in ("train", "test"):
        cropped = (bounding_box(image) for image in getattr(digits, part).images.numpy())
        boxes[part] = {(box.shape, box.tobytes()) for box in cropped}
    assert len(ORIGINALS["test"]) <= len(boxes["test"])
    assert set() == boxes["train"] & boxes["test"]


def test_digits_are_the_same_every_time(digits):
    again = datasets.DATASETS["digits"]()
    assert again is not digits
    for part in ("train", "test"):
        assert torch.equal(getattr(digits, part).images, getattr(again, part).images)
        assert torch.equal(getattr(digits, part).labels, getattr(again, part).labels)


def test_data_set_is_read_once():
    assert datasets.load("digits") is datasets.load("digits")


@each_part
@pytest.mark.parametrize("index", [0, 1, 100, 256])
def test_first_digits_are_the_originals_enlarged_by_exact_arithmetic(digits, part, index):
    originals = load_digits()
    original = ORIGINALS[part][index]
    expected = np.zeros((28, 28), dtype=int)
    expected[4:24, 4:24] = enlarged(originals.images[original].tolist())
    assert expected.tolist() == getattr(digits, part).images[index].tolist()
    assert originals.target[original] == getattr(digits, part).labels[index].item()


@each_part
def test_digits_repeat_the_originals_under_39_smallest_shifts(digits, part):
    images, labels = getattr(digits, part).images.numpy(), getattr(digits, part).labels
    num_originals = len(ORIGINALS[part])
    shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    matches = []
    for start in range(0, len(images), num_originals):
        copies = images[start : start + num_originals]
        firsts = images[: len(copies)]
        matches += [shift for shift in shifts if np.array_equal(np.roll(firsts, shift, axis=(1, 2)), copies)]
        assert torch.equal(labels[: len(copies)], labels[start : start + len(copies)])
    assert 39 == len(matches) == len(set(matches))
    lengths = [dy**2 + dx**2 for dy, dx in matches]
    assert sorted(dy**2 + dx**2 for dy, dx in shifts)[:39] == lengths


# --- normalisation


def assert_normalised_as_torchvision(part, indices):
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (1.0,))])
    normalised = part.normalised()
    assert ((len(part.labels), 784), torch.float32) == (tuple(normalised.shape), normalised.dtype)
    for index in indices:
        expected = transform(transforms.functional.to_pil_image(part.images[index]))
        assert expected.numpy().tobytes() == normalised[index].numpy().tobytes()


@each_part
def test_normalised_digits_have_the_bits_of_torchvision(digits, part):
    assert_normalised_as_torchvision(getattr(digits, part), range(0, 10_000, 97))


def test_every_normalised_grey_level_has_the_bits_of_torchvision():
    levels = torch.arange(1024).remainder(256).to(torch.uint8)[: 28 * 28].reshape(1, 28, 28)
    assert_normalised_as_torchvision(datasets.Images(images=levels, labels=torch.zeros(1, dtype=torch.int64)), [0])


def test_normalising_does_not_change_the_images(digits):
    before = digits.test.images.clone()
    digits.test.normalised()
    assert torch.equal(before, digits.test.images)


# --- batches


@pytest.fixture
def images(digits):
    return datasets.Images(images=digits.train.images[:250], labels=digits.train.labels[:250])


def test_memory_and_dataloader_give_the_same_bits_in_the_same_order(images):
    order = datasets.batch_order(0, 0, 250)
    from_memory = raw(*datasets.memory_batches(images.normalised(), images.labels, order, 100))
    assert from_memory == raw(*datasets.dataloader_batches(images, order, 100, torch.device("cpu")))


def test_batches_follow_the_order_and_the_last_may_be_short(images):
    x, y = images.normalised(), images.labels
    order = datasets.batch_order(3, 1, 250)
    expected = [(x[order[start : start + 100]], y[order[start : start + 100]]) for start in (0, 100, 200)]
    batches = list(datasets.memory_batches(x, y, order, 100))
    assert [len(labels) for _, labels in batches] == [100, 100, 50]
    assert raw(*expected) == raw(*batches)


@given(st.integers(0, 2**63 - 1), st.integers(0, 1000), st.integers(1, 2000))
def test_batch_order_is_a_permutation_by_its_arguments_only(seed, epoch, num_samples):
    order = datasets.batch_order(seed, epoch, num_samples)
    # Another use of the global generator must not matter.
    torch.rand(1)
    assert list(range(num_samples)) == sorted(order.tolist())
    assert torch.equal(order, datasets.batch_order(seed, epoch, num_samples))


@given(st.integers(0, 2**62), st.integers(0, 1000), st.integers(50, 2000))
def test_batch_order_differs_by_epoch_and_by_seed(seed, epoch, num_samples):
    order = datasets.batch_order(seed, epoch, num_samples)
    assert not torch.equal(order, datasets.batch_order(seed, epoch + 1, num_samples))
    assert not torch.equal(order, datasets.batch_order(seed + 1, epoch, num_samples))


def test_batch_order_does_not_change_the_global_generator():
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
@each_part
def test_normalised_mnist_has_the_bits_of_torchvision(from_mnist, part):
    assert_normalised_as_torchvision(getattr(from_mnist, part), range(0, 10_000, 97))


@pytest.mark.mnist
@pytest.mark.parametrize(
    "corrupt",
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
)
def test_mnist_with_one_changed_bit_raises_with_the_path(mnist, tmp_path, monkeypatch, corrupt):
    shutil.copytree(mnist / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / corrupt
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match="differs from the published file") as error:
        datasets.load("mnist")
    assert str(path) in str(error.value)


def idx(shape, values):
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(values)


@pytest.fixture
def kmnist(tmp_path, monkeypatch):
    """Return a folder with four small files in place of KMNIST, whose digests mlpbench does not check."""
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx((3, 28, 28), (n % 256 for n in range(3 * 784))))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((3,), (7, 0, 9)))
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    return folder


def test_files_are_read_unchanged(kmnist):
    train = datasets.load("kmnist").train
    assert train.labels.tolist() == [7, 0, 9]
    assert train.images.flatten().tolist() == [n % 256 for n in range(3 * 784)]


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("byte", range(8))
@pytest.mark.parametrize("bit", range(8))
def test_damaged_header_raises_with_the_path(kmnist, name, byte, bit):
    content = bytearray((kmnist / name).read_bytes())
    content[byte] ^= 1 << bit
    (kmnist / name).write_bytes(content)
    with pytest.raises(InputError, match="damaged") as error:
        datasets.load("kmnist")
    assert str(kmnist / name) in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", idx((3,), (1, 2)), idx((3,), (1, 2, 3, 4)), idx((3,), (1, 2, 10))]
)
def test_labels_too_few_too_many_or_out_of_range_raise(kmnist, content):
    (kmnist / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(InputError, match="train-labels-idx1-ubyte is damaged"):
        datasets.load("kmnist")


def test_different_numbers_of_images_and_labels_raise(kmnist):
    (kmnist / "t10k-labels-idx1-ubyte").write_bytes(idx((2,), (7, 0)))
    with pytest.raises(InputError, match="differ in number"):
        datasets.load("kmnist")


@pytest.fixture
def offline(monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)


def assert_is_one_line_of_advice(message, folder):
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    assert "dataset=digits" in message
    assert "MLPBENCH_DATA" in message


@pytest.mark.parametrize("name", FROM_THE_NETWORK)
def test_missing_data_without_network_raises_one_line_of_advice(name, tmp_path, monkeypatch, offline, capsys):
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match="the download failed") as error:
        datasets.load(name)
    assert_is_one_line_of_advice(str(error.value), tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", FROM_THE_NETWORK)
def test_folder_that_cannot_be_created_raises_one_line_of_advice(name, tmp_path, monkeypatch, offline):
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("MLPBENCH_DATA", str(file))
    with pytest.raises(InputError, match=r"no \w+ in ") as error:
        datasets.load(name)
    assert_is_one_line_of_advice(str(error.value), file)


def test_unknown_data_set_raises_with_the_known_data_sets():
    with pytest.raises(InputError, match="unknown dataset 'mist'; known: digits, mnist, fashion_mnist, kmnist"):
        datasets.load("mist")


@pytest.mark.parametrize("value", [None, ""])
def test_data_folder_is_in_the_users_cache_by_default(value, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("MLPBENCH_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("MLPBENCH_DATA", value)
    assert tmp_path / ".cache" / "mlpbench" == datasets.data_dir()


def test_data_folder_follows_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MLPBENCH_DATA", str(tmp_path))
    assert tmp_path == datasets.data_dir()
