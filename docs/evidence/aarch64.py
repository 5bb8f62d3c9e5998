"""Test whether certificates of an x86-64 machine hold on emulated aarch64.

    python docs/evidence/aarch64.py WORK --out FOLDER
    python docs/evidence/aarch64.py WORK --out FOLDER --torch 2.10.0 2.15.0

Make certificates here: portable arithmetic with two optimizers, both engines in C++, and PyTorch's own for contrast.
Verify each under qemu, with Python and PyTorch for aarch64. qemu plays two processors: one with NEON alone, and one
with SVE of 256 bits. Expected: portable is verified (exit code 0), eager diverges and names a stage (1). Otherwise this
script ends with 1. `fused` promises nothing between processors. But it fuses multiply and add on both, so it is
verified too.

This shows that PyTorch's build for aarch64, with its compiler, its kernels and its BLAS, makes the same bits in
portable arithmetic. It does not show ARM silicon. qemu executes aarch64 code on an x86 processor, and rounds as the
architecture says. A defect of a real processor would not be found. Times mean nothing.

Needs `qemu-aarch64-static`, `debootstrap`, `uv` and a C++ compiler for aarch64, which the emulated Python calls. It
needs neither root rights nor a kernel with support for qemu: packages are downloaded and unpacked, none is installed.
Everything goes into WORK (1.2 GB) and FOLDER. Up to 2.10, PyTorch's wheels for aarch64 on PyPI are for CPUs, and have
0.1 GB. Later ones are for CUDA; with them WORK grows by 5.5 GB. Nothing that is in WORK already is downloaded again. To
compare again without running anything:

    mlpbench verify FOLDER/portable-sgd.x86_64.json FOLDER/portable-sgd.aarch64-neon-torch2.10.0.json
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# In addition to Debian's smallest set, which has the C library.
PACKAGES = ["python3", "libgomp1", "libstdc++6"]
# Certificates need these. The version of torchvision follows from that of torch.
REQUIREMENTS = ["torchvision", "numpy", "scikit-learn"]
COMPILER = "aarch64-linux-gnu-g++"
INSTALL = {
    "qemu-aarch64-static": "apt-get install qemu-user-static",
    "debootstrap": "apt-get install debootstrap debian-archive-keyring",
    COMPILER: "apt-get install g++-aarch64-linux-gnu",
    # pip itself would choose the dependencies of a wheel for the machine that it runs on.
    "uv": "pip install uv",
}
# For each run the arguments of `certify`, and the exit code that `verify` should have.
RUNS = {
    "portable-sgd": ([], 0),
    "portable-nesterov": (["--set", "optimizer=nesterov"], 0),
    "portable_fused-sgd": (["--engine", "portable_fused"], 0),
    "fused-sgd": (["--engine", "fused"], 0),
    "eager-sgd": (["--engine", "eager"], 1),
}
ABOUT = """
import re, torch
blas = re.search(r"BLAS_INFO=(\\w+)", torch.__config__.show())
print(f"torch {torch.__version__}, BLAS {blas[1] if blas else '-'}, {torch.backends.cpu.get_cpu_capability()}")
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
    """Describe a processor that qemu plays."""

    qemu: str
    """The value of qemu's option `-cpu`."""
    model: str
    """The name in certificates."""
    part: str
    """ARM's number of the processor that PyTorch's own detection should see."""


PROCESSORS = {
    "neon": Processor(qemu="neoverse-n1", model="QEMU Neoverse N1", part="0xd0c"),
    # qemu 7.2 has no real processor of this width. So this one has every feature that qemu knows, and detection sees a
    # Neoverse V1.
    "sve": Processor(qemu="max,pauth-impdef=on,sve-default-vector-length=32", model="QEMU max, SVE256", part="0xd40"),
}


def tools() -> dict[str, str]:
    """Return the path of each program that is needed; end if one is missing."""
    if platform.machine() != "x86_64":
        sys.exit(f"this compares x86-64 with aarch64, and this machine is {platform.machine()}")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    programs = {name: shutil.which(name, path=path) for name in INSTALL}
    missing = [f"{name} is missing: {INSTALL[name]}" for name, place in programs.items() if place is None]
    if missing:
        sys.exit("\n".join(missing))
    return {name: place for name, place in programs.items() if place}


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder; make it first if it is missing, or was not finished."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(folder)
    return folder


def make_root(folder: Path, debootstrap: str, mirror: str) -> None:
    """Download and unpack Debian 12 for arm64; debootstrap chooses the packages and checks signatures."""
    downloads = folder / "downloads"
    command = [debootstrap, "--arch=arm64", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--download-only"]
    subprocess.run([*command, "bookworm", downloads, mirror], check=True, stdout=subprocess.DEVNULL)
    for package in sorted((downloads / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    shutil.rmtree(downloads)


def make_site(folder: Path, uv: str, torch: str) -> None:
    """Download and unpack PyTorch for aarch64, with its dependencies."""
    command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", folder, "--only-binary=:all:"]
    command += ["--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11"]
    # A cache on the same file system, where files are linked and not copied.
    command += ["--cache-dir", folder.parent / "cache"]
    subprocess.run([*command, f"torch=={torch}", *REQUIREMENTS], check=True)


def write_cpuinfo(root: Path, processor: Processor) -> None:
    """Write the file that a program under qemu reads as /proc/cpuinfo.

    Without it the program reads the host's file. Then certificates would have the name of the x86 processor, and
    PyTorch 2.15 crashes while it is imported (https://github.com/pytorch/cpuinfo/pull/398).
    """
    lines = {"model name": processor.model, "Features": "fp asimd", "CPU implementer": "0x41", "CPU architecture": "8"}
    lines |= {"CPU variant": "0x0", "CPU part": processor.part, "CPU revision": "1"}
    text = "".join(f"{key}\t: {value}\n" for key, value in lines.items())
    (root / "proc/cpuinfo").write_text("".join(f"processor\t: {i}\n{text}\n" for i in range(os.cpu_count() or 1)))


def python_here(work: Path, *arguments: str | Path) -> int:
    """Run this machine's Python with this checkout, and return the exit code."""
    paths = {"PYTHONPATH": str(CHECKOUT), "PYTHONPYCACHEPREFIX": str(work / "pycache")}
    return subprocess.run([sys.executable, *arguments], env=os.environ | paths, check=False).returncode


@dataclass(frozen=True, kw_only=True, slots=True)
class Emulated:
    """Describe a Python for aarch64."""

    qemu: str
    root: Path
    site: Path
    processor: Processor

    def run(self, *arguments: str | Path) -> int:
        """Run it, and return the exit code. No variable of the host is left that would choose x86 kernels."""
        write_cpuinfo(self.root, self.processor)
        variables = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        variables |= {
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(self.site)]),
            "PYTHONNOUSERSITE": "1",
            # An x86-64 program, which qemu leaves to the kernel.
            "CXX": COMPILER,
            "XDG_CACHE_HOME": str(self.root.parent / "built"),
            "PYTHONPYCACHEPREFIX": str(self.root.parent / "pycache"),
        }
        command = [self.qemu, "-cpu", self.processor.qemu, "-L", self.root, self.root / "usr/bin/python3.11"]
        return subprocess.run([*command, *arguments], env=variables, check=False).returncode


def main() -> None:
    """Make and verify the certificates, and print every result that was not expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for all that is downloaded and unpacked")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where certificates go")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--torch", nargs="+", default=["2.10.0"], metavar="VERSION", help="default: 2.10.0")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="source of Debian's packages")
    parsed = parser.parse_args()
    programs, work, out = tools(), parsed.work.resolve(), parsed.out.resolve()
    version = subprocess.run([programs["qemu-aarch64-static"], "--version"], capture_output=True, text=True, check=True)
    print(version.stdout.splitlines()[0], flush=True)
    root = once(work / "root", lambda folder: make_root(folder, programs["debootstrap"], parsed.mirror))
    out.mkdir(parents=True, exist_ok=True)
    for name, (arguments, _) in RUNS.items():
        certify = ["-m", "mlpbench", "certify", out / f"{name}.x86_64.json", "--steps", str(parsed.steps), *arguments]
        if python_here(work, *certify):
            sys.exit(f"{name}: certify failed, so there is no certificate")
    unexpected = []
    for torch in parsed.torch:
        site = once(work / f"torch-{torch}", lambda folder, torch=torch: make_site(folder, programs["uv"], torch))
        for kind, processor in PROCESSORS.items():
            python = Emulated(qemu=programs["qemu-aarch64-static"], root=root, site=site, processor=processor)
            print(f"\n== {processor.model} (qemu -cpu {processor.qemu})", flush=True)
            python.run("-c", ABOUT)
            for name, (_, expected) in RUNS.items():
                results = work / "results"
                shutil.rmtree(results, ignore_errors=True)
                print(f"\n{name}", flush=True)
                begin = time.monotonic()
                given = out / f"{name}.x86_64.json"
                code = python.run("-m", "mlpbench", "verify", given, "--results", results)
                print(f"exit code {code}, {time.monotonic() - begin:.0f} s", flush=True)
                if code != expected:
                    unexpected.append(f"{name}, torch {torch}, {processor.model}: exit code {code}, not {expected}")
                for path in results.glob("*/certificates/*.json"):
                    shutil.copy(path, out / f"{name}.aarch64-{kind}-torch{torch}.json")
    print("\n" + ("\n".join(unexpected) or "all as expected"))
    sys.exit(bool(unexpected))


if __name__ == "__main__":
    main()
