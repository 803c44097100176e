"""Credentials in the Linux Secret Service: a real gnome-keyring-daemon on a D-Bus session of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = Path(__file__).with_name("secret_service_inside.py")
PROGRAMS = ("dbus-run-session", "gnome-keyring-daemon")
CANARY = b"hf_CANARY"


def test_the_secret_service_keeps_credentials(tmp_path) -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    home = tmp_path / "home"
    for directory in (".cache", ".local/share", "runtime", "tmp"):
        (home / directory).mkdir(parents=True)
    (home / "runtime").chmod(0o700)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "runtime"),
        "TMPDIR": str(home / "tmp"),
    }
    done = subprocess.run(
        ["dbus-run-session", "--", sys.executable, str(INSIDE)],
        cwd=home,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((home / ".local/share/keyrings").glob("*.keyring")), "the daemon kept the items in this home"
    assert list(home.rglob("config.toml")), "the indexes are in this home, too"
    holding = [path for path in home.rglob("*") if path.is_file() and CANARY in path.read_bytes()]
    assert holding == []
