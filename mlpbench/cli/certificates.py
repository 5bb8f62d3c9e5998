"""Verbs about what a run computed: certify, verify."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from mlpbench import certificate
from mlpbench.certificate import NUM_STEPS, Certificate
from mlpbench.cli.options import RESULTS, Verbs, add_workload, make_folder, positive, settings_of
from mlpbench.divergence import Divergence, drift, first_divergence
from mlpbench.levels import LEVELS, axes, environment_differences
from mlpbench.records import InputError, RunConfig, override


def add_verbs(verbs: Verbs) -> None:
    """Name the verbs and their arguments."""
    certify = verbs.add_parser("certify", help="record what a run computes, for another machine to verify")
    certify.add_argument("out", nargs="?", type=Path, metavar="OUT.json", help="default: among this machine's results")
    certify.add_argument("--engine", help="any but other libraries (default: portable)")
    certify.add_argument(
        "--steps", type=positive, default=NUM_STEPS, metavar="N", help=f"default: {NUM_STEPS}, an epoch"
    )
    certify.add_argument("--zoom", type=int, metavar="STEP", help="keep more values of this step")
    add_workload(certify)
    certify.set_defaults(run=_certify)

    verify = verbs.add_parser(
        "verify", help="run a certificate again and compare: exit code 0 equal, 1 diverged, 2 could not check"
    )
    verify.add_argument("certificate", type=Path, metavar="CERT.json")
    verify.add_argument(
        "other", nargs="?", type=Path, metavar="OTHER.json", help="compare with this one, and run nothing"
    )
    verify.add_argument("--engine", help="another of the same arithmetic (default: the certificate's)")
    verify.add_argument("--device", help="cpu, cuda or auto (default: the certificate's, if it is here)")
    verify.add_argument("--threads", type=positive, metavar="N", help="number of threads (default: the certificate's)")
    verify.add_argument("--data", metavar="DIR", help="where data sets are kept (else $MLPBENCH_DATA)")
    verify.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where our own certificate goes")
    verify.set_defaults(run=_verify)


def _certify(parsed: argparse.Namespace) -> int:
    from mlpbench.certify import certify

    engine = [f"engine={parsed.engine}"] if parsed.engine else []
    config = override(RunConfig(engine="portable"), [*engine, *settings_of(parsed)])
    make_folder(parsed.out.parent if parsed.out else parsed.results)
    made = certify(config, parsed.steps, parsed.zoom)
    path = parsed.out or certificate.place(parsed.results, made)
    certificate.write(path, made)
    print(f"{path}: {made.num_entries:,} digests of {made.num_steps} steps, {made.arithmetic}")
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    given = certificate.read(parsed.certificate)
    if parsed.other:
        own = certificate.read(parsed.other)
    else:
        make_folder(parsed.results)
        own = _again(parsed, given)
        path = certificate.place(parsed.results, own)
        certificate.write(path, own)
        print(f"our own certificate: {path}")
    differences = environment_differences(given, own)
    for name, (theirs, ours) in differences.items():
        print(f"differs: {name}: {theirs} there, {ours} here")
    if not differences:
        print("machine and stack are the same")
    divergence = first_divergence(given, own)
    if divergence is None:
        shorter, longer = sorted((given.num_steps, own.num_steps))
        steps = f"{shorter} steps" if shorter == longer else f"the first {shorter} of {longer} steps"
        levels = ", ".join(f"L{level} ({LEVELS[level]})" for level in axes(given, own)) or "no level"
        print(f"verified: the same bits in {steps}, {given.arithmetic}; speaks for {levels}")
        return 0
    print(f"diverged at {divergence.stage}: {_size(divergence)}")
    apart = drift(given, own)
    if apart:
        print(f"parameters after step {apart[-1].step}: {apart[-1].relative_norm:.2g} apart (relative norm)")
    if given.num_steps == own.num_steps:
        print(f"test accuracy: {given.test_accuracy:.4f} there, {own.test_accuracy:.4f} here")
    return 1


def _again(parsed: argparse.Namespace, given: Certificate) -> Certificate:
    from mlpbench.certify import certify
    from mlpbench.environment import resolve_device

    device = parsed.device or given.config.device
    try:
        resolve_device(device)
    except InputError as error:
        if parsed.device:
            raise
        print(f"mlpbench: {error}: verifying on the cpu", file=sys.stderr)
        device = "cpu"
    engine = parsed.engine or given.config.engine
    config = replace(given.config, engine=engine, device=device, num_threads=parsed.threads or given.num_threads)
    return certify(config, given.num_steps, given.zoom)


def _size(divergence: Divergence) -> str:
    if not divergence.num_samples:
        return (
            "the digests differ, and the two keep no values of it in common; `mlpbench certify --zoom STEP` keeps them"
        )
    if divergence.max_abs is None:
        return f"the digests differ, though none of the {divergence.num_samples} values that are kept does"
    return (
        f"{divergence.num_different} of {divergence.num_samples} values that are kept differ; "
        f"at most {divergence.max_abs:.3g} (absolute), {divergence.ulps:,} ULP; relative norm "
        f"{divergence.relative_norm:.2g}"
    )
