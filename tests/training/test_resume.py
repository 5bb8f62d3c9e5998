"""A run that goes on after an interruption ends with the bits of an uninterrupted run, or says why it does not."""

import math
from dataclasses import replace

import pytest
import torch

from mlpbench.config import Loader, RunConfig
from mlpbench.engines.eager import Eager
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.records.kinds import EpochResult
from mlpbench.training import batched_seeds, checkpoint, resume, study
from mlpbench.training.resume import Start, find, resolved
from mlpbench.training.trainer import Trainer
from mlpbench.workload.optimizers import OPTIMIZERS, OptimizerKind
from tests import strategies
from tests.conformance import every_engine
from tests.training.study_log import Log

COMMAND = "mlpbench train --set num_epochs=4"


@pytest.fixture
def config(small):
    return RunConfig(dataset=small, num_epochs=4, num_threads=1)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """Store the state after every epoch, however short it is."""
    monkeypatch.setattr(resume, "_MOST_COST", math.inf)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def without_times(result):
    zeros = (0.0,) * result.config.num_epochs
    return replace(result, train_s=zeros, evaluate_s=zeros, session="")


class Killed(BaseException):
    """Stand for the end of the process at a moment of our choice."""


def interrupted(config, root, num_epochs):
    """Train for some epochs, as a process that is killed then; return its start and the records of its epochs."""
    epochs = []
    start = resume.Starts(root / "machine", "s")(config)

    def on_epoch(epoch):
        epochs.append(epoch)
        if len(epochs) == num_epochs:
            raise Killed

    with pytest.raises(Killed):
        Trainer(config).fit("s", on_epoch, start)
    return start, epochs


def records_of(config, epochs, **changes):
    return strategies.results(strategies.session("s", **{"command": COMMAND} | changes), epochs)


def resumed(config, root, epochs, session_id="t"):
    """Go on with the only run of these records; return its result, and the notes."""
    (start,) = find(records_of(config, epochs), root, COMMAND, [config]).starts.values()
    notes, again = [], []
    return Trainer(config).fit(session_id, again.append, start, notes.append), notes, again


# --- the same bits


@every_engine
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(config, root, engine, optimizer):
    lr = OPTIMIZERS[optimizer].lr(config.lr)
    config = replace(config, engine=engine, optimizer=optimizer, lr=lr, weight_decay=0.01)
    _, epochs = interrupted(config, root, 3)
    result, notes, again = resumed(config, root, epochs)
    assert without_times(result) == without_times(Trainer(config).fit("u"))
    assert notes == []
    # The third epoch had ended, but was not stored yet.
    assert [epoch.index for epoch in again] == [2, 3]
    assert result.train_s[:2] == tuple(epoch.train_s for epoch in epochs[:2])
    assert result.session == "t"


@pytest.mark.parametrize("loader", list(Loader))
@pytest.mark.parametrize("num_epochs", [1, 2, 3, 4])
def test_run_can_be_interrupted_after_any_epoch_and_with_any_loader(config, root, loader, num_epochs):
    config = replace(config, optimizer="nesterov", loader=loader)
    _, epochs = interrupted(config, root, num_epochs)
    result, _, again = resumed(config, root, epochs)
    assert without_times(result) == without_times(Trainer(config).fit("u"))
    assert [epoch.index for epoch in again] == list(range(max(num_epochs - 1, 0), 4))


def test_run_can_be_interrupted_again_and_again(config, root):
    config = replace(config, optimizer="adam")
    recorded = []
    for _ in range(8):
        start = resume.Starts(root / "machine", "s")(config)
        if recorded:
            (start,) = find(records_of(config, recorded), root, COMMAND, [config]).starts.values()

        def on_epoch(epoch, start=start):
            recorded.append(epoch)
            # A second epoch is trained, and its record written, but not its checkpoint.
            if epoch.index > start.num_done:
                raise Killed

        try:
            result = Trainer(config).fit("s", on_epoch, start)
            break
        except Killed:
            continue
    assert without_times(result) == without_times(Trainer(config).fit("u"))
    assert [epoch.index for epoch in recorded] == [0, 1, 1, 2, 2, 3, 3]


@every_engine
def test_state_of_a_trainer_continues_in_another_one(config, engine):
    one, other = (Trainer(replace(config, engine=engine, optimizer="momentum")) for _ in range(2))
    one.use_threads()
    one.epoch()
    other.restore(one.state())
    assert one.epoch() == other.epoch()
    assert one._digests() == other._digests()


def test_state_of_another_config_is_refused_in_one_line(config):
    one = Trainer(replace(config, optimizer="adam"))
    for change in ({"hidden_sizes": (7, 7, 7)}, {"engine": "manual"}):
        with pytest.raises(InputError, match="the stored state does not fit") as error:
            Trainer(replace(config, **change)).restore(one.state())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("state", [{}, {"num_epochs": 1}, {"num_epochs": 1, "engine": {}}, {"num_epochs": None}])
def test_incomplete_state_is_refused_in_one_line(config, state):
    with pytest.raises(InputError, match="the stored state does not fit"):
        Trainer(config).restore(state)


def test_training_has_the_same_bits_with_and_without_checkpoints(config, root):
    start = resume.Starts(root / "machine", "s")(config)
    assert without_times(Trainer(config).fit("s", start=start)) == without_times(Trainer(config).fit("s"))


# --- checkpoints


def test_checkpoints_take_a_small_share_of_the_time(config, root, monkeypatch):
    monkeypatch.setattr(resume, "_MOST_COST", 0.05)
    # By this clock, everything takes 1 s.
    clock = iter(range(10**6))
    monkeypatch.setattr(resume, "now", lambda: float(next(clock)))
    written = []
    monkeypatch.setattr(checkpoint, "write", lambda path, stored: written.append(len(stored.epochs)))
    config = replace(config, num_epochs=60, lr=1e-3, hidden_sizes=(8,), activations=("relu",), batch_size=1230)
    Trainer(config).fit("s", start=resume.Starts(root / "machine", "s")(config))
    assert written[0] == 1
    assert 2 <= len(written) <= 4


def test_failed_checkpoint_is_said_once_and_does_not_stop_the_run(config, root):
    root.mkdir()
    (root / "machine").write_text("a file where the folder should be")
    notes = []
    result = Trainer(config).fit("s", start=resume.Starts(root / "machine", "s")(config), on_note=notes.append)
    assert without_times(result) == without_times(Trainer(config).fit("s"))
    (note,) = notes
    assert note.startswith("no checkpoint of this run, so --resume would begin again: cannot write ")


def test_optimizer_whose_state_cannot_be_stored_trains_and_says_so(config, root, monkeypatch):
    class Odd(torch.optim.SGD):
        def state_dict(self):
            return super().state_dict() | {"odd": object()}

    monkeypatch.setitem(OPTIMIZERS, "odd", OptimizerKind(make=lambda p, c: Odd(p, lr=c.lr), num_kept=0))
    notes, epochs = [], []
    config = replace(config, optimizer="odd")
    Trainer(config).fit("s", epochs.append, resume.Starts(root / "machine", "s")(config), notes.append)
    assert "a value of type object in the state of the run cannot be stored" in notes[0]
    assert [dict(epoch.digests).keys() for epoch in epochs] == [{"parameters"}] * 4


def test_checkpoint_is_removed_when_the_result_is_on_record(config, root):
    exists = []
    starts = resume.Starts(root / "machine", "s")

    class Watched(Log):
        def emit(self, record):
            exists.append(starts(config).path.exists())

    log = Watched()
    study.run([config], "s", log.emit, log, start_of=starts)
    assert exists == [False, True, True, True, True]
    assert list(root.rglob("*")) == [root / "machine"]


# --- what is refused, and what begins again


@pytest.mark.parametrize("part", ["source", "torch", "machine", "threads"])
@pytest.mark.parametrize("engine", [name for name, e in ENGINES.items() if e.has_state and not e.needs_cuda])
def test_another_stack_is_refused_where_it_can_change_the_bits(config, root, engine, part, monkeypatch):
    config = replace(config, engine=engine)
    path = checkpoint.path_of(root / "elsewhere", "s", config)
    epochs = [replace(strategies.epoch(i), config=config) for i in range(2)]
    stack = resume.stack(config)
    name = min(stack[part])
    stack[part] |= {name: "other"}
    checkpoint.write(path, checkpoint.Checkpoint(run="s", config=config, stack=stack, epochs=tuple(epochs), state={}))
    if part in ENGINES[engine].depends_on:
        message = f"may compute other bits here, because {name} was other and is .*; train without --resume"
        with pytest.raises(InputError, match=message):
            find(records_of(config, epochs), root, COMMAND, [config])
    else:
        (start,) = find(records_of(config, epochs), root, COMMAND, [config]).starts.values()
        assert (start.path, start.is_resumed, start.num_done) == (path, True, 2)
    assert path.exists()


def test_portable_arithmetic_depends_on_nothing_and_fused_not_on_threads():
    depends = {name: engine.depends_on for name, engine in ENGINES.items()}
    assert {name for name, parts in depends.items() if not parts} == {"portable", "portable_fused"}
    assert {name for name, parts in depends.items() if parts and "threads" not in parts} == {"fused"}


def test_damaged_checkpoint_is_refused_and_stays(config, root):
    start, epochs = interrupted(config, root, 3)
    content = start.path.read_bytes()
    start.path.write_bytes(content[:-9])
    with pytest.raises(InputError, match=r"is damaged; delete it, and --resume begins the run again$"):
        find(records_of(config, epochs), root, COMMAND, [config])
    assert start.path.read_bytes() == content[:-9]


def test_checkpoint_of_another_run_is_refused(config, root):
    start, epochs = interrupted(config, root, 3)
    other = replace(config, seed=5)
    start.path.rename(checkpoint.path_of(root / "machine", "s", other))
    moved = [replace(epoch, config=other) for epoch in epochs]
    with pytest.raises(InputError, match="is the checkpoint of another run; delete it"):
        find(records_of(other, moved), root, COMMAND, [other])


def test_run_without_a_checkpoint_begins_again_and_says_so(config, root):
    start, epochs = interrupted(config, root, 3)
    start.path.unlink()
    result, notes, again = resumed(config, root, epochs)
    assert notes == [f"{config} begins again: it has no checkpoint yet"]
    assert [epoch.index for epoch in again] == [0, 1, 2, 3]
    assert without_times(result) == without_times(Trainer(config).fit("u"))


def test_engine_without_a_state_begins_again_and_says_so(config, root):
    config = replace(config, engine="sklearn", activations=("relu",))
    start, epochs = interrupted(config, root, 2)
    assert not start.path.exists()
    result, notes, _ = resumed(config, root, epochs)
    reason = "engine sklearn does not give its state, so there is no checkpoint"
    assert notes == [f"{config} begins again: {reason}"]
    assert without_times(result) == without_times(Trainer(config).fit("u"))


def test_repeated_epoch_with_other_bits_is_said(config, root):
    _, epochs = interrupted(config, root, 3)
    changed = [*epochs[:2], replace(epochs[2], digests=(("parameters", "sha256-1:other"),))]
    _, notes, _ = resumed(config, root, changed)
    (note,) = notes
    assert note.startswith("epoch 3 of ")
    assert "other bits than before the interruption" in note


# --- which run goes on


def test_nothing_to_resume_is_one_line(config, root):
    with pytest.raises(InputError, match=f"nothing to resume: no interrupted run of this command under {root}"):
        find(strategies.results(), root, COMMAND, [config])


def test_complete_run_is_not_resumed(config, root):
    result = replace(strategies.trained((0.5,) * 4), config=config)
    with pytest.raises(InputError, match="nothing to resume: the newest run of this command is complete"):
        find(strategies.results(strategies.session("s", command=COMMAND), result), root, COMMAND, [config])


def test_newest_run_goes_on_also_if_an_older_one_was_interrupted_later(config, root):
    epoch = replace(strategies.epoch(0), config=config)
    records = strategies.results(
        strategies.session("s", command=COMMAND), epoch,
        strategies.session("t", command=COMMAND), replace(epoch, session="t"),
    )  # fmt: skip
    assert find(records, root, COMMAND, [config]).run == "t"


def test_run_killed_in_its_first_epoch_begins_again(config, root):
    records = strategies.results(strategies.session("s", command=COMMAND))
    found = find(records, root, COMMAND, [config])
    assert (found.run, dict(found.starts), dict(found.finished)) == ("s", {}, {})


def test_train_goes_on_with_the_same_config_in_other_words(config, root):
    epoch = replace(strategies.epoch(0), config=config)
    records = records_of(config, [epoch], command="mlpbench train --epochs 4")
    assert find(records, root, COMMAND, [config]).run == "s"
    with pytest.raises(InputError, match="nothing to resume"):
        find(records, root, "mlpbench study --jobs 1", [config])
    with pytest.raises(InputError, match="nothing to resume"):
        find(records, root, COMMAND, [replace(config, seed=1)])


def test_session_that_goes_on_has_the_run_of_the_first(config, root):
    epoch = replace(strategies.epoch(0), config=config)
    records = strategies.results(
        strategies.session("s", command=COMMAND), epoch, strategies.session("t", run="s", process=1, command=COMMAND)
    )
    found = find(records, root, COMMAND, [config])
    assert (found.run, [session.id for session in found.sessions]) == ("s", ["s", "t"])


def test_study_keeps_finished_runs_and_goes_on_with_the_others(config, root):
    command = "mlpbench study --jobs 1"
    configs = [replace(config, seed=seed, optimizer="nesterov") for seed in range(3)]
    starts = resume.Starts(root / "machine", "s")
    log, records = Log(), []

    def emit(record):
        log.emit(record)
        records.append(record)
        if isinstance(record, EpochResult) and (record.config.seed, record.index) == (1, 2):
            raise Killed

    with pytest.raises(Killed):
        study.run(configs, "s", emit, log, start_of=starts)
    before = strategies.results(strategies.session("s", command=command), records)
    found = find(before, root, command, configs)
    assert [c.seed for c in found.finished] == [0]
    assert {c.seed: start.num_done for c, start in found.starts.items()} == {1: 2}
    left, log = [c for c in configs if c not in found.finished], Log()
    starts = resume.Starts(root / "machine", found.run, found.starts)
    results = [*found.finished.values(), *study.run(left, "t", log.emit, log, start_of=starts)]
    assert [entry for entry in log.entries if entry[0] == "start"] == [("start", 1, 2), ("start", 2)]
    alone = study.run(configs, "u", Log().emit, Log())
    assert [without_times(result) for result in results] == [without_times(result) for result in alone]


def test_seeds_of_a_batched_model_begin_again(config, root, monkeypatch):
    monkeypatch.setattr(study, "_is_on_gpu", lambda config: True)
    configs = [replace(config, seed=seed) for seed in range(2)]
    epochs = []
    batched_seeds.fit(configs, "s", lambda epoch, _: epochs.append(epoch))
    found = find(strategies.results(strategies.session("s", command=COMMAND), epochs[:3]), root, COMMAND, configs)
    log = Log()
    study.run(configs, "t", log.emit, log, jobs=2, start_of=resume.Starts(root / "machine", "s", found.starts))
    assert [epoch.digests for epoch in log.epochs] == [epoch.digests for epoch in epochs]
    assert list(root.rglob("*.ckpt")) == []


def test_config_of_records_names_the_device_that_auto_stands_for(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolved(replace(config, device="auto")) == config


def test_starts_differ_for_every_config_and_run(config, tmp_path):
    paths = {resume.Starts(tmp_path, run)(c).path for run in "ab" for c in (config, replace(config, seed=1))}
    assert len(paths) == 4
    assert isinstance(resume.Starts(tmp_path, "a")(config), Start)
    assert Eager.has_state
