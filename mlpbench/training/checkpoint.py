"""Store the state of a training run in a file, from which the run can go on after an interruption.

The first line of a file names the format, and has the SHA-256 of the rest. The second line is JSON: the run, its stack,
its epochs so far, and the plain values of the state. Then follow the tensors, as NumPy's `npz`. No part is executed
when a file is read.
"""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.records import files
from mlpbench.records.codec import DamageError, plain, typed
from mlpbench.records.kinds import EpochResult
from mlpbench.workload.digest import digest

FOLDER = "checkpoints"
"""The name of the folder beside a machine's results."""
_FORMAT = "mlpbench checkpoint 1"
_PLAIN = (bool, int, float, str, type(None))
State = dict[str, Any]
Stack = dict[str, dict[str, str]]
"""Facts by name, by the part of the stack that they belong to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Hold the state of a run after its last epoch so far."""

    run: str
    """The `run` of its sessions."""
    config: RunConfig
    stack: Stack
    """The facts that can change a bit; see `resume.stack`."""
    epochs: tuple[EpochResult, ...]
    state: State


def path_of(root: Path, run: str, config: RunConfig) -> Path:
    """Return the path of a run's checkpoint in the folder `root` of a machine."""
    # An id from a damaged file must not name another folder.
    safe = "".join(c for c in run if c.isascii() and c.isalnum())
    return root / FOLDER / f"{safe}-{_key(config)}.ckpt"


def _key(config: RunConfig) -> str:
    return hashlib.sha256(json.dumps(plain(config)).encode()).hexdigest()[:12]


def num_left(root: Path, configs: Iterable[RunConfig]) -> int:
    """Return how many of the configs have a checkpoint of any run in the folder `root` of a machine."""
    keys = {path.stem.rpartition("-")[2] for path in root.glob(f"{FOLDER}/*.ckpt")}
    return sum(_key(config) in keys for config in configs)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint: the old one is replaced completely or not at all.

    Raises:
        InputError: if the state has a value that cannot be stored, or the file cannot be written.
    """
    tensors: list[Tensor] = []
    head = {
        "run": checkpoint.run,
        "config": plain(checkpoint.config),
        "stack": checkpoint.stack,
        "epochs": [plain(epoch) for epoch in checkpoint.epochs],
        "state": _described(checkpoint.state, tensors),
    }
    arrays = io.BytesIO()
    np.savez(arrays, *(tensor.detach().cpu().numpy() for tensor in tensors))
    content = json.dumps(head).encode() + b"\n" + arrays.getvalue()
    files.write(path, f"{_FORMAT} {hashlib.sha256(content).hexdigest()}\n".encode() + content)


def remove(path: Path) -> None:
    """Remove the checkpoint of a finished run, with drafts that killed processes have left, and its folder if empty."""
    with contextlib.suppress(OSError):
        for file in (path, *path.parent.glob(f".{path.name}.*")):
            file.unlink(missing_ok=True)
        path.parent.rmdir()


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: if the file cannot be read, is not a checkpoint, or was changed after it was written.
    """
    try:
        first, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if first != f"{_FORMAT} {hashlib.sha256(content).hexdigest()}".encode():
        is_ours = first.startswith(_FORMAT.encode())
        raise InputError(f"{path} is {'damaged' if is_ours else 'not a checkpoint that this mlpbench reads'}")
    try:
        line, _, arrays = content.partition(b"\n")
        head = json.loads(line)
        with np.load(io.BytesIO(arrays), allow_pickle=False) as stored:
            tensors = [torch.from_numpy(stored[f"arr_{i}"]) for i in range(len(stored.files))]
        return Checkpoint(
            run=typed(str, head["run"], "run"),
            config=typed(RunConfig, head["config"], "config"),
            stack={
                typed(str, part, "part"): {typed(str, n, "fact"): typed(str, value, n) for n, value in facts.items()}
                for part, facts in head["stack"].items()
            },
            epochs=tuple(typed(EpochResult, epoch, "epoch") for epoch in head["epochs"]),
            state=_restored(head["state"], tensors),
        )
    # A file with a right seal can be one that another program has made.
    except (LookupError, ValueError, TypeError, AttributeError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        reason = f": {error}" if isinstance(error, DamageError) else ""
        raise InputError(f"{path} is not a whole checkpoint{reason}") from None


def state_digest(state: State) -> str:
    """Return the digest of a state: of its tensors, and of its plain values.

    Raises:
        InputError: if the state has a value that cannot be stored.
    """
    tensors: list[Tensor] = []
    text = json.dumps(_described(state, tensors))
    named = {str(i): tensor for i, tensor in enumerate(tensors)}
    return digest(named | {"plain": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)})


def _described(value: Any, tensors: list[Tensor]) -> Any:
    """Return a value as JSON, with the numbers of its tensors, which are added to the list.

    A dict becomes a list of pairs, because its keys may be numbers.
    """
    match value:
        case Tensor():
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        case dict():
            return {"dict": [[_described(key, tensors), _described(item, tensors)] for key, item in value.items()]}
        case list() | tuple():
            return {type(value).__name__: [_described(item, tensors) for item in value]}
        case _ if type(value) in _PLAIN:
            return value
        case _:
            raise InputError(f"a value of type {type(value).__name__} in the state of the run cannot be stored")


def _restored(value: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the value that `_described` has described."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {_restored(key, tensors): _restored(item, tensors) for key, item in content}
        case "list" | "tuple":
            items = [_restored(item, tensors) for item in content]
            return tuple(items) if kind == "tuple" else items
        case _:
            raise KeyError(kind)
