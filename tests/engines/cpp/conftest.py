import pytest

from mlpbench.engines.cpp.library import Library
from tests.engines.cpp.small_library import small_library


@pytest.fixture
def library(monkeypatch, tmp_path) -> Library:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return small_library(tmp_path)
