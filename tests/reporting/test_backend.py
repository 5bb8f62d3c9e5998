"""Figures are files: no choice of a window system, and no style file, of the user matters."""

import os
import subprocess
import sys

import pytest

DRAW = """
import os
from mlpbench.reporting.figures import activations, canvas
import matplotlib
print(len(canvas.png(activations.activation_functions())) > 1000, os.environ.get("MPLBACKEND"))
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline_that_is_absent"},
        {"MPLBACKEND": "no such backend"},
        {"MPLBACKEND": "qtagg"},
        {"MATPLOTLIBRC": "/nowhere/matplotlibrc"},
        {"MATPLOTLIBRC": "STYLE"},
    ],
)
def test_backend_and_style_file_of_the_user_do_not_matter(settings, tmp_path):
    style = tmp_path / "matplotlibrc"
    style.write_bytes(b"text.usetex: True\nbackend: nosuch\nfont.family: nosuch\n\xff\xfe")
    settings = {name: value.replace("STYLE", str(style)) for name, value in settings.items()}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRAW],
        capture_output=True, text=True, check=False, env=os.environ | settings,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("True")


def test_choice_of_the_user_is_there_again_for_other_programs():
    process = subprocess.run(
        [sys.executable, "-c", DRAW],
        capture_output=True, text=True, check=True, env=os.environ | {"MPLBACKEND": "nosuch"},
    )  # fmt: skip
    assert process.stdout.split() == ["True", "nosuch"]
