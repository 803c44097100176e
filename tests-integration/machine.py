"""A person's machine for tests: a home, a keychain, and the installed `metalchat` command."""

import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("metalchat")

KEYCHAIN = '''
"""A keychain in one file, for tests."""

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class Keyring(KeyringBackend):
    priority = 1

    def _read(self):
        path = Path(os.environ["TEST_KEYCHAIN"])
        return json.loads(path.read_text()) if path.exists() else {}

    def _write(self, items):
        Path(os.environ["TEST_KEYCHAIN"]).write_text(json.dumps(items))

    def get_password(self, service, username):
        return self._read().get(f"{service} {username}")

    def set_password(self, service, username, password):
        self._write(self._read() | {f"{service} {username}": password})

    def delete_password(self, service, username):
        items = self._read()
        if items.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError("no such item")
        self._write(items)
'''

WATCH = '''
"""Writes every connection and every look-up of a name to the file of $TEST_CONNECTIONS, in all processes."""

import os
import socket
import sys

_path = os.environ.get("TEST_CONNECTIONS")
if _path:
    _log = os.open(_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _watch(event, arguments):
        if event == "socket.getaddrinfo" or (event == "socket.connect" and arguments[0].family != socket.AF_UNIX):
            os.write(_log, f"{event} {arguments[1:]}\\n".encode())

    sys.addaudithook(_watch)
'''


class Machine:
    """`home` is the person's; `work` is where they are; `keychain` is outside both."""

    def __init__(self, directory: Path, environ: dict[str, str] | None = None) -> None:
        self.home, self.work = directory / "home", directory / "home" / "work"
        self.keychain = directory / "keychain.json"
        self.work.mkdir(parents=True)
        modules = directory / "modules"
        modules.mkdir()
        (modules / "test_keychain.py").write_text(KEYCHAIN)
        (modules / "sitecustomize.py").write_text(WATCH)
        self.environ = {
            "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(modules),
            "PYTHON_KEYRING_BACKEND": "test_keychain.Keyring",
            "TEST_KEYCHAIN": str(self.keychain),
            "LANG": "C.UTF-8",
            **(environ or {}),
        }

    def run(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `metalchat` in the working directory, without a terminal."""
        return subprocess.run(
            [str(COMMAND), *arguments],
            input=stdin,
            cwd=self.work,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def output(self, *arguments: str, stdin: str = "", **environ: str) -> str:
        """The standard output of a command that must succeed without a word on standard error."""
        done = self.run(*arguments, stdin=stdin, **environ)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
        return done.stdout
