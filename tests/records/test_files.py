"""A file is replaced completely or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from mlpbench.errors import InputError, OutputError
from mlpbench.records import files


def test_content_is_replaced_and_its_rights_and_links_stay(tmp_path):
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    files.write(link, "new é")
    assert (path.read_text(encoding="utf-8"), stat.S_IMODE(path.stat().st_mode)) == ("new é", 0o640)
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_new_file_gets_its_folder_and_usual_rights(tmp_path):
    path = tmp_path / "b" / "c" / "d"
    files.write(path, b"\x00")
    (tmp_path / "usual").touch()
    assert (path.read_bytes(), path.stat().st_mode) == (b"\x00", (tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_failure_leaves_the_old_content_and_no_draft(tmp_path, monkeypatch, number):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=f"cannot write .*: {os.strerror(number)}; make room or"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".", "file/below", "a\0b", "n" * 300])
def test_path_that_cannot_be_is_a_mistake_of_the_user(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(InputError, match="choose another place") as caught:
        files.write(Path(name), "new")
    assert caught.value.exit_code == 2


def test_text_that_utf8_cannot_hold_is_written_with_escapes(tmp_path):
    files.write(tmp_path / "a", "\udcff")
    assert (tmp_path / "a").read_text() == "\\udcff"


def test_device_is_written_to_directly():
    before = Path(os.devnull).stat()
    files.write(Path(os.devnull), "x")
    assert os.path.samestat(before, Path(os.devnull).stat())


def test_draft_that_a_killed_process_left_goes_with_the_next_write(tmp_path):
    old, new = tmp_path / ".a.1234.tmp", tmp_path / ".a.5678.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    files.write(tmp_path / "a", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.5678.tmp", "a"]
