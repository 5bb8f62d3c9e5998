"""A library of one function, which is built in a second, and its files in the cache."""

from pathlib import Path

from mlpbench.engines.cpp.library import Library


def small_library(folder: Path) -> Library:
    source = folder / "small.cpp"
    source.write_text('extern "C" int seven() { return 7; }\n')
    return Library(engine="small", source=source, instead="engine=eager does without it")


def digest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")
