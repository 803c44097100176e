import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import metalchat_credentials
import pytest
from metalchat_credentials import CredentialsError, Secret, backends, errors

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = {"httpx", "keyring", "tomlkit", "idna"}


def child(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **environ}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_importing_the_package_imports_no_third_party_library() -> None:
    loaded = child("import sys, metalchat_credentials; print(*sys.modules)").split()
    assert HEAVY & set(loaded) == set()


def test_looking_a_credential_up_imports_neither_httpx_nor_tomlkit(tmp_path) -> None:
    (tmp_path / "config.toml").write_text('[credential."https://h"]\nusername = "a"\n')
    loaded = child(
        "import sys; from pathlib import Path; from metalchat_credentials import Credentials\n"
        f"credentials = Credentials(Path({str(tmp_path)!r}), environ={{'HF_TOKEN': 'x'}})\n"
        "assert len(credentials.list()) == 1\n"
        "assert credentials.authorization('https://huggingface.co/x') == 'Bearer x'\n"
        "print(*sys.modules)"
    ).split()
    assert HEAVY & set(loaded) == set()


def test_every_public_name_can_be_imported() -> None:
    for name in metalchat_credentials.__all__:
        assert getattr(metalchat_credentials, name) is not None
    assert metalchat_credentials.__all__ == sorted(metalchat_credentials.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        metalchat_credentials.no_such_name  # noqa: B018 - the access is the test


def test_the_function_backends_is_not_hidden_by_the_sub_package() -> None:
    import metalchat_credentials.backends.keyring

    assert callable(metalchat_credentials.backends)
    assert metalchat_credentials.backends is backends


def test_httpx_is_mentioned_in_one_module_only() -> None:
    importing = [
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if "httpx" in [alias.name for alias in getattr(node, "names", []) if isinstance(node, ast.Import)]
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "httpx")
    ]
    assert importing == ["auth.py"]


def test_every_error_is_drawn_in_the_tree_with_its_exit_code() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CredentialsError)]
    drawn = dict(re.findall(r"^[ │├└─]*(\w+) +(\d)  ", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in classes}
    for kind in classes:
        assert kind.__name__ in metalchat_credentials.__all__


def test_no_module_prints_logs_or_serialises() -> None:
    for path in SOURCES:
        text = path.read_text()
        for word in ("print(", "logging", "pickle", "subprocess", "input(", "getpass"):
            assert word not in text, f"{word} in {path.name}"


def _blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_readme_run(tmp_path) -> None:
    assert len(_blocks()) >= 2
    (tmp_path / "test_readme.py").write_text("\n".join(_blocks()))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_readme.py"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "HF_TOKEN": "hf_x"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


AUDIT = """
import os, sys
from pathlib import Path

CANARY = {canary!r}
here = Path({here!r})
written, found = set(), []

def look(path):
    try:
        data = Path(path).read_bytes()
    except OSError:
        return
    if CANARY.encode() in data:
        found.append(str(path))

inside = False

def hook(event, arguments):
    global inside
    if inside:
        return
    inside = True
    try:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR):
                written.add(os.path.abspath(os.fsdecode(path)))
        elif event in ("os.rename", "os.remove", "os.truncate", "shutil.move"):
            for path in list(written):
                look(path)
    finally:
        inside = False

sys.addaudithook(hook)
{code}
for path in [*written, *here.rglob("*")]:
    look(path)
assert any(path.endswith("config.toml") or ".config.toml." in path for path in written), "the hook sees what is written"
print(found)
"""

USE = """
from metalchat_credentials import Credentials, Purpose, Secret, parse_url, redact
from metalchat_credentials.testing import MemoryBackend

url = parse_url("https://huggingface.co")
memory = MemoryBackend()
def make():
    return Credentials(here / "home", environ={"HOME": str(here)}, directory=here, backends={"keyring": memory})
make().add(url, username="alice", secret=Secret.parse(CANARY + "\\n"))
make().add(url, username="bob", secret=Secret(CANARY), purpose=Purpose.WRITE)
assert make().authorization("https://huggingface.co/x") == "Bearer " + CANARY
make().add(url, username="carol", secret=Secret(CANARY))
make().link(parse_url("https://hub.example"), backend="dotenv", variable="CANARY")
make().remove(url)
make().remove(None, all=True)
assert make().authorization("https://huggingface.co/x") is None
"""


def test_c10_no_file_that_is_written_ever_holds_a_token(tmp_path) -> None:
    canary = "hf_CANARYcanaryCANARYcanary12345"
    # The negative control: the same hook finds a token in a file that is soon removed again.
    control = "(here / 'config.toml').write_text(CANARY)\nos.remove(here / 'config.toml')"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    bad = child(AUDIT.format(canary=canary, here=str(tmp_path / "a"), code=control))
    assert str(tmp_path / "a" / "config.toml") in bad
    assert child(AUDIT.format(canary=canary, here=str(tmp_path / "b"), code=USE)) == "[]\n"


def test_a_secret_has_no_other_door() -> None:
    public = [name for name in dir(Secret("x")) if not name.startswith("_")]
    assert public == ["parse", "reveal"]
