"""Check that `mlpbench doctor` reads digests reproducibly, each in its own process, and writes the reference table."""

import json
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlpbench.certifying import doctor, probes
from mlpbench.certifying.doctor import AS_IT_IS
from mlpbench.certifying.examination import UNAVAILABLE, Reading, defects, differing, of_kind
from mlpbench.certifying.probes import PROBES
from mlpbench.engines.portable import known_answers
from mlpbench.errors import InputError
from tests.certifying.readings import EQUAL, READINGS, SETTING, examination, reading

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def here() -> Reading:
    return doctor._read_under(AS_IT_IS, CPU, 2)


def test_reference_table_has_every_reading_and_no_other():
    stored = doctor.table()
    assert list(stored.digests) == list(READINGS)
    assert UNAVAILABLE not in stored.digests.values()
    for changes in stored.by_setting.values():
        assert all(stored.digests[name] != digest for name, digest in changes.items())


def test_reference_table_names_no_host_user_or_path():
    environment = doctor.table().environment
    assert set(environment) == {"torch", "architecture", "cpu_model", "cpu_capability", "os", "num_threads"}
    assert not any("/" in str(value) or platform.node() == value for value in environment.values())


@pytest.mark.slow
def test_every_probe_runs_and_gives_the_same_bits_again(here, restore_threads):
    assert [name for name, digest in here.one_thread.items() if digest == UNAVAILABLE] == []
    torch.set_num_threads(1)
    assert differing(here.one_thread, doctor.digests(CPU)) == []


def test_exact_operations_have_the_bits_of_the_reference_table(here):
    exact = [name for name, probe in READINGS.items() if probe.kind == "exact"]
    assert len(exact) > 20
    reference = doctor.table().digests
    assert {name: here.one_thread[name] for name in exact} == {name: reference[name] for name in exact}
    assert {name: here.several_threads[name] for name in exact} == {name: reference[name] for name in exact}


def test_random_probes_leave_the_default_generator_unchanged(monkeypatch):
    monkeypatch.setattr(doctor, "PROBES", {name: probe for name, probe in PROBES.items() if probe.kind == "random"})
    state = torch.get_rng_state()
    doctor.digests(CPU)
    assert torch.equal(state, torch.get_rng_state())


def test_tables_that_are_not_the_published_ones_fail_the_known_answers(monkeypatch, here):
    def answer(part, device):
        raise InputError("the table of exp is not that of portable/1")

    monkeypatch.setattr(doctor, "_read_under", lambda *_: here)
    monkeypatch.setattr(known_answers, "answer", answer)
    assert not any(doctor.examine(CPU, quick=True).answers.values())


def test_deterministic_algorithms_are_set_only_for_their_own_reading(monkeypatch, restore_threads):
    is_set = []
    monkeypatch.setattr(doctor, "digests", lambda _: is_set.append(torch.are_deterministic_algorithms_enabled()) or {})
    for setting in (doctor.DETERMINISTIC, SETTING):
        doctor.read(setting, CPU, 2)
    assert is_set == [True, True, False, False]


def test_variables_are_set_for_the_new_process(monkeypatch):
    call = {}

    def run(command, *, env, **options):
        call.update(env, command=command)
        return subprocess.CompletedProcess(command, 0, 'a warning\n[{"a": "1"}, {"a": "2"}]\n', "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    setting = "ATEN_CPU_CAPABILITY=default MKL_CBWR=AVX2,STRICT"
    result = doctor._read_under(setting, CPU, 3)
    assert result == Reading(one_thread={"a": "1"}, several_threads={"a": "2"})
    assert (call["ATEN_CPU_CAPABILITY"], call["MKL_CBWR"]) == ("default", "AVX2,STRICT")
    assert call["command"][2:] == ("mlpbench.certifying.doctor", "read", setting, "cpu", "3")


def test_role_read_prints_the_digests_of_both_thread_counts(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, "read", lambda *arguments: Reading(one_thread={"a": str(arguments)}, several_threads={})
    )
    doctor._main(["read", SETTING, "cpu", "3"])
    assert json.loads(capsys.readouterr().out) == [{"a": str((SETTING, CPU, 3))}, {}]


def test_role_write_table_writes_only_the_digests_that_a_setting_changes(monkeypatch, tmp_path):
    readings = {AS_IT_IS: reading(), SETTING: reading(["exp float32"])}
    monkeypatch.setattr(doctor, "_read_all", lambda *_: readings)
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))
    doctor._main(["write-table"])
    stored = json.loads((tmp_path / "known_bits.json").read_text())
    assert list(stored) == list(json.loads(Path(probes.__file__).with_name("known_bits.json").read_text()))
    assert (stored["digests"], stored["under"]) == (EQUAL, {SETTING: {"exp float32": "b"}})


@pytest.mark.parametrize("arguments", [[], ["read"], ["read", SETTING, "cpu", "many"], ["nonsense"]])
def test_unknown_role_is_refused_and_writes_nothing(monkeypatch, arguments):
    monkeypatch.setattr(doctor, "_write_table", lambda: pytest.fail("it wrote the table"))
    with pytest.raises(SystemExit) as caught:
        doctor._main(arguments)
    assert caught.value.code == 2


@pytest.mark.real
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="needs a processor with fused multiply-add that is not the default level",
)
@pytest.mark.slow
def test_another_vector_level_changes_no_exact_operation(here):
    other = doctor._read_under("ATEN_CPU_CAPABILITY=default", CPU, 2)
    changed = differing(here.one_thread, other.one_thread)
    assert {"SGD float32", "addcmul float64", "add with alpha float32"} <= set(of_kind("contraction", changed))
    assert "Linear's initial parameters float32" in of_kind("random", changed)
    assert of_kind("exact", changed) == of_kind("exact", differing(here.one_thread, other.several_threads)) == []
    assert defects(replace(examination(here), table=doctor.table(), by_setting={"default": other})) == []
