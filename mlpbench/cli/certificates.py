"""Verbs about what a run computed: certify, verify."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from mlpbench import certificate
from mlpbench.certificate import Certificate, Divergence
from mlpbench.cli.options import RESULTS, Verbs, add_workload, positive, settings_of
from mlpbench.levels import LEVELS, axes, environment_differences
from mlpbench.records import InputError, RunConfig, override


def add_verbs(verbs: Verbs) -> None:
    """Name the verbs and their arguments."""
    certify = verbs.add_parser("certify", help="record what a run computes, for another machine to verify")
    certify.add_argument("out", nargs="?", type=Path, metavar="OUT.json", help="default: among this machine's results")
    certify.add_argument("--engine", help="portable (the default) or eager")
    certify.add_argument("--steps", type=positive, default=600, metavar="N", help="default: 600, an epoch")
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
    verify.add_argument("--device", help="cpu, cuda or auto (default: the certificate's, if it is here)")
    verify.add_argument("--threads", type=positive, metavar="N", help="number of threads (default: the certificate's)")
    verify.add_argument("--data", metavar="DIR", help="where data sets are kept (else $MLPBENCH_DATA)")
    verify.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where our own certificate goes")
    verify.set_defaults(run=_verify)


def _certify(parsed: argparse.Namespace) -> int:
    from mlpbench.certify import certify

    engine = [f"engine={parsed.engine}"] if parsed.engine else []
    config = override(RunConfig(engine="portable"), [*engine, *settings_of(parsed)])
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
        own = _again(parsed, given)
        path = certificate.place(parsed.results, own)
        certificate.write(path, own)
        print(f"our own certificate: {path}")
    differences = environment_differences(given, own)
    for name, (theirs, ours) in differences.items():
        print(f"differs: {name}: {theirs} there, {ours} here")
    if not differences:
        print("machine and stack are the same")
    divergence = certificate.first_divergence(given, own)
    steps = min(given.num_steps, own.num_steps)
    if divergence is None:
        levels = ", ".join(f"L{level} ({LEVELS[level]})" for level in axes(given, own))
        print(f"verified: the same bits in {steps} steps, {given.arithmetic}; speaks for {levels}")
        return 0
    print(f"diverged at {divergence.stage}: {_size(divergence)}")
    apart = certificate.drift(given, own)
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
    config = replace(given.config, device=device, num_threads=parsed.threads or given.config.num_threads)
    return certify(config, given.num_steps, given.zoom)


def _size(divergence: Divergence) -> str:
    if not divergence.num_samples:
        return "the digests differ, and neither keeps values of this step; `mlpbench certify --zoom STEP` does"
    if divergence.max_abs is None:
        return f"the digests differ, though none of the {divergence.num_samples} values that are kept does"
    return (
        f"{divergence.num_different} of {divergence.num_samples} values that are kept differ; "
        f"at most {divergence.max_abs:.3g} (absolute), {divergence.ulps:,} ULP; relative norm "
        f"{divergence.relative_norm:.2g}"
    )
