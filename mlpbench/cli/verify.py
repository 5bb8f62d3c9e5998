"""Run a certificate again on this machine and compare the two."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlpbench.cli.exits import Answer
from mlpbench.cli.options import add_data, positive
from mlpbench.errors import InputError, printable

if TYPE_CHECKING:
    from mlpbench.certifying.certificate import Certificate
    from mlpbench.certifying.divergence import Divergence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("certificate", type=Path, metavar="CERT.json")
    parser.add_argument(
        "other", nargs="?", type=Path, metavar="OTHER.json", help="compare with this certificate, and run nothing"
    )
    parser.add_argument("--engine", help="another engine of the same arithmetic (default: the certificate's)")
    parser.add_argument("--device", help="cpu, cuda or auto (default: the certificate's, if it is available)")
    parser.add_argument("--threads", type=positive, metavar="N", help="number of threads (default: the certificate's)")
    add_data(parser)
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="save the certificate of this run there (default: it is not saved)"
    )


def run(parsed: argparse.Namespace) -> Answer:
    """Compare two certificates, the second one made here unless it is given, and print where they first differ."""
    from mlpbench.certifying import certificate
    from mlpbench.certifying.divergence import drift, first_divergence
    from mlpbench.cli.output import make_folder, say

    given = certificate.read(parsed.certificate)
    if parsed.other:
        own = certificate.read(parsed.other)
    else:
        if parsed.results:
            make_folder(parsed.results)
        own = _run_again(parsed, given)
        if parsed.results:
            path = certificate.place(parsed.results, own)
            certificate.write(path, own)
            say(f"This run was saved as: {path}")
    second = parsed.other.name if parsed.other else "this run"
    for line in _surroundings(given, own, second):
        say(line)
    divergence = first_divergence(given, own)
    if divergence is None:
        say(_agreement(given, own))
        return Answer(0)
    say(f"diverged at {divergence.stage}: {_size(divergence)}")
    distances = drift(given, own)
    if distances:
        last = distances[-1]
        say(f"parameters after step {last.step} differ by {last.relative_norm:.2g} (relative norm)")
    if given.num_steps == own.num_steps:
        say(f"test accuracy: certificate {given.test_accuracy:.4f}, {second} {own.test_accuracy:.4f}")
    return Answer(1)


def _run_again(parsed: argparse.Namespace, given: "Certificate") -> "Certificate":
    from mlpbench.certifying.certify import certify
    from mlpbench.machine.environment import resolve_device

    device = parsed.device or given.config.device
    try:
        resolve_device(device)
    except InputError as error:
        if parsed.device:
            raise
        print(f"mlpbench: {printable(str(error))}: verifying on the cpu", file=sys.stderr)
        device = "cpu"
    engine = parsed.engine or given.config.engine
    config = replace(given.config, engine=engine, device=device, num_threads=parsed.threads or given.num_threads)
    return certify(config, given.num_steps, given.zoom)


def _surroundings(given: "Certificate", own: "Certificate", second: str) -> Iterator[str]:
    """Yield the lines on the differences between the machines and stacks, and on what is not known about them."""
    from mlpbench.certifying.levels import compare_surroundings

    likeness = compare_surroundings(given, own)
    for name, (theirs, ours) in likeness.differing.items():
        yield f"{name}: certificate {theirs}, {second} {ours}"
    machines = given.environment.hardware.compare(own.environment.hardware)
    unknown = list(dict.fromkeys((*machines.unknown, *likeness.unknown)))
    if unknown:
        yield f"not recorded in both certificates: {', '.join(unknown)}"
    if machines.unknown and not machines.differing:
        yield "so it is not known whether both are of one machine"
    if not unknown and not likeness.differing:
        yield "machine and software stack are the same"


def _agreement(given: "Certificate", own: "Certificate") -> str:
    from mlpbench.certifying.levels import confirmed_levels
    from mlpbench.certifying.scope import scope

    shorter, longer = sorted((given.num_steps, own.num_steps))
    steps = f"{shorter} steps" if shorter == longer else f"the first {shorter} of {longer} steps"
    levels = [f"L{level} ({scope(level, [(given, own)])})" for level in confirmed_levels(given, own)]
    confirmed = ", ".join(levels) or "no level"
    return f"verified: all bits equal over {steps} ({given.arithmetic}); confirms {confirmed}"


def _size(divergence: "Divergence") -> str:
    num_samples, num_different = divergence.num_samples, divergence.num_different
    if not num_samples:
        return (
            "the tensors differ, but the two certificates store no values of it in common; "
            "`mlpbench certify --zoom STEP` stores them"
        )
    if divergence.max_abs is None:
        return (
            f"the tensors differ, but not in the {num_samples} sampled values (only few values are stored; "
            "use `mlpbench certify --zoom STEP` for more)"
        )
    verb = "differs" if num_different == 1 else "differ"
    return (
        f"{num_different} of the {num_samples} sampled values {verb}: at most {divergence.max_abs:.3g} (absolute), "
        f"{divergence.ulps:,} ULP; relative norm {divergence.relative_norm:.2g}"
    )
