import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlpbench.cli.main import VERBS, main
from mlpbench.records import store
from tests.judging.processes import STEADY, write
from tests.paths import ROOT
from tests.strategies import plan, replicated, session


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "mlpbench", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        cwd=ROOT,
        check=False,
    )


BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "unknown verb": (["nope"], "nope"),
    "no verb": ([], "VERB"),
    "unknown option": (["env", "--nope"], "--nope"),
    "unknown field": (["train", "--set", "nope=1"], "batch_size"),
    "setting without a value": (["train", "--set", "lr"], "field=value"),
    "value of the wrong type": (["train", "--set", "lr=fast"], "lr"),
    "nesterov without momentum": (["train", "--set", "optimizer=nesterov", "--set", "momentum=0"], "momentum"),
    "value out of range": (["train", "--set", "batch_size=0"], "batch_size"),
    "activations that do not fit": (["train", "--set", "hidden_sizes=8,8"], "hidden layers"),
    "unknown activation": (["study", "--activations", "nope"], "leaky_relu"),
    "unknown optimizer": (["study", "--optimizers", "nope"], "nesterov"),
    "unknown loader": (["train", "--set", "loader=nope"], "dataloader"),
    "unknown engine": (["train", "--set", "engine=nope"], "eager"),
    "unknown model": (["train", "--set", "model=nope"], "mlp"),
    "unknown dataset": (["train", "--dataset", "nope"], "fashion_mnist"),
    "unknown device": (["train", "--device", "nope"], "cuda"),
    "unknown study": (["study", "--preset", "nope"], "tutorial"),
    "no seeds": (["study", "--seeds", "4-1"], "--seeds"),
    "seeds that are no numbers": (["study", "--seeds", "a"], "--seeds"),
    "unknown operation": (["time", "nope"], "train_step"),
    "no rounds": (["time", "forward", "--rounds", "0"], "--rounds"),
    "settings that do not pair": (
        ["time", "forward", "--vary", "seed=0", "seed=1", "--vary", "lr=1", "lr=2", "lr=3"],
        "--vary",
    ),
    "a single setting to vary": (["time", "forward", "--vary", "seed=0"], "--vary"),
    "a field that a study varies": (["study", "--set", "optimizer=adam"], "--optimizers"),
    "target that is no accuracy": (["report", "--target", "98"], "--target"),
    "results that are not there": (["report", "/nowhere"], "/nowhere"),
    "a foreign file": (["report", "pyproject.toml"], "pyproject.toml"),
    "a folder without results": (["report", "docs"], "docs"),
}


@pytest.mark.parametrize(("arguments", "hint"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gets_one_line_that_helps_and_exit_code_2(arguments, hint, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    try:
        code = main(arguments)
    except SystemExit as exit_:  # argparse
        code = exit_.code
    output = capsys.readouterr()
    assert code == 2
    assert len(output.err.splitlines()) == 1
    assert hint in output.err
    assert output.out == ""


def test_bad_input_prints_no_traceback_in_a_real_process():
    done = run("train", "--set", "nope=1")
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, "")


def test_output_folder_that_cannot_be_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["train", "--epochs", "1", "--results", str(tmp_path / "results")]
    assert main([*arguments, "--plots", str(tmp_path / "file" / "plots")]) == 2
    assert "another folder" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written_are_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "--epochs", "1", "--plots", str(tmp_path), "--results", str(tmp_path / "file")]) == 2
    output = capsys.readouterr()
    assert "another --results" in output.err
    assert "epoch" not in output.out


def test_env_is_json_without_host_user_or_path_names():
    done = run("env", LD_PRELOAD="", OMP_PROC_BIND="close")
    fingerprint = json.loads(done.stdout)
    assert (done.returncode, fingerprint["stack"]["variables"]["OMP_PROC_BIND"]) == (0, "close")
    for private in (socket.gethostname(), str(Path.home()), str(ROOT)):
        assert private not in done.stdout


def test_train_records_the_result_and_draws_the_two_plots(tmp_path, capsys):
    results, plots = tmp_path / "results", tmp_path / "plots"
    arguments = ["train", "--epochs", "2", "--set", "optimizer=nesterov", "--results", str(results)]
    assert main([*arguments, "--plots", str(plots)]) == 0
    (result,) = store.load([results]).train_results
    assert (len(result.test_accuracy), result.config.optimizer) == (2, "nesterov")
    assert result.test_accuracy[1] > 0.9
    assert sorted(path.name for path in plots.iterdir()) == ["accuracy.png", "loss.png"]
    assert f"{result.test_accuracy[1]:.4f}" in capsys.readouterr().out


def test_train_draws_beside_its_results_and_says_where(tmp_path, small, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--epochs", "1", "--dataset", small, "--results", "mine"]) == 0
    assert sorted(path.name for path in (tmp_path / "mine" / "report").iterdir()) == ["accuracy.png", "loss.png"]
    assert "plots: mine/report" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_export_reads_the_newest_file_that_it_can_use_and_names_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("results/a.jsonl"), replicated(STEADY))
    write(Path("results/b-ab-1.jsonl"), [session("p", side="a"), plan(id="q")])
    write(Path("results/c.jsonl"), [session("z")])
    for age, name in enumerate(["c", "b-ab-1", "a"]):
        os.utime(f"results/{name}.jsonl", (1e9 - age, 1e9 - age))
    assert main(["export", "pytest-benchmark"]) == 0
    output = capsys.readouterr()
    assert len(json.loads(output.out)["benchmarks"]) == 1
    assert output.err == "mlpbench: read results/a.jsonl, the newest that can be used of 3 files\n"
    Path("results/a.jsonl").unlink()
    assert main(["export", "pytest-benchmark"]) == 2
    assert "none of the 2 files under results can be used; " in capsys.readouterr().err


def test_export_of_a_damaged_file_says_so_and_ends_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(write(Path("a.jsonl"), replicated(STEADY)))
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["export", "pytest-benchmark", "a.jsonl", "--output", "o.json"]) == 2
    output = capsys.readouterr()
    assert "cut off" in output.err
    assert (output.out, Path("o.json").exists()) == ("wrote o.json\n", True)


def test_bad_clock_and_bad_operation_are_refused_before_anything_is_written(tmp_path, capsys):
    for arguments in (
        ["train_step", "--clock", "nosuch"],
        ["evaluate", "--clock", "latency"],
        ["forward", "--set", "engine=compiled"],
    ):
        code = main(["time", *arguments, "--results", str(tmp_path / "r")])
        assert (code, len(capsys.readouterr().err.splitlines())) == (2, 1)
    assert not (tmp_path / "r").exists()


def test_study_records_every_run_and_report_shows_it(tmp_path, capsys):
    results, output = str(tmp_path / "results"), tmp_path / "report"
    arguments = ["study", "--activations", "relu", "--optimizers", "sgd", "adam", "--seeds", "0,5", "--jobs", "1"]
    assert main([*arguments, "--set", "num_epochs=1", "--target", "0.5", "--results", results]) == 0
    trained = store.load([Path(results)])
    assert [(r.config.optimizer, r.config.lr, r.config.seed) for r in trained.train_results] == [
        ("sgd", 0.02, 0),
        ("adam", 0.001, 0),
        ("sgd", 0.02, 5),
        ("adam", 0.001, 5),
    ]
    capsys.readouterr()
    assert main(["report", results, "--output", str(output)]) == 0
    assert "relu,relu" not in (output / "report.md").read_text()
    assert "| relu adam lr=0.001 | 1 | 2 |" in (output / "report.md").read_text()
    (session,) = trained.sessions.values()
    assert session.command in (output / "report.html").read_text()


def test_time_measures_settings_in_turns(tmp_path, capsys):
    arguments = ["time", "forward", "--vary", "batch_size=10", "batch_size=1000", "--rounds", "4"]
    assert main([*arguments, "--preset", "quick", "--results", str(tmp_path)]) == 0
    results = store.load([tmp_path])
    assert [m.config.batch_size for m in results.measurements.values()] == [10, 1000]
    assert len({m.group for m in results.measurements.values()}) == 1
    assert sorted((b.round, b.order) for b in results.blocks) == [(r, o) for r in range(4) for o in range(2)]
    assert "Change of the time" in capsys.readouterr().out


def test_report_of_a_cut_file_is_made_of_the_rest_and_ends_with_2(tmp_path, capsys):
    assert main(["time", "forward", "--rounds", "3", "--preset", "quick", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.rglob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    capsys.readouterr()
    assert main(["report", str(path), "--output", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert (len(error.splitlines()), str(path) in error, "cut off" in error) == (1, True, True)
    assert (tmp_path / "report" / "report.html").exists()
    assert path.read_bytes() == whole[:-30]


def test_every_verb_is_a_module_and_stands_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listing = run("--help").stdout
    for verb in VERBS:
        assert f"mlpbench {verb}" in readme
        assert verb in listing
    others = {"__init__", "main", "exits", "streams", "options", "command", "output", "gate", "pairs", "training"}
    assert {path.stem for path in (ROOT / "mlpbench" / "cli").glob("*.py")} == {*VERBS, *others}


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_loads_no_heavy_library(verb):
    arguments = [verb, "--help"] if verb else ["--help"]
    code = (
        f"import sys; from mlpbench.cli.main import main\n"
        f"try:\n    main({arguments})\nfinally:\n    print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: mlpbench")
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "argparse" in loaded
    assert loaded & {"torch", "scipy", "pandas", "numpy", "sklearn", "matplotlib", "seaborn", "rich", "jinja2"} == set()


def test_env_loads_torch_and_nothing_that_it_does_not_print():
    code = "import sys; from mlpbench.cli.main import main; main(['env']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "torch" in loaded
    assert loaded & {"scipy", "pandas", "sklearn", "torchvision", "matplotlib", "seaborn", "rich", "jinja2"} == set()
