"""A save is whole or not at all, and never over what somebody else has written."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading

import pytest
from metalchat_manifest import (
    ManifestChanged,
    ManifestError,
    ManifestNotFound,
    ManifestNotWritten,
    ManifestUnreadable,
    _atomic,
    edit,
)

OLD = b"# old\r\n[chat]\r\na = 1\r\n"
NEW = b"# old\r\n[chat]\r\na = 2\r\n"


def change(path, meanwhile=lambda: None):
    with edit(path) as editor:
        editor.set("chat.a", 2)
        meanwhile()


def error_of(function, *arguments):
    try:
        function(*arguments)
    except ManifestError as error:
        return error
    return None


# Calls the operating system as _atomic does, but stops at the call with the given number.
SHIM = """
import json, os, sys
from pathlib import Path
from metalchat_manifest import _atomic, edit

class Stop:
    def __init__(self, at, how):
        self.at, self.how, self.calls = at, how, []
    def __getattr__(self, name):
        real = getattr(os, name)
        if not callable(real) or name == "path":
            return real
        def call(*args, **kwargs):
            self.calls.append(name)
            if len(self.calls) != self.at:
                return real(*args, **kwargs)
            if self.how == "half" and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            try:
                if self.how == "after":
                    real(*args, **kwargs)
            finally:
                os._exit(9)
        return call

path, outcomes, at, how = Path(sys.argv[1]), [], 0, sys.argv[2]
old, existed = path.read_bytes() if path.exists() else None, path.exists()
while True:
    at += 1
    child = os.fork()
    if child == 0:
        _atomic.os = Stop(at, how)
        with edit(path) as editor:
            editor.set("chat.a", 2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcomes.append([code, path.read_bytes().decode() if path.exists() else None])
    if code == 0:
        break
    if existed:
        path.write_bytes(old)
    else:
        path.unlink(missing_ok=True)
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize("how", ["before", "after", "half"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_kill_at_any_call_of_a_save_leaves_the_old_file_or_the_new_one(tmp_path, existing, how):
    path = tmp_path / "metalchat.toml"
    if existing:
        path.write_bytes(OLD)
    command = [sys.executable, "-c", SHIM, str(path), how]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    outcomes = json.loads(result.stdout)
    old = OLD.decode() if existing else None
    new = NEW.decode() if existing else "[chat]\na = 2\n"
    assert [code for code, _ in outcomes[:-1]] == [9] * (len(outcomes) - 1)
    assert {content for _, content in outcomes} == {old, new}
    assert len(outcomes) > 8
    assert [content for _, content in outcomes] == sorted((each for _, each in outcomes), key=lambda each: each == new)
    assert outcomes[-1] == [0, new]
    assert [each.name for each in tmp_path.iterdir()] == ["metalchat.toml"]  # nothing of the killed ones is left


class Failing:
    """`os`, whose call with the given number fails."""

    def __init__(self, at, number):
        self.at, self.number, self.calls = at, number, []

    def __getattr__(self, name):
        real = getattr(os, name)
        if not callable(real) or name == "path":
            return real

        def call(*args, **kwargs):
            if name != "close":
                self.calls.append(name)
                if len(self.calls) == self.at:
                    raise OSError(self.number, os.strerror(self.number), "/secret/place")
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.EACCES])
def test_a_failure_at_any_call_is_one_error_and_leaves_the_old_file(tmp_path, monkeypatch, number):
    path = tmp_path / "metalchat.toml"
    refused = 0
    for at in range(1, 40):
        path.write_bytes(OLD)
        path.chmod(0o640)
        failing = Failing(at, number)
        monkeypatch.setattr(_atomic, "os", failing)
        error = error_of(change, path)
        assert path.read_bytes() == (OLD if error else NEW)
        if error:
            refused += 1
            assert type(error) is ManifestNotWritten
            assert error.exit_code == 7
            assert str(error).startswith("metalchat.toml: it cannot be written: ")
            assert "Nothing was written" in str(error)
            assert "/secret/place" not in str(error)
        assert [each.name for each in tmp_path.iterdir()] == ["metalchat.toml"]
        if len(failing.calls) < at:
            break
    else:
        raise AssertionError("the save never ended")
    assert refused >= 5


def test_the_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    path = tmp_path / "metalchat.toml"
    path.write_bytes(OLD)
    watching = Failing(-1, 0)
    monkeypatch.setattr(_atomic, "os", watching)
    with edit(path) as editor:
        editor.set("chat.a", 2)
    tail = [name for name in watching.calls if name in {"write", "fsync", "rename"}]
    assert tail == ["write", "fsync", "rename", "fsync"]


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    class Short(Failing):
        def __getattr__(self, name):
            return (lambda handle, data: os.write(handle, data[:3])) if name == "write" else super().__getattr__(name)

    path = tmp_path / "metalchat.toml"
    path.write_bytes(OLD)
    monkeypatch.setattr(_atomic, "os", Short(-1, 0))
    change(path)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o664, 0o444])
def test_the_mode_stays(tmp_path, mode):
    path = tmp_path / "metalchat.toml"
    path.write_bytes(OLD)
    path.chmod(mode)
    change(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path):
    (tmp_path / "plain").touch()
    with edit(tmp_path / "a" / "metalchat.toml") as editor:
        editor.set("chat.a", 2)
    assert (tmp_path / "a" / "metalchat.toml").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    target = tmp_path / "dotfiles" / "metalchat.toml"
    target.parent.mkdir()
    target.write_bytes(OLD)
    middle, path = tmp_path / "middle", tmp_path / "metalchat.toml"
    middle.symlink_to("dotfiles/metalchat.toml")
    path.symlink_to(middle)
    change(path)
    assert path.is_symlink()
    assert middle.is_symlink()
    assert target.read_bytes() == NEW
    assert not target.is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dotfiles", "metalchat.toml", "middle"]


def test_a_link_to_a_missing_file_makes_that_file(tmp_path):
    path = tmp_path / "metalchat.toml"
    path.symlink_to("elsewhere/real.toml")
    with pytest.raises(ManifestNotFound), edit(path, create=False):
        raise AssertionError
    change(path)
    assert path.is_symlink()
    assert (tmp_path / "elsewhere" / "real.toml").read_text() == "[chat]\na = 2\n"


def test_a_link_that_was_pointed_elsewhere_meanwhile_is_a_change(tmp_path):
    (tmp_path / "one").write_bytes(OLD)
    (tmp_path / "two").write_bytes(b"# two\n")
    path = tmp_path / "metalchat.toml"
    path.symlink_to("one")
    with pytest.raises(ManifestChanged):
        change(path, lambda: (path.unlink(), path.symlink_to("two")))
    assert ((tmp_path / "one").read_bytes(), (tmp_path / "two").read_bytes()) == (OLD, b"# two\n")


def test_a_loop_of_links_is_unreadable(tmp_path):
    path = tmp_path / "metalchat.toml"
    path.symlink_to("metalchat.toml")
    with pytest.raises(ManifestUnreadable), edit(path):
        raise AssertionError


@pytest.mark.parametrize("other", [b"# other\n", b"", None])
def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path, other):
    path = tmp_path / "metalchat.toml"
    path.write_bytes(OLD)
    with pytest.raises(ManifestChanged) as caught:
        change(path, path.unlink if other is None else lambda: path.write_bytes(other))
    assert caught.value.exit_code == 7
    assert str(caught.value).startswith("metalchat.toml: it was changed by another program; nothing was written")
    assert (path.read_bytes() if path.exists() else None) == other


def test_a_file_that_appeared_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "metalchat.toml"
    with pytest.raises(ManifestChanged):
        change(path, lambda: path.write_bytes(OLD))
    assert path.read_bytes() == OLD


def test_of_two_editors_at_once_one_is_told(tmp_path):
    path = tmp_path / "metalchat.toml"
    path.write_bytes(OLD)

    def other():
        with edit(path) as second:
            second.set("chat.b", 3)

    with pytest.raises(ManifestChanged):
        change(path, other)
    assert path.read_bytes() == OLD + b"b = 3\r\n"


def test_no_edit_of_many_at_once_is_lost_without_an_error(tmp_path):
    path = tmp_path / "metalchat.toml"
    path.write_bytes(OLD)
    ready, saved, told = threading.Barrier(8), [], []

    def set_one(index):
        try:
            with edit(path) as editor:
                editor.set(f"chat.k{index}", index)
                ready.wait()
        except ManifestChanged:
            told.append(index)
        else:
            saved.append(index)

    threads = [threading.Thread(target=set_one, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(saved) == 1
    assert len(told) == 7
    assert path.read_bytes() == OLD + f"k{saved[0]} = {saved[0]}\r\n".encode()


def test_a_folder_that_another_program_holds_is_waited_for_only_so_long(tmp_path, monkeypatch):
    path = tmp_path / "metalchat.toml"
    path.write_bytes(OLD)
    clock = iter(range(100))
    monkeypatch.setattr(_atomic.time, "monotonic", lambda: next(clock) / 3)
    monkeypatch.setattr(_atomic.time, "sleep", lambda _: None)
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(ManifestChanged, match="it is being changed by another program; nothing was written"):
            change(path)
    finally:
        os.close(holder)
    assert path.read_bytes() == OLD


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    path = tmp_path / "metalchat.toml"
    monkeypatch.setattr(_atomic.fcntl, "flock", unsupported)
    change(path)
    assert path.read_text() == "[chat]\na = 2\n"


def test_what_is_no_folder_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError) as caught, edit(tmp_path / "file" / "metalchat.toml") as editor:
        editor.set("chat.a", 2)
    assert caught.value.exit_code == 7
