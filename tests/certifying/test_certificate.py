"""Check that a certificate survives its file, and that a damaged file is refused in one line."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlpbench.certifying import certificate
from mlpbench.certifying.divergence import drift, first_divergence
from mlpbench.cli.main import main
from mlpbench.errors import InputError
from mlpbench.records.flat_environment import FlatEnvironment
from tests import strategies
from tests.paths import ROOT

pytestmark = pytest.mark.usefixtures("restore_threads")


def line_of(call) -> str:
    """Return the line by which a call refuses its input; empty if it does not."""
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


def test_sampled_values_survive_with_minus_zero_as_zero():
    values = np.array([0.1, -0.0, 1e-300, -5.0])
    assert certificate.unpack(certificate.pack(values)).tobytes() == (values + 0.0).tobytes()


def test_certificate_survives_its_file(original, tmp_path):
    certificate.write(tmp_path / "deep" / "c.json", original)
    assert certificate.read(tmp_path / "deep" / "c.json") == original


def as_format_1(path, original):
    """Write a certificate as format 1 had it: its environment was flat."""
    content = certificate.plain(original)
    hardware, stack = content["environment"].pop("hardware"), content["environment"].pop("stack")
    flat = content["environment"] | hardware | stack | {"num_cpus": stack["num_allowed_cpus"]}
    names = [f.name for f in fields(FlatEnvironment)]
    absent = dict.fromkeys(("gpu_model", "gpu_memory_bytes", "cuda", "cudnn"))
    content |= {"format": 1, "environment": {name: (flat | absent)[name] for name in names}}
    path.write_text(json.dumps({"mlpbench_certificate": 1, **content, "sha256": certificate._seal(content)}))


def test_certificate_of_format_1_is_read_and_knows_no_more_than_its_file(tmp_path):
    original = strategies.certificate()
    as_format_1(tmp_path / "c.json", original)
    loaded = certificate.read(tmp_path / "c.json")
    assert loaded == replace(original, environment=strategies.as_before_schema_3(original.environment))
    # It is written in the present format.
    certificate.write(tmp_path / "d.json", loaded)
    assert certificate.read(tmp_path / "d.json") == loaded


@pytest.mark.parametrize("change", [{"format": 2}, {"environment": {}}, {"environment": None}])
def test_certificate_of_format_1_with_other_content_is_refused(tmp_path, change):
    path = tmp_path / "c.json"
    as_format_1(path, strategies.certificate())
    content = json.loads(path.read_text()) | change
    del content["sha256"], content["mlpbench_certificate"]
    path.write_text(json.dumps({"mlpbench_certificate": 1, **content, "sha256": certificate._seal(content)}))
    assert line_of(lambda: certificate.read(path)).startswith(f"{path} is ")


COMMITTED = sorted((ROOT / "results").glob("*/certificates/*.json"))


def test_every_committed_certificate_is_read():
    environments = {path: certificate.read(path).environment for path in COMMITTED}
    # A source distribution has no results.
    assert len(environments) >= 40 or not (ROOT / "results").exists()
    assert {path.parent.parent.name for path in COMMITTED} >= {e.machine for e in environments.values()}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_flipped_bit_of_the_file_is_found(original, tmp_path, choice):
    path = tmp_path / "c.json"
    certificate.write(path, original)
    content = bytearray(path.read_bytes())
    # Not the last byte, which is the newline.
    position = choice.draw(st.integers(0, len(content) - 2))
    content[position] ^= 1 << choice.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        certificate.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_sealed_file_of_any_content_is_read_or_refused(original, tmp_path, choice):
    content = json.loads(json.dumps(certificate.plain(original)))
    place, key = strategies.any_place(content, choice)
    place[key] = choice.draw(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just([]) | st.just({})
    )
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"mlpbench_certificate": 1, **content, "sha256": certificate._seal(content)}))
    assert line_of(
        lambda: [compare(original, certificate.read(path)) for compare in (first_divergence, drift)]
    ).isprintable()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not JSON"),
        (b"\x80\x04\x95", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "is not a certificate"),
        (b'{"mlpbench_certificate": 1, "a": ' + b"[" * 990 + b"]" * 990 + b"}", ""),
        (b"9" * 10_000, "not JSON"),
        (b"[]", "is not a certificate; `mlpbench certify` makes one"),
        (b'{"kind": "session"}', "is not a certificate"),
        (b'{"mlpbench_certificate": 3}', "is a certificate of format 3; this mlpbench reads 1 to 2"),
        (b'{"mlpbench_certificate": "1"}', "is a certificate of format '1'; this mlpbench reads 1 to 2"),
        (b'{"mlpbench_certificate": 1}', "is damaged"),
    ],
)
def test_other_file_is_refused_in_one_line(tmp_path, content, line, capsys):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    assert main(["verify", str(path), "--results", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
    assert str(path) in error


@pytest.mark.parametrize("name", ["missing.json", ".", "nul\0.json"])
def test_file_that_cannot_be_read_is_refused(tmp_path, name, capsys):
    assert main(["verify", str(tmp_path / name)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": "md5-1"}, "its digests are 'md5-1'; this mlpbench reads sha256-1"),
        ({"stages": ()}, "it has no stages, or one stage twice"),
        ({"num_steps": 5}, "it has 6 steps, but num_steps is 5"),
        ({"steps": ("0 0 0",) * 6}, "a step is not a loss, a digest and the digests of the stages"),
    ],
)
def test_certificate_whose_parts_do_not_fit_is_refused(original, changes, reason):
    assert line_of(lambda: replace(original, **changes)) == reason


def test_certificates_under_a_folder_are_found_and_damage_is_reported(original, tmp_path):
    path = certificate.place(tmp_path, original)
    certificate.write(path, original)
    (path.parent / "broken.json").write_text("{")
    (tmp_path / "elsewhere.json").write_text("{")
    certificates, (problem,) = certificate.find([tmp_path])
    assert certificates == {path: original}
    assert "broken.json" in problem


def test_copy_of_a_certificate_does_not_count(original, tmp_path):
    path = certificate.place(tmp_path, original)
    certificate.write(path, original)
    (path.parent / "copy.json").write_bytes(path.read_bytes())
    certificates, _ = certificate.find([tmp_path, path.parent.parent])
    assert len(certificates) == 1
