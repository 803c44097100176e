"""`metalchat credential`: tokens go into a backend, are used where they belong, and are never shown."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_credentials import KeychainUnavailable, Purpose, Secret, SecretKey, parse_url
from metalchat_credentials.testing import MemoryBackend
from metalchat_store.testing import FakeHub
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
ODD = "t0ken-of-no-known-form"
HUB = "https://huggingface.co"
ADD = ["credential", "add", "--hostname", "huggingface.co", "--username", "alice"]


class BrokenBackend:
    """A keychain that is not there."""

    name = "broken"

    def get(self, key: SecretKey) -> Secret | None:
        raise KeychainUnavailable("no keychain is available on this system. Set HF_TOKEN for this session")

    def set(self, key: SecretKey, secret: Secret) -> None:
        self.get(key)

    def delete(self, key: SecretKey) -> bool:
        self.get(key)
        return False


@pytest.fixture
def memory(register: Callable[..., None]) -> MemoryBackend:
    """A backend that is there for the length of the test."""
    backend = MemoryBackend()
    register("memory-backend", {"metalchat.credentials": {"memory": lambda: backend, "broken": BrokenBackend}})
    return backend


def kept(backend: MemoryBackend, url: str = HUB, purpose: Purpose = Purpose.READ) -> str | None:
    secret = backend.get(SecretKey(url=parse_url(url), username="alice", purpose=purpose))
    return None if secret is None else secret.reveal()


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def everything(place: Path) -> bytes:
    return b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())


def test_a_token_from_standard_input_is_kept_without_a_word(
    cli: Cli, memory: MemoryBackend, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, TOKEN.encode() + b"\n")
    done = cli(*ADD, "--backend", "memory", "--secret-stdin")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert kept(memory) == TOKEN
    assert TOKEN.encode() not in everything(place)


def test_a_token_from_a_variable_is_kept_without_a_word(
    cli: Cli, memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", ODD)
    done = cli(*ADD, "--backend", "memory", "--secret-env", "MY_TOKEN", "--write")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert kept(memory, purpose=Purpose.WRITE) == ODD


def test_a_token_on_the_command_line_works_and_warns_once(cli: Cli, memory: MemoryBackend) -> None:
    done = cli(*ADD, "--backend", "memory", "--secret", TOKEN)
    assert (done.code, done.out) == (0, "")
    assert done.err == "warning: --secret shows the token in the process list and the shell's history\n"
    assert kept(memory) == TOKEN


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--secret", ODD, "--secret-stdin"], 2, "give only one of --secret, --secret-stdin and --secret-env"),
        (["--secret", ODD, "--secret-env", "X"], 2, "give only one of --secret, --secret-stdin and --secret-env"),
        (["--secret-env", "NOT_SET"], 2, "the environment variable 'NOT_SET' is not set. Set it, or drop --secret-env"),
        ([], 2, "there is no terminal to ask for the token. Use --secret-stdin or --secret-env NAME"),
        ([f"--secrt={ODD}"], 2, "Unknown option: --secrt."),
        (["--secret-stdin", ODD], 2, "there is one argument too many. See 'metalchat credential add --help'"),
        ([ODD], 2, "there is one argument too many"),
        (["--host", "https://user:pw@host"], 2, ""),
        (["--host", "http://example.test"], 2, "over http to a server that is not this computer"),
        (["--host", "ex%0aample.com"], 2, ""),
        (["--backend", "nosuch"], 2, "no secret backend is named 'nosuch'. Installed: "),
        (["--backend", "environment", "--secret-stdin"], 2, "'environment' only reads tokens"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_credential_is_said_without_the_token(
    fails: Cli,
    memory: MemoryBackend,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    says: str,
) -> None:
    stdin(monkeypatch, b"")
    start = ADD if "--host" not in words else ["credential", "add", "--username", "alice"]
    backend = [] if "--backend" in words else ["--backend", "memory"]
    needs = ["--secret-env", "MY_TOKEN"] if "--host" in words else []
    monkeypatch.setenv("MY_TOKEN", ODD)
    line = fails(code, *start, *backend, *needs, *words)
    assert says in line
    assert ODD not in line
    assert "pw" not in line
    assert not home.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"two words",
        b"TOKEN\nhost=evil",
        b"TOKEN\r\nx",
        b"TOKEN\0",
        b"\x1b[31mTOKEN",
        b"TOK\xffEN",
        b"a" * 70_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_token_is_refused_without_repeating_it(
    fails: Cli, memory: MemoryBackend, home: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    stdin(monkeypatch, data)
    line = fails(2, *ADD, "--backend", "memory", "--secret-stdin")
    assert "this is not an access token" in line
    assert "TOK" not in line
    assert not home.exists()


def test_a_keychain_that_is_not_there_is_said_and_nothing_is_written(
    fails: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    line = fails(3, *ADD, "--secret-env", "MY_TOKEN")
    assert "no keychain is available on this system. Set HF_TOKEN" in line
    assert not (home / "config.toml").exists()


def test_the_list_has_three_columns_with_tabs(cli: Cli, memory: MemoryBackend, home: Path) -> None:
    home.mkdir()
    text = '[credential."https://huggingface.co"]\nusername = "alice"\nprovider = "@keychain"\n'
    (home / "config.toml").write_text(text)
    assert cli("credential", "list").out == "https://huggingface.co\talice\t@keychain\n"
    assert json.loads(cli("credential", "list", "--json").out) == [
        {"url": HUB, "username": "alice", "provider": "@keychain", "purpose": "read"}
    ]


def test_an_empty_list_is_empty(cli: Cli, home: Path) -> None:
    assert cli("credential", "list").out == ""
    assert json.loads(cli("credential", "list", "--json").out) == []
    assert not home.exists()


def test_removing_one_host_leaves_the_others(cli: Cli, memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    for host in ("huggingface.co", "http://localhost:1", "http://localhost:2"):
        words = ["credential", "add", "--host", host, "--username", "alice", "--backend", "memory"]
        assert cli(*words, "--secret-env", "MY_TOKEN").code == 0
    done = cli("credential", "remove", "--hostname", "http://localhost:1")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert cli("credential", "list").out == (
        "https://huggingface.co\talice\t@memory\nhttp://localhost:2\talice\t@memory\n"
    )
    assert kept(memory, "http://localhost:1") is None
    assert cli("credential", "remove", "--all").code == 0
    assert cli("credential", "list").out == ""
    assert kept(memory) is None


def test_removing_what_was_never_stored_is_a_success(cli: Cli) -> None:
    done = cli("credential", "remove", "--host", "huggingface.co")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_a_backend_that_only_reads_is_linked_to_a_variable(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo("alice/m", files=tiny_model(), private=True)
        words = ["credential", "add", "--host", hub.url, "--username", "alice", "--backend", "environment"]
        done = cli(*words, "--secret-env", "MY_HUB_TOKEN")
        assert (done.code, done.out, done.err) == (0, "", "")
        assert cli("credential", "list").out == f"{hub.url}\talice\t@environment\n"
        assert cli("model", "pull", f"{hub.url}/alice/m").code == 3
        monkeypatch.setenv("MY_HUB_TOKEN", TOKEN)
        assert cli("model", "pull", f"{hub.url}/alice/m").code == 0


def test_a_stored_token_opens_what_it_belongs_to_and_reaches_nobody_else(
    cli: Cli, memory: MemoryBackend, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    shown = ""
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo("alice/m", files=tiny_model(), private=True)
        done = cli("model", "pull", f"{hub.url}/alice/m")
        assert (done.code, done.err.count("\n")) == (3, 1)
        assert "metalchat credential add" in done.err
        words = ["credential", "add", "--host", hub.url, "--username", "alice", "--backend", "memory"]
        assert cli(*words, "--secret-env", "MY_TOKEN").code == 0
        for words in (["pull", f"{hub.url}/alice/m"], ["describe", f"{hub.url}/alice/m"], ["list", "--json"]):
            done = cli("model", *words)
            assert done.code in (0, 2), done  # the description of a model in the store needs the engine
            shown += done.out + done.err
        assert not hub.seen(TOKEN)
    assert TOKEN not in shown
    assert TOKEN.encode() not in everything(place)


def test_a_keychain_that_fails_does_not_stop_a_public_pull_but_is_said(
    cli: Cli, memory: MemoryBackend, home: Path
) -> None:
    with FakeHub() as hub:
        hub.add_repo("org/m", files=tiny_model())
        hub.add_repo("org/gated", files=tiny_model(seed=2), gated=True)
        home.mkdir()
        (home / "config.toml").write_text(f'[credential."{hub.url}"]\nusername = "alice"\nprovider = "@broken"\n')
        done = cli("model", "pull", f"{hub.url}/org/m")
        assert done.code == 0
        assert done.err == (
            "warning: no token was used: no keychain is available on this system. Set HF_TOKEN for this session\n"
        )
        done = cli("model", "pull", f"{hub.url}/org/gated")
    assert done.code == 3
    assert done.err == ("metalchat: error: no keychain is available on this system. Set HF_TOKEN for this session\n")


def test_a_login_in_an_address_is_refused_before_it_is_shown(fails: Cli, home: Path) -> None:
    for verb in ("pull", "describe"):
        line = fails(2, "model", verb, f"https://alice:{ODD}@huggingface.co/org/m")
        assert "contains a login. Remove it and run 'metalchat credential add'" in line
        assert ODD not in line
    assert not home.exists()


def test_a_token_in_a_manifest_is_refused_without_repeating_it(fails: Cli) -> None:
    Path("metalchat.toml").write_text(f'[chat]\n# mine\ntoken = "{TOKEN}"\n')
    line = fails(2, "options", "list")
    assert "line 3" in line
    assert TOKEN not in line


def test_a_token_file_that_others_can_read_is_said_and_not_used(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add_repo("org/m", files=tiny_model())
        hub.add_repo("org/gated", files=tiny_model(seed=2), gated=True)
        file = place / ".cache" / "huggingface" / "token"
        file.parent.mkdir(parents=True)
        file.write_text(TOKEN)
        file.chmod(0o644)
        done = cli("model", "pull", f"{hub.url}/org/m")
        assert done.code == 0
        said = f"warning: the token file {file} is open to other users (mode 0644)"
        assert said in done.err
        done = cli("model", "pull", f"{hub.url}/org/gated")
        assert done.code == 3
        warning, error = done.err.splitlines()
        assert warning.startswith(said)
        assert error.startswith("metalchat: error: ")
        assert not hub.seen(TOKEN, roles=("hub", "cdn", "evil"))


def test_the_token_is_asked_for_in_a_terminal_and_not_shown(
    terminal: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalchat_engine.testing import write_distribution

    where = tmp_path / "for_processes"
    write_distribution(where, "file-backend", {"metalchat.credentials": {"file": "file_backend_module:Backend"}})
    (where / "file_backend_module.py").write_text(
        "from pathlib import Path\n"
        "class Backend:\n"
        "    name = 'file'\n"
        "    def get(self, key): return None\n"
        "    def set(self, key, secret): Path('token').write_text(secret.reveal())\n"
        "    def delete(self, key): return False\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")]))
    window = terminal(*ADD, "--backend", "file")
    window.wait_for("Access token for alice at https://huggingface.co: ")
    window.type(f"{TOKEN}\r")
    assert window.end() == 0
    assert "The token is kept by file." in window.text
    assert TOKEN not in window.text
    assert Path("token").read_text() == TOKEN
    window = terminal(*ADD, "--backend", "file")
    window.wait_for("huggingface.co: ")
    window.type("\x04")
    assert window.end() == 2
    assert "metalchat: error: no token was given" in window.text
