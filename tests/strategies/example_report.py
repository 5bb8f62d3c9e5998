"""Make results for a whole report."""

from mlpbench.config import RunConfig, grid
from mlpbench.records.kinds import Record
from mlpbench.records.results import Results
from tests.strategies.example_records import check, results, session, skip, timed, trained

HOSTILE_REASON = 'device cuda: <b>none</b> & "no driver" | try cpu'


def example() -> Results:
    """Return results that fill every section of the report."""
    operations = {
        "forward": 0.085,
        "backward": 0.4,
        "forward_backward": 0.5,
        "optimizer_step": 0.04,
        "train_step": 0.9,
        "evaluate": 25.0,
    }
    suites = [
        *(("epochs", "epoch", 600.0 * (i + 1), {"loader": x}) for i, x in enumerate(["memory", "dataloader"])),
        *(("activations", "train_step", 1.0, {"activations": (name,)}) for name in ["relu", "gelu"]),
        *(("optimizers", "train_step", 1.0, {"optimizer": name}) for name in ["sgd", "adam"]),
        *(("batch_sizes", "train_step", 0.4 + size / 500, {"batch_size": size}) for size in [1, 100, 10_000]),
        *(("widths", "train_step", 0.4 + size / 500, {"hidden_sizes": (size,) * 3}) for size in [16, 150, 1024]),
    ]
    spread = (1.0, 1.1, 0.95, 1.02, 0.98)
    records: list[Record | list[Record]] = [
        session("s"),
        session("t", started_at="2026-01-02T00:00:00+00:00", command="mlpbench study --preset quick"),
        *(
            timed(operation, [value * factor for factor in spread], operation=operation)
            for operation, value in operations.items()
        ),
        *(
            timed(
                f"{suite}{number}",
                [value * factor for factor in spread],
                suite=suite,
                operation=operation,
                config=RunConfig(**settings),
            )
            for number, (suite, operation, value, settings) in enumerate(suites)
        ),
        *(
            timed(f"time{threads}", [3 / threads] * 3, suite="time", group="g", config=RunConfig(num_threads=threads))
            for threads in [1, 2]
        ),
    ]
    for config in grid(RunConfig(), activations=[("relu", "tanh", "elu"), ("relu",)], seed=range(3)):
        best = 0.95 - 0.03 * config.seed
        settings = {"activations": config.activations, "seed": config.seed}
        records.append(trained((0.5, 0.8, best), session="t", **settings))
        records.append(trained((0.81, 0.88, best), session="t", dataset="mnist", **settings))
    records += [
        check("repeat"),
        check("threads", first_difference="step 0 gradient layers.0.weight"),
        skip(HOSTILE_REASON, device="cuda"),
    ]
    return results(*records)
