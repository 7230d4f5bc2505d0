from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosaicvi.errors import InputError
from mosaicvi.store import files, temporaries
from mosaicvi.store.files import (
    atomic_directory,
    atomic_path,
    check_output,
    check_output_directory,
    find_directory,
    remove_directory,
)

SOURCE = str(Path(files.__file__).parents[2])
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=60,
    )


def is_one_line(error: BaseException, *parts: str) -> bool:
    return "\n" not in str(error) and all(part in str(error) for part in parts)


# Files


def write_file(final: Path, text: str, error: BaseException) -> None:
    with atomic_path(final, overwrite=True) as temporary:
        temporary.write_text(text)
        raise error


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    final = tmp_path / "table.csv.gz"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.name.endswith(".csv.gz")
        assert not temporary.exists()
        temporary.write_text("whole")
        assert not final.exists()
    assert os.listdir(tmp_path) == ["table.csv.gz"]
    assert final.read_text() == "whole"


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_leaves_the_previous_file(tmp_path: Path, error: BaseException) -> None:
    final = tmp_path / "out.csv"
    final.write_text("before")
    with pytest.raises(type(error)):
        write_file(final, "half", error)
    assert os.listdir(tmp_path) == ["out.csv"]
    assert final.read_text() == "before"


def test_reading_and_writing_the_same_path(tmp_path: Path) -> None:
    final = tmp_path / "data.txt"
    final.write_text("abc")
    with (
        atomic_path(final, overwrite=True) as temporary,
        final.open() as source,
        temporary.open("w") as target,
    ):
        for line in source:
            target.write(line.upper())
    assert final.read_text() == "ABC"


def test_an_existing_file_is_refused_before_any_work(tmp_path: Path) -> None:
    final = tmp_path / "out.csv"
    final.write_text("before")
    with pytest.raises(InputError) as caught, atomic_path(final):
        pytest.fail("the work began")
    assert is_one_line(caught.value, str(final), "pass overwrite=True")


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "out.csv"

    def write() -> None:
        with atomic_path(final) as temporary:
            temporary.write_text("mine")
            final.write_text("theirs")

    with pytest.raises(InputError, match="exists; pass overwrite=True or choose another name"):
        write()
    assert final.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize(
    ("name", "part"),
    [("none/out.csv", "does not exist"), ("", "is no name"), ("..", "is no name"), ("x" * 300, "cannot be")],
)
def test_an_impossible_place_is_refused(tmp_path: Path, name: str, part: str) -> None:
    path = Path(tmp_path, name) if name else Path(".")
    with pytest.raises(InputError) as caught:
        check_output(path, overwrite=True)
    assert is_one_line(caught.value, part)


def test_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="not a regular file"):
        check_output(Path("/dev/null"), overwrite=True)


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if AS_ROOT:
        monkeypatch.setattr(os, "access", lambda *_: False)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="not writable; choose another"):
        check_output(tmp_path / "out.csv", overwrite=True)
    tmp_path.chmod(0o700)


def test_a_symlink_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = elsewhere / "target.csv"
    target.write_text("untouched")
    final = tmp_path / "out.csv"
    final.symlink_to(target)
    with pytest.raises(InputError, match="exists"):
        check_output(final, overwrite=False)
    with atomic_path(final, overwrite=True) as temporary:
        temporary.write_text("new")
    assert not final.is_symlink()
    assert final.read_text() == "new"
    assert target.read_text() == "untouched"
    assert os.listdir(elsewhere) == ["target.csv"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_umask_decides_the_permissions(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "out.csv") as temporary:
            temporary.write_text("x")
        with atomic_directory(tmp_path / "model") as folder:
            (folder / "part").write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "model" / "part").stat().st_mode & 0o777 == 0o666 & ~umask


# Full disks

FILL = """
    import sys
    from pathlib import Path
    from mosaicvi.errors import InputError
    from mosaicvi.store.files import atomic_directory, atomic_path
    folder, way = Path(sys.argv[1]), sys.argv[2]
    try:
        if way == "folder":
            with atomic_directory(folder / "model", overwrite=True) as temporary:
                (temporary / "part").write_bytes(b"x" * (4 << 20))
        else:
            with atomic_path(folder / "out.h5", overwrite=True) as temporary:
                if way == "h5":
                    import h5py, numpy
                    with h5py.File(temporary, "w") as file:
                        file["x"] = numpy.ones(1 << 20)
                else:
                    temporary.write_bytes(b"x" * (4 << 20))
    except InputError as error:
        print(error)
        sys.exit(2)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if not AS_ROOT or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check_full_disk(folder: Path, code: str, way: str, reason: str) -> None:
    previous = folder / ("model/part" if way == "folder" else "out.h5")
    previous.parent.mkdir(exist_ok=True)
    previous.write_text("before")
    names = sorted(os.listdir(folder))
    result = run_python(code, folder, way)
    assert result.returncode == 2, result.stderr
    assert reason in result.stdout
    assert "free space there or choose another folder" in result.stdout
    assert result.stdout.count("\n") == 1
    assert previous.read_text() == "before"
    assert sorted(os.listdir(folder)) == names


@pytest.mark.parametrize("way", ["plain", "h5", "folder"])
def test_a_full_disk_leaves_the_previous_output(small_disk: Path, way: str) -> None:
    check_full_disk(small_disk, FILL, way, "the disk is full")


@pytest.mark.parametrize("way", ["plain", "folder"])
def test_a_limit_on_file_sizes_leaves_the_previous_output(tmp_path: Path, way: str) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    check_full_disk(tmp_path, limited + textwrap.dedent(FILL), way, "larger than the system allows")


def test_a_full_disk_is_found_behind_other_errors(tmp_path: Path) -> None:
    inner = RuntimeError("write failed: errno = 28, error message = 'No space left on device'")
    with pytest.raises(InputError, match="the disk is full"), atomic_path(tmp_path / "out"):
        raise ValueError("while writing X") from inner
    with pytest.raises(OSError, match="Input/output"), atomic_path(tmp_path / "out"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


# Folders


def write_folder(
    final: Path, text: str, *, overwrite: bool = True, error: BaseException | None = None
) -> None:
    with atomic_directory(final, overwrite=overwrite) as temporary:
        (temporary / "a").write_text(text)
        if error is not None:
            raise error
        (temporary / "b").write_text(text)


def read_folder(final: Path) -> str:
    found = find_directory(final)
    texts = {(found / name).read_text() for name in ("a", "b")}
    assert len(texts) == 1, "half old and half new"
    return texts.pop()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_renameat2", lambda *_: False)
    final = tmp_path / "model"
    write_folder(final, "one", overwrite=False)
    write_folder(final, "two")
    assert read_folder(final) == "two"
    with pytest.raises(InputError, match="exists; pass overwrite=True or choose another name"):
        write_folder(final, "three", overwrite=False)
    with pytest.raises(RuntimeError, match="stop"):
        write_folder(final, "four", error=RuntimeError("stop"))
    assert read_folder(final) == "two"
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    final = tmp_path / "home"
    final.mkdir()
    (final / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError) as caught:
        write_folder(final, "x")
    assert is_one_line(caught.value, "thesis.tex", "not replaced")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        check_output_directory(final, overwrite=True, holds={"a", "b"})
    assert (final / "thesis.tex").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["home"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        write_folder(tmp_path / "model", "x")


def test_a_symlinked_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "kept").write_text("kept")
    (tmp_path / "model").symlink_to(real)
    write_folder(tmp_path / "model", "new")
    assert not (tmp_path / "model").is_symlink()
    assert read_folder(tmp_path / "model") == "new"
    assert os.listdir(real) == ["kept"]


def test_a_swap_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "model"
    write_folder(final, "old")
    monkeypatch.setattr(files, "_renameat2", lambda *_: False)
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if ".mosaicvi-tmp-" in str(source):
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="broken"):
        write_folder(final, "new")
    assert read_folder(final) == "old"
    assert os.listdir(tmp_path) == ["model"]


def die_at(count: int) -> None:
    """End this process at the given system call on files, as if it were killed there."""
    left = count

    def hook(event: str, _: object) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "shutil.rmtree"):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hook)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_renameat2", lambda *_: False)
    final = tmp_path / "model"
    seen = set()
    for moment in range(200):
        write_folder(final, "old")
        assert os.listdir(tmp_path) == ["model"], "leftovers of a killed process"
        child = os.fork()
        if child == 0:
            die_at(moment)
            write_folder(final, "new")
            os._exit(0)
        killed = os.waitpid(child, 0)[1] != 0
        seen.add(read_folder(final))
        if not killed:
            break
    assert not killed
    assert moment > 10
    assert seen == {"old", "new"}


def test_removing_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "x")
    remove_directory(tmp_path / "model")
    assert os.listdir(tmp_path) == []


# Leftovers


def leftover(folder: Path, *, machine: str, pid: int, started: str) -> Path:
    path = folder / f".mosaicvi-tmp-{machine}-{pid}-{started}-{'0' * 16}.csv"
    path.write_text("half")
    return path


def test_only_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    here, alive = temporaries._machine(), str(temporaries._started(os.getpid()) or 0)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = leftover(tmp_path, machine=here, pid=dead.pid, started="5")
    kept = [
        leftover(tmp_path, machine=here, pid=os.getpid(), started=alive),
        leftover(tmp_path, machine="0" * 8, pid=dead.pid, started="5"),
        tmp_path / ".mosaicvi-tmp-notes.csv",
    ]
    kept[2].write_text("mine")
    with atomic_path(tmp_path / "out.csv") as temporary:
        temporary.write_text("x")
    assert not gone.exists()
    assert all(path.exists() for path in kept)
    week_ago = kept[1].stat().st_mtime - 8 * 24 * 3600
    os.utime(kept[1], (week_ago, week_ago))
    temporaries.sweep(tmp_path)
    assert [path.exists() for path in kept] == [True, False, True]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_leftover_of_an_earlier_process_with_the_same_number_is_removed(tmp_path: Path) -> None:
    gone = leftover(tmp_path, machine=temporaries._machine(), pid=os.getpid(), started="1")
    temporaries.sweep(tmp_path)
    assert not gone.exists()


def test_a_killed_writer_leaves_the_previous_file(tmp_path: Path) -> None:
    final = tmp_path / "out.csv"
    final.write_text("before")
    code = """
        import os, signal, sys
        from pathlib import Path
        from mosaicvi.store.files import atomic_path
        with atomic_path(Path(sys.argv[1]), overwrite=True) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, final).returncode == -signal.SIGKILL
    assert final.read_text() == "before"
    assert len(os.listdir(tmp_path)) == 2
    with atomic_path(final, overwrite=True) as temporary:
        temporary.write_text("after")
    assert os.listdir(tmp_path) == ["out.csv"]
    assert final.read_text() == "after"
