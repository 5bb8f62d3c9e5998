"""Check the known answers before every run: every machine that computes `portable/1` correctly gets them.

Section 7 of docs/portable-format.md defines them.
"""

import hashlib

import torch
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.errors import InputError

ANSWERS = {
    "grid": "988fa03c27c841782c98b6ae8e969e3b9fa57df02d199447358e05a5f526632f",
    "products": "f41f64ebdd071950d8f7df9cd640b1a4f87f41dce489cdc9a6e494dab44c237f",
    "functions": "51a821c0ea415fdf6367cc66ef5014c31d6f8694d4d0147da05a346c8475e107",
    "steps": "2953b332b6b66a75044e6a1bdfe7efa4bf6823bb99ecce406c506e536889f6cb",
}
"""SHA-256 of the numbers of each part, as float64, little-endian."""


def check(device: torch.device) -> None:
    """Compute the numbers of section 7 of docs/portable-format.md, and compare. This takes some milliseconds.

    Raises:
        InputError: if an answer is different.
    """
    for part, expected in ANSWERS.items():
        if answer(part, device) != expected:
            raise InputError(
                f"engine portable: on {device} the known answer of {part} is wrong; something changes how float64 is "
                "computed here (flush to zero, unsafe compiler flags, a defect): run `mlpbench doctor`"
            )


def answer(part: str, device: torch.device) -> str:
    """Return the digest of one part of the known answers."""
    numbers = _PARTS[part](device)
    # Adding zero turns -0.0 into 0.0.
    flat = torch.cat([tensor.to(torch.float64).flatten() for tensor in numbers]).add_(0.0)
    return hashlib.sha256(flat.cpu().numpy().astype("<f8").tobytes()).hexdigest()


def _range(start: int, stop: int, divisor: float, device: torch.device) -> Tensor:
    return portable.divided(torch.arange(start, stop, dtype=torch.float64, device=device), divisor)


def _grid_answer(device: torch.device) -> list[Tensor]:
    tiny = _range(0, 100, 2.0**148, device).to(torch.float32)
    return [portable.snap(_range(-504, 505, 37, device), 21), portable.snap(_range(-8, 9, 16, device), 2), tiny]


def _products_answer(device: torch.device) -> list[Tensor]:
    """Return sums of as many and as large terms as a run may have. A fast but inexact product gets them wrong."""
    i, k, j = (torch.arange(n, device=device) for n in (128, 2048, 128))
    a = (i[:, None] * 65537 + k * 7919) % (2**22 + 1) - 2**21
    b = (k[:, None] * 104729 + j * 50021) % (2**22 + 1) - 2**21
    # Here all terms have one sign.
    b[:, 0] = a[0].sign() * 2**21
    return [torch.mm(a.to(torch.float64), b.to(torch.float64))]


def _functions_answer(device: torch.device) -> list[Tensor]:
    return [
        portable.exp(_range(-4000, 1, 97, device)),
        portable.tanh(_range(-2000, 2001, 97, device)),
        portable.log(_range(7, 1000, 7, device)),
        portable.sqrt32(_range(0, 1000, 7, device).to(torch.float32)),
    ]


def _steps_answer(device: torch.device) -> list[Tensor]:
    config = RunConfig(hidden_sizes=(5, 4), activations=("elu", "tanh"), batch_size=7, optimizer="nesterov", lr=0.5)
    parameters = [p.to(device) for p in portable.initial_parameters(0, (6, 5, 4, 3)).values()]
    network = portable.Network(parameters, config)
    x = (torch.arange(42) * 37 % 256).to(torch.float32).div_(255).sub_(0.5).reshape(7, 6).to(device)
    y = torch.arange(7, device=device) % 3
    losses = []
    for _ in range(3):
        losses.append(network.loss(x, y)[0])
        network.backward()
        network.update()
    return [torch.stack(losses), *parameters]


_PARTS = {
    "grid": _grid_answer,
    "products": _products_answer,
    "functions": _functions_answer,
    "steps": _steps_answer,
}
