import os

import pytest

from tests.judging.pytest_benchmark_files import BENCHMARK_FILE, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder that the tests of a module share."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def real(folder) -> bytes:
    """Return a file that pytest-benchmark itself wrote."""
    (folder / "test_x.py").write_text(BENCHMARK_FILE)
    options = ["--benchmark-json=real.json", "--benchmark-min-rounds=5", "--benchmark-max-time=0.01"]
    process = run(folder, "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", *options, "test_x.py")
    assert "1 failed, 1 passed" in process.stdout
    return (folder / "real.json").read_bytes()
