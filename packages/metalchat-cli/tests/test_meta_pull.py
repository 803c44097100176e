"""`metalchat model pull meta:NAME`: the link is a secret, and what is refused is one line."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metalchat_store.testing import FakeFiles, FakeMeta
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]
ADDRESS = "meta:Llama3.2-1B-Instruct"


@pytest.fixture
def meta() -> Iterator[FakeMeta]:
    with FakeMeta() as meta:
        files = {"params.json": b'{"dim": 3}', "tokenizer.model": b"x", "consolidated.00.pth": b"x"}
        meta.add("Llama-3.2-1B-Instruct", files)
        yield meta


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def type_in(text: str) -> None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False))

    return type_in


def run(cli: Cli, code: int, *words: str) -> str:
    """The one line of a pull that fails after it said where it pulls from."""
    done = cli("model", "pull", ADDRESS, *words)
    assert (done.code, done.out) == (code, f"Pulling from '{ADDRESS}'...\n"), done
    (line,) = done.err.splitlines()
    return line


def test_without_a_link_it_is_said_where_to_get_one(cli: Cli) -> None:
    line = run(cli, 3)
    assert "needs the link that Meta mails for it (ask at https://www.llama.com/llama-downloads)" in line
    assert "--url-stdin" in line


@pytest.mark.parametrize("way", ["stdin", "env", "environment"])
def test_the_link_is_read_from_anywhere_but_the_command_line(
    cli: Cli, meta: FakeMeta, type_in: Cli, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    words = {"stdin": ["--url-stdin"], "env": ["--url-env", "MY_LINK"], "environment": []}[way]
    if way == "stdin":
        type_in(meta.link + "\n")
    else:
        monkeypatch.setenv("MY_LINK" if way == "env" else "METALCHAT_META_URL", meta.link)
    line = run(cli, 6, *words)
    assert "'params.json'" in line
    assert meta.signature not in line
    assert [request.path.rpartition("/")[2] for request in meta.requests] == ["checklist.chk", "params.json"]


def test_an_expired_link_says_so_and_is_not_repeated(
    cli: Cli, meta: FakeMeta, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    link = meta.link
    meta.expire()
    monkeypatch.setenv("METALCHAT_META_URL", link)
    monkeypatch.setenv("METALCHAT_DEBUG", "1")
    done = cli("model", "pull", ADDRESS)
    assert done.code == 3
    assert "the link expired" in done.err.splitlines()[-1]
    assert "Signature" not in done.err + done.out
    assert not [path for path in home.rglob("*") if path.is_file() and b"Signature" in path.read_bytes()]


def test_what_is_no_link_is_not_repeated(cli: Cli, type_in: Cli) -> None:
    for text in ("CANARY", "https://x.test/CANARY", "CANARY\u00fc", "x" * 70_000, "https://x.test/*?\x1b[31mCANARY"):
        type_in(text)
        line = run(cli, 2, "--url-stdin")
        assert "this is not a link as Meta mails it" in line
        assert "CANARY" not in line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--url-stdin", "--url-env", "X"], "give only one of --url-stdin and --url-env"),
        (["--url-env", "NOT_SET"], "the environment variable 'NOT_SET' is not set"),
    ],
)
def test_options_that_say_nothing_are_refused(cli: Cli, words: list[str], reason: str) -> None:
    done = cli("model", "pull", ADDRESS, *words)
    assert done.code == 2
    assert reason in done.err


def test_other_addresses_have_no_link(fails: Cli) -> None:
    for words in (["--url-stdin"], ["--url-env", "X"]):
        assert "are for the addresses meta:NAME" in fails(2, "model", "pull", "https://huggingface.co/org/m", *words)


def test_a_model_that_is_here_needs_no_link(cli: Cli, home: Path) -> None:
    id = "0" * 40
    entry = home / "models" / id
    entry.mkdir(parents=True)
    words = f'repository = "{ADDRESS}"\narchitecture = "llama3"\npartitioning = "consolidated"\nvariant = "meta"\n'
    (entry / "metalchat.toml").write_text(f"[model]\n{words}")
    (entry / "config.json").write_text('{"model_type": "llama"}')
    done = cli("model", "pull", ADDRESS)
    assert (done.code, done.out) == (0, f"Pulling from '{ADDRESS}'...\nDigest: {id}\n")


def test_the_link_is_asked_for_in_a_terminal(terminal: Cli, meta: FakeMeta) -> None:
    window = terminal("model", "pull", ADDRESS)
    window.wait_for("The link that Meta mailed for meta:Llama3.2-1B-Instruct (not shown): ")
    window.type(f"{meta.link}\r")
    assert window.end() == 6
    assert meta.signature not in window.text
    assert meta.requests


def test_a_model_is_pulled_from_a_list_of_addresses(cli: Cli) -> None:
    with FakeFiles() as server:
        files = {name: data for name, data in tiny_model(size=2000).items() if name != "pytorch_model.bin"}
        done = cli("model", "pull", server.add_list(server.add_model(files)))
    assert done.code == 0, done.err
    assert cli("model", "verify", "--all").code == 0
