"""Test that compiled code is loaded only as it was built, and only from where no other user can write."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mlpbench.config import RunConfig
from mlpbench.engines.compiled import _CompiledStep
from mlpbench.engines.cpp import cache
from mlpbench.errors import InputError
from tests.conformance import needs_compiler
from tests.engines.cpp.small_library import digest_of, visible

pytestmark = needs_compiler

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to another user")
ANOTHER_USER = 12345


@pytest.fixture
def spy(tmp_path):
    """Return a library whose code writes a file as soon as it is loaded, and that file."""
    trace, source, path = tmp_path / "executed", tmp_path / "spy.cpp", tmp_path / "spy.so"
    source.write_text(
        "#include <cstdio>\n"
        f'__attribute__((constructor)) static void run() {{ std::fclose(std::fopen("{trace}", "w")); }}\n'
        'extern "C" int seven() { return 8; }\n'
    )
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return path, trace


def test_the_spy_writes_its_file_when_it_is_loaded(spy):
    path, trace = spy
    assert ctypes.CDLL(str(path)).seven() == 8
    assert trace.exists()


def put(fake: Path, library) -> None:
    """Put another library into the place of one that was built, with a digest that fits."""
    draft = library.path().with_name("draft")
    shutil.copy(fake, draft)
    cache.store(draft, library.path())


def build(library) -> Path:
    """Build without loading: a process keeps what it has loaded, so each test loads once."""
    library.build(library.path())
    return library.path()


# --- damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "cut in half": (cut, "differs from its SHA-256"),
    "a byte changed": (flip, "differs from its SHA-256"),
    "empty": (lambda path: path.write_bytes(b""), "differs from its SHA-256"),
    "not a library": (lambda path: path.write_text("not a library"), "differs from its SHA-256"),
    "without a digest": (lambda path: digest_of(path).unlink(), "has no SHA-256"),
    "digest empty": (lambda path: digest_of(path).write_bytes(b""), "differs from its SHA-256"),
    "digest of another name": (
        lambda path: digest_of(path).write_text(digest_of(path).read_text().replace("small", "other")),
        "differs from its SHA-256",
    ),
    "link": (lambda path: path.symlink_to(path.rename(path.with_name("elsewhere.so"))), "cannot be used"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "cannot be used (not a file)"),
    "others can write it": (lambda path: path.chmod(0o666), "cannot be used (others can write it)"),
    "digest that others can write": (lambda path: digest_of(path).chmod(0o622), "cannot be used (others can write it)"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_library_is_built_again_with_one_line(library, capfd, name):
    change, reason = DAMAGES[name]
    path = build(library)
    whole = path.read_bytes()
    change(path)
    capfd.readouterr()
    assert library.load().seven() == 7
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"engine small: {path} {reason}")
    assert line.endswith("; building it again, which takes some seconds")
    assert not path.is_symlink()
    assert path.read_bytes() == whole
    assert cache.damage(path) is None


def test_digest_is_in_the_format_of_sha256sum(library):
    path = build(library)
    assert digest_of(path).read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"


def test_library_replaced_by_another_is_not_executed(library, spy):
    fake, trace = spy
    shutil.copy(fake, build(library))
    assert library.load().seven() == 7
    assert not trace.exists()


def test_library_that_cannot_be_loaded_is_built_again(library, tmp_path, capfd):
    build(library)
    (tmp_path / "text").write_text("not a library, though its digest is right")
    put(tmp_path / "text", library)
    assert library.load().seven() == 7
    assert "cannot be loaded" in capfd.readouterr().err


def test_compiler_that_makes_no_library_leaves_nothing(library, monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo text > "$2"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(InputError, match=r"small: the library that was built cannot be loaded .*; engine=eager does"):
        library.load()
    assert visible(library.path().parent) == []


# --- other users


def test_folders_are_created_for_this_user_alone(library, tmp_path):
    umask = os.umask(0)
    try:
        library.load()
    finally:
        os.umask(umask)
    folder = library.path().parent
    assert [oct(path.stat().st_mode & 0o777) for path in (tmp_path / "cache", folder)] == ["0o700"] * 2
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


# 0o1700: another process was killed while it removed what others may have put there.
OPEN = (0o772, 0o777, 0o1777, 0o1700)


@pytest.mark.parametrize("mode", [0o755, 0o2700, *OPEN])
def test_rights_of_a_folder_of_this_user_are_tightened(library, mode, spy, capfd):
    fake, trace = spy
    folder = build(library).parent
    folder.chmod(mode)
    if mode in OPEN:
        # Somebody else could have put both there.
        put(fake, library)
    assert library.load().seven() == 7
    assert folder.stat().st_mode & 0o7777 == 0o700
    assert not trace.exists()
    assert ("has no SHA-256; building it again" in capfd.readouterr().err) == (mode in OPEN)


def test_process_that_is_killed_while_it_clears_a_folder_does_not_make_it_good(library, monkeypatch, spy):
    fake, trace = spy
    folder = build(library).parent
    put(fake, library)
    for mode in (0o777, 0o1700):
        folder.chmod(mode)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda self, **options: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                library.load()
        assert folder.stat().st_mode & 0o7777 == 0o1700
    assert library.load().seven() == 7
    assert not trace.exists()


def others(tmp_path):
    (tmp_path / "cache").chmod(0o777)


def linked(tmp_path):
    folder = tmp_path / "cache" / "mlpbench"
    folder.symlink_to(folder.rename(tmp_path / "elsewhere"))


def linked_above(tmp_path):
    """Put a link in the path, which leads through a folder that others can write."""
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "cache").rename(tmp_path / "open" / "cache")
    (tmp_path / "cache").symlink_to(tmp_path / "open" / "cache")


def in_a_circle(tmp_path):
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").symlink_to(tmp_path / "cache")


def no_folder(tmp_path):
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("")


REFUSED = {
    "parent that others can write": (others, "cache can be written by others, so others could put code into"),
    "link": (linked, "mlpbench is a link; set"),
    "link through a folder that others can write": (linked_above, "open can be written by others, so others"),
    "link to itself": (in_a_circle, "cannot be used (Too many levels of symbolic links)"),
    "file": (no_folder, "cannot be used (Not a directory)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folder_that_others_can_change_is_refused_and_nothing_in_it_executed(library, spy, tmp_path, name):
    change, message = REFUSED[name]
    fake, trace = spy
    build(library)
    put(fake, library)
    change(tmp_path)
    with pytest.raises(InputError) as error:
        library.load()
    assert message in str(error.value)
    assert str(error.value).endswith("set XDG_CACHE_HOME to a folder that only you can write")
    assert str(error.value).isprintable()
    assert not trace.exists()


def test_advice_on_a_folder_that_others_can_write_helps(library, tmp_path):
    build(library)
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(InputError, match="run `chmod go-w ") as error:
        library.load()
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True)
    assert library.load().seven() == 7


def test_folder_in_one_with_the_sticky_bit_is_used(library, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)
    assert library.load().seven() == 7


def test_folder_can_be_named_from_the_working_folder(library, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert library.load().seven() == 7
    assert (tmp_path / "cache" / "mlpbench").is_dir()


def test_link_of_this_user_to_a_private_place_is_used(library, tmp_path):
    (tmp_path / "place").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to("place")
    assert library.load().seven() == 7
    assert (tmp_path / "place" / "mlpbench").is_dir()


@needs_root
@pytest.mark.parametrize("name", ["cache/mlpbench", "cache"])
def test_folder_of_another_user_is_refused_and_nothing_in_it_executed(library, spy, tmp_path, name):
    fake, trace = spy
    build(library)
    put(fake, library)
    os.chown(tmp_path / name, ANOTHER_USER, -1)
    with pytest.raises(InputError, match=f"{name} belongs to user {ANOTHER_USER}"):
        library.load()
    assert not trace.exists()


@needs_root
@pytest.mark.parametrize("is_digest", [True, False])
def test_file_of_another_user_is_not_executed(library, spy, capfd, is_digest):
    fake, trace = spy
    path = build(library)
    put(fake, library)
    os.chown(digest_of(path) if is_digest else path, ANOTHER_USER, -1)
    assert library.load().seven() == 7
    assert f"cannot be used (belongs to user {ANOTHER_USER})" in capfd.readouterr().err
    assert not trace.exists()
    assert path.stat().st_uid == 0


@needs_root
def test_link_of_another_user_is_refused(library, tmp_path):
    (tmp_path / "place").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to("place")
    os.chown(tmp_path / "cache", ANOTHER_USER, -1, follow_symlinks=False)
    with pytest.raises(InputError, match=f"cache belongs to user {ANOTHER_USER}, so others could put code into"):
        library.load()


def test_group_of_this_user_alone_may_write_above(library, monkeypatch, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o770)
    monkeypatch.setattr(cache.grp, "getgrgid", lambda number: group)
    group = cache.grp.struct_group(("somebody", "x", 0, []))
    with pytest.raises(InputError, match="can be written by others"):
        library.load()
    own = cache.pwd.getpwuid(os.geteuid()).pw_name
    group = cache.grp.struct_group((own, "x", 0, [own, "another"]))
    with pytest.raises(InputError, match="can be written by others"):
        library.load()
    group = cache.grp.struct_group((own, "x", 0, []))
    assert library.load().seven() == 7


def test_user_without_a_home_gets_one_line(library, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(InputError, match="there is no home folder for compiled code; set XDG_CACHE_HOME"):
        library.load()


# --- the folders of other compilers


def test_other_compilers_keep_their_code_in_a_private_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SOME_CACHE_DIR", "")
    cache.give_private_folder("SOME_CACHE_DIR", "some")
    assert os.environ["SOME_CACHE_DIR"] == str(tmp_path / "mlpbench" / "some")
    assert (tmp_path / "mlpbench" / "some").stat().st_mode & 0o777 == 0o700


def test_folder_that_the_user_names_for_another_compiler_is_checked(monkeypatch, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("SOME_CACHE_DIR", str(tmp_path / "open" / "some"))
    with pytest.raises(InputError, match=r"open can be written by others, .* set SOME_CACHE_DIR to a folder that only"):
        cache.give_private_folder("SOME_CACHE_DIR", "some")


def test_folder_of_another_compiler_that_others_could_write_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("SOME_CACHE_DIR", str(folder))
    # Also the second time: what others have put there does not become good by itself.
    for _ in range(2):
        with pytest.raises(
            InputError, match="can be written by others, who may have put code there; delete it, or set"
        ):
            cache.give_private_folder("SOME_CACHE_DIR", "some")
    folder.chmod(0o755)
    cache.give_private_folder("SOME_CACHE_DIR", "some")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_torch_compile_is_refused_a_folder_that_others_can_write(monkeypatch, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "open"))
    with pytest.raises(InputError, match="set TORCHINDUCTOR_CACHE_DIR to a folder that only you can write"):
        _CompiledStep(RunConfig(engine="compiled"), has_stages=False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _CompiledStep(RunConfig(engine="compiled"), has_stages=False)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mlpbench" / "inductor")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
