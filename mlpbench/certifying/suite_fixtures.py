"""Add the fixtures of the suite that compare bits; they are functions that a benchmark calls once."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mlpbench.certifying import certificate, reruns
from mlpbench.certifying.certify import certify as make_certificate
from mlpbench.errors import InputError
from mlpbench.measuring.fresh_process import in_fresh_process
from mlpbench.measuring.suite.suite import Suite, end_run

__all__ = ["certify", "rerun"]

NUM_CERTIFIED_STEPS = 20


@pytest.fixture
def rerun(suite: Suite) -> Callable[..., None]:
    """Return `rerun(name, **fields)`, which trains the same seed twice and compares the bits.

    A difference is a result, not a failure.
    """

    def run(name: str, **fields: Any) -> None:
        config = dataclasses.replace(suite.base, **fields)
        try:
            record = reruns.rerun(name, config, suite.session_id)
        except InputError as error:
            suite.skip(f"rerun: {name}", config, str(error))
        stage = record.first_difference
        outcome = "equal bits" if stage is None else f"first difference: {stage}"
        line = f"same seed, {record.name} ({record.config.device}, {record.num_steps} steps): {outcome}"
        suite.remarks["determinism"].append(line)
        if suite.is_recording:
            suite.append(record)

    return run


@pytest.fixture
def certify(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return `certify(variables, **fields)`, which makes a certificate in a fresh process with these variables."""

    def run(variables: Mapping[str, str], **fields: Any) -> None:
        if suite.run:
            pytest.skip("already made by the first process; equal bits need no statistics")
        config = dataclasses.replace(suite.base, **fields)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        try:
            content = in_fresh_process(make_certificate, config, NUM_CERTIFIED_STEPS)
        except InputError as error:
            suite.skip("certificate", config, str(error))
        if not suite.is_recording:
            return
        path = certificate.place(suite.results, content)
        assert suite.session, "this records the run, so that `mlpbench report` finds it"
        try:
            certificate.write(path, content)
        except InputError as error:
            end_run(f"{error}; choose another folder with --results")

    return run
