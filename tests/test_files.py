"""Files that are whole or not there: modes, links, pipes, refusals, what a kill leaves."""

import errno
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import files
from fastlstm.files import check_writable, written_aside

needs_posix = pytest.mark.skipif(os.name == "nt", reason="modes, links and locks of POSIX")
needs_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="to root nothing is write-protected"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, so that names are short and files can be listed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text="new"):
    with written_aside(path) as file:
        file.write(text.encode())


def read(path):
    with open(path) as file:
        return file.read()


def make(path, text="old", mode=None):
    with open(path, "w") as file:
        file.write(text)
    if mode is not None:
        os.chmod(path, mode)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# What is written


@needs_posix
def test_a_file_that_runs_as_its_owner_does_so_no_more():
    """As after any other write, the mode loses the bits that lend a user's rights."""
    make("x", mode=0o4755)
    write("x")
    assert mode_of("x") == 0o755


@needs_posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_an_existing_file_keeps_its_mode(mode, umask):
    make("x", mode=mode)
    before = os.umask(umask)
    try:
        write("x")
    finally:
        os.umask(before)
    assert (read("x"), mode_of("x")) == ("new", mode)


@needs_posix
def test_a_new_file_has_the_mode_that_open_gives():
    for umask in (0o022, 0o077, 0o002):
        before = os.umask(umask)
        try:
            write(f"x{umask}")
        finally:
            os.umask(before)
        assert mode_of(f"x{umask}") == 0o666 & ~umask


@needs_posix
@pytest.mark.parametrize("old", [None, 0o600])
def test_while_it_is_written_nobody_reads_more_than_in_the_end(old):
    if old:
        make("x", mode=old)
    with written_aside("x") as file:
        assert mode_of(file.name) == (old or mode_of(file.name))
        assert mode_of(file.name) & 0o133 == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="only root gives files away")
def test_an_existing_file_keeps_its_owner():
    make("x", mode=0o604)
    os.chown("x", 1234, 4321)
    write("x")
    after = os.stat("x")
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (1234, 4321, 0o604)


@needs_posix
def test_through_symbolic_links(folder):
    """The link stays a link, and the file that it names is replaced, wherever that is."""
    (folder / "there").mkdir()
    make("there/x", mode=0o600)
    os.symlink("there/x", "link")
    os.symlink("link", "of a link")
    write("of a link")
    assert os.readlink("of a link") == "link" and os.readlink("link") == "there/x"
    assert (read("there/x"), mode_of("there/x")) == ("new", 0o600)
    os.symlink(folder / "there" / "none yet", "dangling")
    check_writable("dangling")
    assert not os.path.exists("dangling")
    write("dangling")
    assert os.path.islink("dangling") and read("there/none yet") == "new"
    assert sorted(os.listdir("there")) == ["none yet", "x"]


@needs_posix
def test_save_goes_through_a_link_and_keeps_the_mode():
    make("model.npz", mode=0o600)
    os.symlink("model.npz", "latest.npz")
    model = fastlstm.LSTM(2, 3)
    fastlstm.save(model, "latest.npz")
    assert os.path.islink("latest.npz") and mode_of("model.npz") == 0o600
    for name, values in fastlstm.load_state("model.npz").items():
        np.testing.assert_array_equal(values, model.state_dict()[name])


@pytest.mark.parametrize("name", ["m" * 251 + ".npz", "ü" * 125 + ".npz", "\u4e2d" * 83 + ".npz"])
def test_names_as_long_as_a_file_system_takes(name):
    if os.name == "nt":
        name = name[-100:]  # Windows counts the whole path
    check_writable(name)
    for _ in range(2):
        fastlstm.save(fastlstm.Linear(2, 1), name)
    assert os.listdir() == [name]


@needs_posix
def test_a_name_that_is_too_long_is_refused():
    name = "m" * 300
    for attempt in (check_writable, write):
        with pytest.raises(OSError) as caught:
            attempt(name)
        assert str(caught.value) == f"{name} cannot be written: File name too long"


def test_a_failure_leaves_the_old_file():
    make("x")
    with pytest.raises(RuntimeError), written_aside("x") as file:
        file.write(b"half")
        raise RuntimeError
    assert (read("x"), os.listdir()) == ("old", ["x"])


def test_the_file_has_its_name_only_when_it_is_whole():
    with written_aside("x") as file:
        file.write(b"half")
        file.flush()
        assert not os.path.exists("x")
    assert read("x") == "half"


# What is no file, or no other can take its name


@needs_posix
def test_what_is_no_file_gets_the_bytes(folder):
    write(os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.mkfifo("pipe.npz")
    check_writable("pipe.npz")
    model, got = fastlstm.Linear(2, 1), []
    reader = threading.Thread(target=lambda: got.append(pathlib.Path("pipe.npz").read_bytes()))
    reader.start()
    fastlstm.save(model, "pipe.npz")
    reader.join()
    with open("copy.npz", "wb") as file:
        file.write(got[0])
    assert fastlstm.load("copy.npz").state_dict()["weight"].tobytes() == model.weight.tobytes()
    assert sorted(os.listdir()) == ["copy.npz", "pipe.npz"]


@needs_posix
def test_standard_output_as_a_pipe():
    code = (
        "from fastlstm.files import *\n"
        "with written_aside('/dev/stdout') as file: file.write(b'all of it')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"all of it"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_told_by_the_path():
    with pytest.raises(OSError) as caught:
        write("/dev/full")
    assert str(caught.value) == "/dev/full cannot be written: No space left on device"
    assert caught.value.errno == errno.ENOSPC


def test_a_write_that_fails_is_told_by_the_path():
    with pytest.raises(OSError) as caught, written_aside("x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == "x cannot be written: No space left on device"
    with pytest.raises(FileNotFoundError, match="gone"), written_aside("x"):
        open("gone")
    assert os.listdir() == []


def test_a_file_whose_name_none_can_take_is_written_into(monkeypatch):
    """A single file that is mounted into a container is such a file."""

    def busy(*names):
        raise OSError(errno.EBUSY, "Device or resource busy", *names)

    monkeypatch.setattr(os, "replace", busy)
    make("x", "old and longer")
    write("x")
    assert (read("x"), os.listdir()) == ("new", ["x"])
    with pytest.raises(OSError, match="^y cannot be written: Device or resource busy$"):
        write("y")
    assert os.listdir() == ["x"]


# What a killed process leaves


_DIES = """
import os, signal, sys
from fastlstm.files import written_aside
with written_aside(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    sys.stdin.read()
"""


def _start(how):
    line = [sys.executable, "-c", _DIES, "x", how]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@needs_posix
def test_what_a_killed_process_leaves_is_removed_next_time():
    make("x")
    for _ in range(2):
        with _start("killed") as process:
            assert process.wait(60) == -signal.SIGKILL
    assert read("x") == "old" and len(os.listdir()) > 1, "or nothing is tested"
    write("y")
    assert sorted(os.listdir()) == ["x", "y"]


@needs_posix
def test_what_a_living_process_writes_is_left_alone():
    with _start("lives") as process:
        assert process.stdout.readline() == b"ready\n"
        write("x", "ours")
        assert len(os.listdir()) == 2
        process.communicate()
        assert process.wait(60) == 0
    assert (read("x"), os.listdir()) == ("half", ["x"])


@needs_posix
def test_threads_that_write_the_same_file_leave_one_of_theirs():
    faults = []

    def repeat(text):
        try:
            for _ in range(50):
                write("x", text)
        except OSError as error:
            faults.append(error)

    threads = [threading.Thread(target=repeat, args=(text * 1000,)) for text in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and os.listdir() == ["x"] and read("x") in [t * 1000 for t in "abcd"]


@needs_posix
def test_a_side_file_taken_for_left_behind_is_made_again(monkeypatch):
    """Another process may remove it after it was made and before it was locked."""
    import fcntl

    lock, attempts = fcntl.flock, iter(range(9))

    def late(file, how):
        if next(attempts) == 0:
            os.unlink(file.name)
        lock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    write("x")
    assert (read("x"), os.listdir()) == ("new", ["x"])


@needs_posix
def test_files_of_others_are_not_removed():
    names = [".x.npz.swp", ".x", f".x.{'0' * 31}.fastlstm", f"x.{'0' * 32}.fastlstm"]
    for name in names:
        make(name)
    os.mkfifo(f".pipe.{'0' * 32}.fastlstm")  # opening it must not wait
    os.symlink("x", f".link.{'0' * 32}.fastlstm")
    write("x")
    assert [name for name in names if not os.path.exists(name)] == [] and read("x") == "new"


# What is refused before the work


def refused(path, kind, fault):
    before = sorted(os.listdir())
    for attempt in (check_writable, write):
        with pytest.raises(OSError) as caught:
            attempt(path)
        assert type(caught.value) is kind
        assert str(caught.value) == f"{path} cannot be written: {fault}"
        assert sorted(os.listdir()) == before


def test_check_leaves_nothing_and_changes_nothing():
    make("x", mode=0o644)
    before = os.stat("x")
    for path in ("x", "new", os.path.abspath("new")):
        check_writable(path)
    after = os.stat("x")
    assert os.listdir() == ["x"] and read("x") == "old"
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_no_destinations(folder):
    (folder / "there").mkdir()
    make("x")
    refused("there", IsADirectoryError, "it is a folder")
    refused("gone/x", FileNotFoundError, "there is no folder gone")
    refused("x/y", FileNotFoundError, "there is no folder x")
    if os.name != "nt":
        os.symlink("there", "link")
        refused("link", IsADirectoryError, "it is a folder")
        os.symlink("gone/x", "dangling")
        refused("dangling", FileNotFoundError, f"there is no folder {folder / 'gone'}")
        os.symlink("loop", "loop")
        refused("loop", OSError, os.strerror(errno.ELOOP))


@needs_posix
@needs_user
def test_write_protected_files_and_folders(folder):
    make("x", mode=0o444)
    refused("x", PermissionError, "it is write-protected")
    (folder / "shut").mkdir()
    os.chmod("shut", 0o555)
    refused("shut/x", PermissionError, "Permission denied")


@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="needs a file system that takes no files")
def test_file_systems_that_take_no_files():
    for attempt in (check_writable, write):
        with pytest.raises(OSError, match="^/proc/x.npz cannot be written: "):
            attempt("/proc/x.npz")


def test_a_read_only_file_system(monkeypatch):
    def read_only(path, *_):
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(os, "open", read_only)
    refused("x", OSError, "Read-only file system")
