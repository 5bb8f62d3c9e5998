"""Time one operation here, with its settings interleaved."""

import argparse

from mlpbench.cli.options import OPERATIONS_HELP, add_workload, positive, settings_of
from mlpbench.config import Clock, Operation, RunConfig, override
from mlpbench.errors import InputError, check_name, choose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("operation", help=OPERATIONS_HELP)
    parser.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="settings to compare, the baseline first; if repeated, the n-th settings of each go together",
    )
    parser.add_argument("--rounds", type=positive, help="timed blocks of each setting (default: the preset's)")
    parser.add_argument(
        "--clock", default=Clock.THROUGHPUT.value, help="throughput, latency (waits after every call) or device"
    )
    parser.add_argument("--preset", default="default", help="quick, default or rigorous")
    add_workload(parser)


def run(parsed: argparse.Namespace) -> None:
    """Time the settings in turns, record every block, and print times and ratios."""
    from mlpbench.cli.command import command_of
    from mlpbench.cli.output import SessionFile, as_results
    from mlpbench.machine import environment
    from mlpbench.measuring import timing
    from mlpbench.records.kinds import Block, Measurement, Record
    from mlpbench.reporting import terminal
    from mlpbench.training.trainer import Trainer

    preset = choose(timing.PRESETS, parsed.preset, "preset")
    check_name(Operation, parsed.operation, "operation")
    settings = settings_of(parsed)
    if any(len(vary) < 2 for vary in parsed.vary):
        raise InputError("--vary takes at least two settings: --vary optimizer=sgd optimizer=adam")
    if len({len(vary) for vary in parsed.vary}) > 1:
        raise InputError("every --vary needs the same number of settings: the n-th of each go together")
    # Together, since settings that are varied can be needed by the others.
    configs = [override(RunConfig(), [*settings, *together]) for together in zip(*parsed.vary, strict=True)] or [
        override(RunConfig(), settings)
    ]
    trainers = [Trainer(config) for config in configs]
    for trainer in trainers:
        timing.check_clock(parsed.clock, parsed.operation, trainer.config.device)
        trainer.operation(parsed.operation)
    rounds = parsed.rounds or (preset.epoch_rounds if Operation(parsed.operation).is_long else preset.rounds)
    file = SessionFile.start(parsed.results, command_of(parsed, rounds=rounds), parsed.preset)
    records: list[Record] = []

    def emit(record: Measurement | Block) -> None:
        file(record)
        records.append(record)

    timing.measure(
        parsed.operation,
        trainers,
        session=file.session,
        suite="time",
        rounds=rounds,
        warm_up_s=preset.warm_up_s,
        emit=emit,
        clock=parsed.clock,
        watch=timing.Watch.start(environment.resolve_device(configs[0].device)),
    )
    console = terminal.console()
    terminal.show_timings(as_results(file.session, records), console)
    console.print(f"results: {file.path}")
