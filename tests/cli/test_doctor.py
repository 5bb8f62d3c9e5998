"""Run `mlpbench doctor` on hand-made examinations, and check its lines and exit codes."""

import subprocess

import pytest
import torch

from mlpbench.certifying import doctor, probes
from mlpbench.certifying.doctor import AS_IT_IS
from mlpbench.certifying.examination import UNAVAILABLE, Examination, Reading
from mlpbench.certifying.probes import PROBES, Probe
from mlpbench.cli.main import main
from mlpbench.engines.portable import known_answers
from tests.certifying.readings import SETTING, examination, reading

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def here() -> Reading:
    return doctor._read_under(AS_IT_IS, CPU, 2)


@pytest.fixture
def report(monkeypatch, capsys):
    """Return a function that gives the exit code and the lines of the verb for an examination."""

    def run(given: Examination) -> tuple[int, list[str]]:
        monkeypatch.setattr(doctor, "examine", lambda device, *, quick: given)
        return main(["doctor", "--quick"]), capsys.readouterr().out.splitlines()

    return run


def line(lines: list[str], start: str) -> str:
    """Return the only line that begins like this."""
    (match,) = [line for line in lines if line.startswith(start)]
    return match


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, RuntimeError, TypeError])
@pytest.mark.slow
def test_unavailable_operation_is_reported_and_is_no_defect(monkeypatch, report, here, error):
    def fail(_draw):
        raise error

    lacking = Probe("exact", "-", fail, (torch.float32,))
    monkeypatch.setattr(doctor, "PROBES", {"exp": lacking, "add/sub": PROBES["add/sub"]})
    digests = doctor.digests(CPU)
    assert digests["exp float32"] == UNAVAILABLE
    assert digests["add/sub float32"] == here.one_thread["add/sub float32"]
    code, lines = report(examination(Reading(one_thread=digests, several_threads=digests)))
    assert line(lines, "?") == "? not available here, or not in the table: exp (float32)"
    # add/sub is wrong, because the table is hand-made.
    assert "exp" not in line(lines, "✗ the arithmetic is wrong")
    assert code == 1


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (examination(reading()), 0),
        (examination(reading(["exp float32", "mm float64"], ["sum float32"])), 0),
        (examination(reading(["add/sub float32"])), 1),
        (examination(reading([], ["sum of gridded numbers"])), 1),
        (examination(reading(), answers=(False, True, True)), 1),
    ],
)
def test_exit_code_is_1_if_the_arithmetic_is_wrong(report, given, code):
    assert report(given)[0] == code


def test_report_without_differences_has_only_check_marks(report):
    _, lines = report(examination(reading()))
    assert [text for text in lines if text.startswith(("≠", "✗", "?"))] == []
    assert sum(text.startswith("✓") for text in lines) == 3 + len(probes.KINDS) + 1
    assert "reference table: torch 2.99, num threads 1" in lines


def test_differences_are_named_with_reason_and_consequence(report):
    different = ["exp float32", "exp float64", "sqrt float64", "elu of a batch float32"]
    _, lines = report(examination(reading(different, ["gradient of weights float32"])))
    functions = line(lines, "≠ functions")
    assert "4 of" in functions
    assert "exp, sqrt (float64), elu of a batch (float32); every library approximates them" in functions
    assert line(lines, "  sqrt") == "  sqrt: MKL's square root is not always the nearest number"
    assert line(lines, "  -> a default run gives other bits").endswith("at the earliest in: ELU")
    assert "gradient of weights (float32)" in line(lines, "≠ 1 of")
    assert line(lines, "  -> a default run depends on the thread count").endswith("at the earliest in: the gradients")
    assert line(lines, "     to fix the thread count").endswith("--set num_threads=N")


def test_wrong_exact_operation_is_reported_with_advice(report):
    _, lines = report(examination(reading(["mul/pow(2) float32"])))
    assert "mul/pow(2) (float32)" in line(lines, "✗ exact operations")
    expected = "✗ the arithmetic is wrong on this machine: mul/pow(2) (float32)"
    assert line(lines, "✗ the arithmetic is wrong") == expected
    assert any("LD_PRELOAD" in text for text in lines)
    assert not any("--set engine=portable" in text for text in lines)


@pytest.mark.parametrize(
    ("after", "first", "others"),
    [
        (reading(["mm float32"], ["linear float32"]), "- {}: changes no bits on this machine", []),
        (reading(["mm float32", "sin float32"], ["linear float32"]), "- {}: no benefit on this machine",
         ["but no longer equal to the reference machine"]),
        (reading(), "✓ {}: helps",
         ["no longer depend on the thread count: linear (float32)", "now equal to the reference machine",
          "-> with it, a default run no longer depends on the thread count"]),
        (reading([], ["Linear's initial parameters float32"]), "- {}: makes a default run worse",
         ["now equal to the reference machine", "but now depend on the thread count",
          "at the earliest in: the initial parameters"]),
        (reading(["mul/pow(2) float32"]), "✗ {}: helps", ["wrong, because there is only one right result: mul/pow"]),
    ],
)  # fmt: skip
def test_effect_of_each_setting_is_reported(report, after, first, others):
    before = reading(["mm float32"], ["linear float32"])
    _, lines = report(examination(before, {SETTING: after}))
    start = lines.index(first.format(SETTING))
    details = "\n".join(text for text in lines[start + 1 :] if text.startswith("    "))
    assert [text for text in others if text not in details] == []


def test_quick_reads_this_machine_without_any_setting(monkeypatch, capsys, here):
    names = []
    monkeypatch.setattr(doctor, "_read_under", lambda setting, *_: names.append(setting) or here)
    assert main(["doctor", "--quick"]) == 0
    assert names == [AS_IT_IS]
    lines = capsys.readouterr().out.splitlines()
    assert {"✓ grid", "✓ functions", "✓ steps"} <= set(lines)
    assert line(lines, "✓ exact operations").endswith(" equal")
    assert f"torch {torch.__version__}" in line(lines, "this machine: ")
    assert line(lines, "  -> for the same bits on every machine").endswith("--set engine=portable")


def test_every_setting_is_read(monkeypatch, capsys, here):
    names = []
    monkeypatch.setattr(doctor, "_read_under", lambda setting, *_: names.append(setting) or here)
    assert main(["doctor"]) == 0
    assert names == [AS_IT_IS, *doctor.settings()]
    lines = capsys.readouterr().out.splitlines()
    assert [setting for setting in doctor.settings() if not any(f" {setting}: " in text for text in lines)] == []


def test_wrong_known_answer_is_named(monkeypatch, capsys, here):
    monkeypatch.setattr(doctor, "_read_under", lambda *_: here)
    monkeypatch.setitem(known_answers.ANSWERS, "steps", "0" * 64)
    assert main(["doctor", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert line(lines, "✗ steps").startswith("✗ steps: wrong")
    assert line(lines, "✗ the arithmetic is wrong").endswith(": known answer of steps")


def test_flush_to_zero_is_found(monkeypatch, capsys, restore_threads):
    monkeypatch.setattr(doctor, "PROBES", {name: PROBES[name] for name in ("mul/pow(2)", "exp", "subnormal numbers")})
    monkeypatch.setattr(doctor, "_read_under", doctor.read)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush to zero")
    try:
        code = main(["doctor", "--quick"])
    finally:
        torch.set_flush_denormal(False)
    assert code == 1
    wrong = line(capsys.readouterr().out.splitlines(), "✗ the arithmetic is wrong")
    assert wrong == "✗ the arithmetic is wrong on this machine: known answer of grid, subnormal numbers"


def test_unknown_device_is_bad_input(capsys):
    assert main(["doctor", "--device", "tpu"]) == 2
    assert "unknown device 'tpu'" in capsys.readouterr().err


@pytest.mark.parametrize(("errors", "message"), [("warning\nno memory\n", "no memory"), ("", "exit code -4")])
def test_process_that_fails_is_bad_input_with_its_last_line(monkeypatch, capsys, errors, message):
    monkeypatch.setattr(subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, -4, "", errors))
    assert main(["doctor", "--quick"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mlpbench: doctor: the process that reads PyTorch's bits failed (setting: as it is): ")
    assert message in error
