"""Run the C++ engines under the address and undefined-behaviour sanitizers.

    python docs/evidence/sanitize.py [--levels default avx2 avx512]

Run the tests of both engines, and the part of the conformance suite that trains with them. Their libraries are built
with -fsanitize=address,undefined, once for each vector level of PyTorch that this processor has. A sanitizer that finds
something ends the process, so the run fails. Needs GCC. Tests that build a library in their own way are left out.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

TESTS = ("tests/engines/cpp/test_fused.py", "tests/engines/portable/test_fused.py", "tests/engines/test_engines.py")
CHOSEN = "fused and not mnist and not vector_lengths and not compiler"
FLAGS = "-g -fsanitize=address,undefined -fno-sanitize-recover=all"


def main() -> int:
    """Run the tests at each level, and return the largest exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", nargs="+", default=["default", "avx2", "avx512"])
    parsed = parser.parse_args()
    compiler = shutil.which("g++")
    if not compiler:
        parser.error("needs g++")
    # The C++ library too: without it the sanitizer cannot pass on an exception of PyTorch.
    preloaded = [_find(compiler, name) for name in ("libasan.so", "libstdc++.so")]
    codes = []
    for level in parsed.levels:
        with tempfile.TemporaryDirectory() as cache:
            env = os.environ | {
                "ATEN_CPU_CAPABILITY": level,
                "CXX": f"{compiler} {FLAGS}",
                "LD_PRELOAD": " ".join(preloaded),
                # An interpreter never frees everything.
                "ASAN_OPTIONS": "detect_leaks=0",
                "XDG_CACHE_HOME": cache,
            }
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "-k", CHOSEN]
            codes.append(subprocess.run(command, env=env, check=False).returncode)
            print(f"{level}: {'clean' if codes[-1] == 0 else f'exit code {codes[-1]}'}", flush=True)
    return max(codes)


def _find(compiler: str, library: str) -> str:
    command = [compiler, f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
