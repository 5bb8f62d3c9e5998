"""Print this machine and its software stack as JSON."""

import argparse
import dataclasses
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "--peaks", action="store_true", help="also measure its peak rates of products and copies (seconds)"
    )


def run(parsed: argparse.Namespace) -> None:
    """Print the environment, and the peak rates if asked for."""
    from mlpbench.machine import environment

    current = environment.current()
    content = dataclasses.asdict(current) | {"machine": current.machine}
    content["hardware"]["caches"] = None if current.hardware.caches is None else dict(current.hardware.caches)
    content["stack"]["variables"] = dict(current.stack.variables)
    if parsed.peaks:
        from mlpbench.machine import peaks

        devices = ["cpu", "cuda"] if current.hardware.has_gpu else ["cpu"]
        rates = [peak for device in devices for peak in peaks.measure("-", environment.resolve_device(device))]
        content["peaks"] = [{k: v for k, v in dataclasses.asdict(peak).items() if k != "session"} for peak in rates]
    print(json.dumps(content, indent=2))
