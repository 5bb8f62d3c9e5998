"""A checkpoint gives back every bit of a state, and a file that is damaged or of another program is refused."""

import hashlib
import io
import math
import pickle
import struct

import numpy as np
import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.errors import InputError, OutputError
from mlpbench.training import checkpoint
from mlpbench.training.checkpoint import Checkpoint, path_of, read, remove, state_digest, write
from tests import strategies

STATE = {
    "num_epochs": 2,
    "engine": {
        "model": {"weight": torch.tensor([[1.5, -0.0], [math.nan, math.inf]]), "steps": torch.tensor(7)},
        "optimizer": {"state": {0: {"m": torch.zeros(0), "flags": (True, None)}}, "groups": [{"lr": 0.1, "name": "é"}]},
        "double": torch.tensor([0.1, 5e-324], dtype=torch.float64),
    },
}


def example(state=STATE, **changes) -> Checkpoint:
    config = RunConfig(num_epochs=6)
    epochs = (strategies.epoch(0), strategies.epoch(1))
    defaults = {"run": "s", "config": config, "stack": {"torch": {"torch": "2.15.0"}}, "epochs": epochs}
    return Checkpoint(state=state, **defaults | changes)


@pytest.fixture
def path(tmp_path):
    return path_of(tmp_path, "s", RunConfig(num_epochs=6))


def bits(value):
    """Return a state with the bytes of each tensor in its place."""
    match value:
        case torch.Tensor():
            return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
        case dict():
            return {key: bits(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(bits, value))
        case _:
            return value


def test_checkpoint_gives_back_every_bit(path):
    write(path, example())
    loaded = read(path)
    assert bits(loaded.state) == bits(STATE)
    assert (loaded.run, loaded.config, loaded.stack) == ("s", RunConfig(num_epochs=6), {"torch": {"torch": "2.15.0"}})
    assert loaded.epochs == (strategies.epoch(0), strategies.epoch(1))


def test_tensors_with_other_strides_keep_their_values(path):
    tensor = torch.arange(6.0).reshape(2, 3).t()
    write(path, example({"x": tensor}))
    assert torch.equal(read(path).state["x"], tensor)


def test_digest_of_a_state_is_that_of_its_bits(path):
    write(path, example())
    assert state_digest(read(path).state) == state_digest(STATE)
    assert state_digest(STATE | {"num_epochs": 3}) != state_digest(STATE)
    assert state_digest({"x": torch.zeros(2)}) != state_digest({"x": torch.tensor([0, 1e-45])})
    assert state_digest({"x": torch.zeros(2)}) != state_digest({"y": torch.zeros(2)})


def test_second_checkpoint_replaces_the_first_and_leaves_one_file(path):
    write(path, example())
    write(path, example(run="t"))
    assert read(path).run == "t"
    assert list(path.parent.iterdir()) == [path]


def test_removed_checkpoint_leaves_no_draft_and_no_folder(path):
    write(path, example())
    # A process that was killed while it wrote has left this.
    (path.parent / f".{path.name}.x1.tmp").write_bytes(b"")
    remove(path)
    assert not path.parent.exists()
    remove(path)


def test_checkpoints_of_other_runs_stay(path):
    write(path, example())
    other = path_of(path.parent.parent, "t", RunConfig(num_epochs=6))
    write(other, example())
    remove(path)
    assert list(path.parent.iterdir()) == [other]


@pytest.mark.parametrize("run", ["../../x", "a/b", "s\x00"])
def test_id_of_a_run_cannot_name_another_folder(tmp_path, run):
    assert path_of(tmp_path, run, RunConfig()).parent == tmp_path / checkpoint.FOLDER


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.float64(1)])
def test_value_that_cannot_be_stored_is_refused_before_anything_is_written(path, value):
    with pytest.raises(InputError, match=f"a value of type {type(value).__name__} in the state of the run"):
        write(path, example({"x": [value]}))
    assert not path.parent.exists()


# --- damaged and foreign files


def flipped(content: bytes, place: float) -> bytes:
    index = int(place * (len(content) - 1))
    return content[:index] + bytes([content[index] ^ 4]) + content[index + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda c, p=p: flipped(c, p) for p in (0.0, 0.02, 0.1, 0.5, 0.9, 1.0)),
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"",
        lambda content: b"\n",
    ],
)
def test_every_damage_is_refused_in_one_line(path, damage):
    write(path, example())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"is damaged|is not a checkpoint") as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def sealed(content: bytes) -> bytes:
    return f"mlpbench checkpoint 1 {hashlib.sha256(content).hexdigest()}\n".encode() + content


def pickled() -> bytes:
    arrays = io.BytesIO()
    np.savez(arrays, np.array([{"a": 1}], dtype=object))
    return arrays.getvalue()


HEAD = b'{"run":"s","config":%s,"stack":{},"epochs":[],"state":%s}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]\n",
        b"{}\n",
        b'{"run":1}\n',
        HEAD % (b"{}", b"1") + b"no zip",
        HEAD % (b"{}", b'{"tensor":9}') + pickled(),
        b"\xff\xfe\n",
        pickle.dumps({"run": "s"}),
        struct.pack("<q", 5),
    ],
)
def test_file_with_a_right_seal_but_other_content_is_refused(path, content):
    path.parent.mkdir()
    path.write_bytes(sealed(content))
    with pytest.raises(InputError, match="is not a whole checkpoint"):
        read(path)


def test_missing_file_and_full_disk_are_one_line(path, monkeypatch):
    with pytest.raises(InputError, match=r"^cannot read .*No such file"):
        read(path)
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        write(path, example())


def test_configs_with_a_checkpoint_of_any_run_are_counted(path, tmp_path):
    configs = [RunConfig(num_epochs=6), RunConfig(num_epochs=6, seed=1)]
    assert checkpoint.num_left(tmp_path, configs) == 0
    write(path, example())
    write(path_of(tmp_path, "t", RunConfig(num_epochs=6)), example())
    assert checkpoint.num_left(tmp_path, configs) == 1
