"""`mlpbench doctor` tells a defect from a difference, and measures what it says about settings."""

import platform
import subprocess
from dataclasses import replace

import pytest
import torch

from mlpbench.certifying import doctor, probes
from mlpbench.certifying.doctor import AS_IT_IS, UNAVAILABLE, Examination, Reading, Table
from mlpbench.certifying.probes import PROBES, Probe
from mlpbench.cli.doctor import defects, differing, effect, first_stage, of_kind
from mlpbench.cli.main import main
from mlpbench.engines.portable import known_answers
from mlpbench.errors import InputError

CPU = torch.device("cpu")
READINGS = {reading: probe for name, probe in PROBES.items() for reading in probe.readings(name)}
EQUAL = dict.fromkeys(READINGS, "a")  # digests made by hand
SETTING = "MKL_CBWR=COMPATIBLE"


def reading(one=(), many=()) -> Reading:
    """By hand: what differs from EQUAL on one thread, and what differs again on several."""
    on_one = EQUAL | dict.fromkeys(one, "b")
    return Reading(one=on_one, many=on_one | dict.fromkeys(many, "c"))


def examination(here: Reading, under=None, answers=(True, True, True)) -> Examination:
    return Examination(
        table=Table(environment={"torch": "2.99", "num_threads": 1}, digests=EQUAL, under={SETTING: {}}),
        num_threads=2,
        answers=dict(zip(("grid", "functions", "steps"), answers, strict=True)),
        here=here,
        under=under or {},
    )


@pytest.fixture(scope="module")
def here() -> Reading:
    return doctor._read_under(AS_IT_IS, CPU, 2)


@pytest.fixture
def told(monkeypatch, capsys):
    """Exit code and lines of the verb, for an examination made by hand."""

    def tell(found: Examination) -> tuple[int, list[str]]:
        monkeypatch.setattr(doctor, "examine", lambda device, *, quick: found)
        return main(["doctor", "--quick"]), capsys.readouterr().out.splitlines()

    return tell


def line(lines: list[str], start: str) -> str:
    (found,) = [line for line in lines if line.startswith(start)]
    return found


def test_the_table_has_every_reading_and_no_other():
    table = doctor.table()
    assert list(table.digests) == list(READINGS)
    assert UNAVAILABLE not in table.digests.values()
    for changed in table.under.values():
        assert all(table.digests[name] != digest for name, digest in changed.items())


def test_the_table_names_no_host_user_or_path():
    environment = doctor.table().environment
    assert set(environment) == {"torch", "architecture", "cpu_model", "cpu_capability", "os", "num_threads"}
    assert not any("/" in str(value) or platform.node() == value for value in environment.values())


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_says_what_it_is(name):
    assert PROBES[name].kind in probes.KINDS
    assert PROBES[name].reason


def test_every_probe_runs_and_gives_the_same_bits_again(here, restore_threads):
    assert [name for name, digest in here.one.items() if digest == UNAVAILABLE] == []
    torch.set_num_threads(1)
    assert differing(here.one, doctor.digests(CPU)) == []


def test_exact_operations_have_the_bits_of_the_table_on_any_number_of_threads(here):
    exact = [name for name, probe in READINGS.items() if probe.kind == "exact"]
    assert len(exact) > 20
    table = doctor.table().digests
    assert {name: here.one[name] for name in exact} == {name: table[name] for name in exact}
    assert {name: here.many[name] for name in exact} == {name: table[name] for name in exact}


def test_numbers_are_full_of_bits_and_depend_on_no_generator_of_torch():
    for dtype, bits in ((torch.float32, 24), (torch.float64, 53)):
        torch.manual_seed(0)
        one = probes.Draw(dtype, CPU, 1000)()
        torch.manual_seed(1)
        assert torch.equal(one, probes.Draw(dtype, CPU, 1000)())
        mantissas = one.to(torch.float64).frexp().mantissa * 2.0**bits
        assert torch.equal(mantissas, mantissas.round())  # no more bits than the type has
        assert (mantissas.to(torch.int64) % 2 == 1).sum() > 300  # and many with its last
        assert 0 < one.abs().min() < one.abs().max() < 8


def test_a_probe_cannot_change_the_numbers_of_another():
    probes.Draw(torch.float64, CPU, 10)().zero_()
    assert probes.Draw(torch.float64, CPU, 10)().count_nonzero() == 10


def test_random_numbers_leave_the_generator_of_others_as_it_was(monkeypatch):
    monkeypatch.setattr(doctor, "PROBES", {name: probe for name, probe in PROBES.items() if probe.kind == "random"})
    state = torch.get_rng_state()
    doctor.digests(CPU)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, RuntimeError, TypeError])
def test_what_this_pytorch_cannot_do_is_told_and_is_no_defect(monkeypatch, told, here, error):
    def fail(_draw):
        raise error

    lacking = Probe("exact", "-", fail, (torch.float32,))
    monkeypatch.setattr(doctor, "PROBES", {"exp": lacking, "add/sub": PROBES["add/sub"]})
    found = doctor.digests(CPU)
    assert found["exp float32"] == UNAVAILABLE
    assert found["add/sub float32"] == here.one["add/sub float32"]
    code, lines = told(examination(Reading(one=found, many=found)))
    assert line(lines, "?") == "? not available here, or not in the table: exp (float32)"
    assert "exp" not in line(lines, "✗ the arithmetic fails here")  # add/sub does, of this table
    assert code == 1


def test_differing_leaves_out_what_only_one_has():
    one = {"a": "1", "b": "2", "c": "3", "d": UNAVAILABLE, "e": "5"}
    assert differing(one, {"a": "1", "b": "x", "c": UNAVAILABLE, "d": "4"}) == ["b"]


@pytest.mark.parametrize(
    ("readings", "stage"),
    [
        ([], None),
        (["exp float32", "elu of a batch float64"], None),
        (["SGD float32"], "the optimizer's step"),
        (["SGD float32", "tanh backward of a batch float32", "linear float32"], "a linear layer"),
        (["randperm"], "the order of the samples"),
        (["cross_entropy float32", "Linear's initial parameters float32"], "the initial parameters"),
    ],
)
def test_the_first_stage_is_the_earliest_of_a_default_run(readings, stage):
    assert {name for names in probes.STAGES.values() for name in names} <= PROBES.keys()
    assert first_stage(readings) == stage


def test_a_setting_is_compared_with_the_machine_as_it_is_and_with_the_table_under_it():
    table = Table(environment={}, digests=EQUAL, under={SETTING: {"exp float32": "x", "sin float32": "x"}})
    before = reading(["mm float32", "exp float32"], ["sum float32", "linear float32"])
    after = Reading(
        one=EQUAL | {"exp float32": "x", "mm float32": "y"},
        many=EQUAL | {"exp float32": "x", "mm float32": "y", "sum float32": "z", "var float32": "z"},
    )
    found = effect(SETTING, table, before, after)
    assert found.steadied == ["linear float32"]
    assert found.unsettled == ["var float32"]
    assert found.agreed == ["exp float32"]
    assert found.parted == ["sin float32"]
    assert (found.stage_before, found.stage) == ("a linear layer", None)
    assert found.broken == []


def test_nothing_is_said_about_the_table_under_a_setting_that_it_does_not_have():
    table = Table(environment={}, digests=EQUAL, under={})
    found = effect(SETTING, table, reading(["mm float32"]), reading(["exp float32"]))
    assert (found.agreed, found.parted) == ([], [])


def test_only_exact_operations_and_known_answers_are_defects():
    everything = [name for name, probe in READINGS.items() if probe.kind != "exact"]
    assert defects(examination(reading(everything, everything))) == []
    assert defects(examination(reading(), answers=(True, False, True))) == ["known answer of functions"]
    assert defects(examination(reading(["mul/pow(2) float32", "exp float32"]))) == ["mul/pow(2) float32"]
    assert defects(examination(reading([], ["mm of gridded numbers"]))) == ["mm of gridded numbers"]
    assert defects(examination(reading(), {SETTING: reading(["div/reciprocal float64"])})) == ["div/reciprocal float64"]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (examination(reading()), 0),
        (examination(reading(["exp float32", "mm float64"], ["sum float32"])), 0),
        (examination(reading(["add/sub float32"])), 1),
        (examination(reading([], ["sum of gridded numbers"])), 1),
        (examination(reading(), answers=(False, True, True)), 1),
    ],
)
def test_the_exit_code_says_whether_the_arithmetic_is_right(told, found, code):
    assert told(found)[0] == code


def test_without_a_difference_everything_is_the_same(told):
    _, lines = told(examination(reading()))
    assert [text for text in lines if text.startswith(("≠", "✗", "?"))] == []
    assert sum(text.startswith("✓") for text in lines) == 3 + len(probes.KINDS) + 1
    assert "table: torch 2.99, num threads 1" in lines


def test_differences_are_named_with_their_reason_and_what_follows(told):
    apart = ["exp float32", "exp float64", "sqrt float64", "elu of a batch float32"]
    _, lines = told(examination(reading(apart, ["gradient of weights float32"])))
    functions = line(lines, "≠ functions")
    assert "4 of" in functions
    assert "exp, sqrt (float64), elu of a batch (float32); every library approximates them" in functions
    assert line(lines, "  sqrt") == "  sqrt: MKL's square root is not always the nearest number"
    assert line(lines, "  -> a default run has other bits").endswith("at the earliest, ELU")
    assert "gradient of weights (float32)" in line(lines, "≠ 1 of")
    assert line(lines, "  -> a default run depends on it").endswith("the gradients; fix it with --set num_threads=N")


def test_a_wrong_exact_operation_is_told_with_what_to_do(told):
    _, lines = told(examination(reading(["mul/pow(2) float32"])))
    assert "mul/pow(2) (float32)" in line(lines, "✗ exact operations")
    assert line(lines, "✗ the arithmetic fails here") == "✗ the arithmetic fails here: mul/pow(2) (float32)"
    assert any("LD_PRELOAD" in text for text in lines)
    assert not any("--set engine=portable" in text for text in lines)


@pytest.mark.parametrize(
    ("after", "first", "others"),
    [
        (reading(["mm float32"], ["linear float32"]), "- {}: changes no bits here", []),
        (reading(["mm float32", "sin float32"], ["linear float32"]), "- {}: gains nothing here", ["but no longer as"]),
        (reading(), "✓ {}: helps",
         ["no longer depend on the number of threads: linear (float32)", "now as on the table's machine",
          "-> a default run then no longer depends on the number of threads"]),
        (reading([], ["Linear's initial parameters float32"]), "- {}: makes a default run worse",
         ["now as on the table's", "but now depend on", "at the earliest, the initial parameters"]),
        (reading(["mul/pow(2) float32"]), "✗ {}: helps", ["wrong, though there is one right answer: mul/pow"]),
    ],
)  # fmt: skip
def test_each_setting_says_what_it_changes(told, after, first, others):
    before = reading(["mm float32"], ["linear float32"])
    _, lines = told(examination(before, {SETTING: after}))
    start = lines.index(first.format(SETTING))
    told_of_it = "\n".join(text for text in lines[start + 1 :] if text.startswith("    "))
    assert [text for text in others if text not in told_of_it] == []


def test_quick_measures_this_machine_and_tries_no_setting(monkeypatch, capsys, here):
    tried = []
    monkeypatch.setattr(doctor, "_read_under", lambda setting, *_: tried.append(setting) or here)
    assert main(["doctor", "--quick"]) == 0
    assert tried == [AS_IT_IS]
    lines = capsys.readouterr().out.splitlines()
    assert {"✓ grid", "✓ functions", "✓ steps"} <= set(lines)
    assert line(lines, "✓ exact operations").endswith("the same")
    assert f"torch {torch.__version__}" in line(lines, "here: ")
    assert line(lines, "  -> the same bits on any machine").endswith("--set engine=portable")


def test_every_setting_is_tried(monkeypatch, capsys, here):
    tried = []
    monkeypatch.setattr(doctor, "_read_under", lambda setting, *_: tried.append(setting) or here)
    assert main(["doctor"]) == 0
    assert tried == [AS_IT_IS, *doctor.settings()]
    lines = capsys.readouterr().out.splitlines()
    assert [setting for setting in doctor.settings() if not any(f" {setting}: " in text for text in lines)] == []


def test_a_known_answer_that_does_not_come_out_is_named(monkeypatch, capsys, here):
    monkeypatch.setattr(doctor, "_read_under", lambda *_: here)
    monkeypatch.setitem(known_answers.ANSWERS, "steps", "0" * 64)
    assert main(["doctor", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert line(lines, "✗ steps").startswith("✗ steps: other numbers")
    assert line(lines, "✗ the arithmetic fails here").endswith(": known answer of steps")


def test_tables_that_are_not_the_published_ones_fail_a_known_answer(monkeypatch, here):
    def answer(part, device):
        raise InputError("the table of exp is not that of portable/1")

    monkeypatch.setattr(doctor, "_read_under", lambda *_: here)
    monkeypatch.setattr(known_answers, "answer", answer)
    assert not any(doctor.examine(CPU, quick=True).answers.values())


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
    wrong = line(capsys.readouterr().out.splitlines(), "✗ the arithmetic fails here")
    assert wrong == "✗ the arithmetic fails here: known answer of grid, subnormal numbers"


def test_a_device_that_is_not_there_is_bad_input(capsys):
    assert main(["doctor", "--device", "tpu"]) == 2
    assert "unknown device 'tpu'" in capsys.readouterr().err


def test_deterministic_algorithms_are_set_for_their_own_reading_alone(monkeypatch, restore_threads):
    is_set = []
    monkeypatch.setattr(doctor, "digests", lambda _: is_set.append(torch.are_deterministic_algorithms_enabled()) or {})
    for setting in (doctor.DETERMINISTIC, SETTING):
        doctor.read(setting, CPU, 2)
    assert is_set == [True, True, False, False]


def test_variables_are_set_for_the_new_process(monkeypatch):
    ran = {}

    def run(command, *, env, **options):
        ran.update(env, command=command)
        return subprocess.CompletedProcess(command, 0, 'a warning\n[{"a": "1"}, {"a": "2"}]\n', "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    found = doctor._read_under("ATEN_CPU_CAPABILITY=default MKL_CBWR=AVX2,STRICT", CPU, 3)
    assert found == Reading(one={"a": "1"}, many={"a": "2"})
    assert (ran["ATEN_CPU_CAPABILITY"], ran["MKL_CBWR"]) == ("default", "AVX2,STRICT")
    assert ran["command"][-2:] == ("cpu", "3")


@pytest.mark.parametrize(("errors", "told"), [("warning\nno memory\n", "no memory"), ("", "exit code -4")])
def test_a_process_that_fails_is_bad_input_with_its_last_words(monkeypatch, capsys, errors, told):
    monkeypatch.setattr(subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, -4, "", errors))
    assert main(["doctor", "--quick"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mlpbench: doctor, as it is: PyTorch cannot be read: ")
    assert told in error


@pytest.mark.real
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="needs a processor with fused multiply-add that is not the default level",
)
def test_another_vector_level_changes_what_it_may_and_no_exact_operation(here):
    other = doctor._read_under("ATEN_CPU_CAPABILITY=default", CPU, 2)
    changed = differing(here.one, other.one)
    assert {"SGD float32", "addcmul float64", "add with alpha float32"} <= set(of_kind("contraction", changed))
    assert "Linear's initial parameters float32" in of_kind("random", changed)
    assert of_kind("exact", changed) == of_kind("exact", differing(here.one, other.many)) == []
    assert defects(replace(examination(here), table=doctor.table(), under={"default": other})) == []
