"""`metalchat model|dataset|space push`, and pulls of more than models."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from metalchat_store.testing import FakeHub
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
FILES = {"README.md": b"# d\n", "data/a.csv": b"a,b\n" * 2000, "data/b.csv": b"c,d\n" * 10}
PAGES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.add_token("hf_reads", user="alice", role="read")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def files(place: Path) -> Path:
    root = place / "files"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def address(hub: FakeHub, kind: str = "model", name: str = "alice/new") -> str:
    return f"{hub.url}/{PAGES[kind]}{name}"


def sdk(kind: str) -> list[str]:
    return ["--sdk", "static"] if kind == "space" else []


@pytest.mark.parametrize("kind", PAGES)
def test_a_push_says_what_it_will_send_and_what_came_of_it(cli: Cli, hub: FakeHub, files: Path, kind: str) -> None:
    done = cli(kind, "push", files, address(hub, kind), "--create", *sdk(kind))
    commit = hub.state.repos[f"{kind}s", "alice/new"].refs["refs/heads/main"]
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"A new {kind}: {address(hub, kind)}",
        "send         4 B  README.md",
        "send      8.0 kB  data/a.csv",
        "send        40 B  data/b.csv",
        "3 of 3 files to push: 8.0 kB to send, 0 B there already",
        "Pushed 8.0 kB.",
        f"Commit: {address(hub, kind)}/commit/{commit}",
    ]
    assert done.err == ""
    assert hub.contents("alice/new", kind=f"{kind}s").items() >= FILES.items()
    again = cli(kind, "push", files, address(hub, kind))
    assert again.code == 0
    assert again.out.splitlines() == [
        "0 of 3 files to push: 0 B to send, 8.0 kB there already",
        "Nothing to push: the repository has every file.",
    ]


@pytest.mark.parametrize("kind", PAGES)
def test_what_was_pushed_can_be_pulled(cli: Cli, hub: FakeHub, files: Path, place: Path, kind: str) -> None:
    assert cli(kind, "push", files, address(hub, kind), "--create", *sdk(kind)).code == 0
    done = cli(kind, "pull", address(hub, kind), "--to", "here", "--exclude", ".gitattributes")
    assert done.code == 0, done.err
    first, second, third = done.out.splitlines()
    assert first == f"Pulling from '{address(hub, kind)}'..."
    assert second == f"3 files: {place / 'work' / 'here'}"
    assert third.startswith("Commit: ")
    root = place / "work" / "here"
    assert {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()} == FILES
    again = cli(kind, "pull", address(hub, kind), "--to", "here", "--include", "data")
    assert again.out.splitlines()[1] == f"0 files, 2 there already: {root}"


def test_a_dry_run_sends_nothing(cli: Cli, hub: FakeHub, files: Path) -> None:
    done = cli("dataset", "push", files, address(hub, "dataset"), "--create", "--dry-run")
    assert done.code == 0
    assert done.out.endswith("3 of 3 files to push: 8.0 kB to send, 0 B there already\n")
    assert ("datasets", "alice/new") not in hub.state.repos
    done = cli("dataset", "push", files, address(hub, "dataset"), "--create", "--dry-run", "--json")
    record = json.loads(done.out)
    assert (record["creates"], record["send_bytes"], len(record["files"])) == (True, 8044, 3)


def test_json_says_what_was_done(cli: Cli, hub: FakeHub, files: Path) -> None:
    record = json.loads(cli("model", "push", files, address(hub), "--create", "--json").out)
    assert record["commit"] == hub.state.repos["models", "alice/new"].refs["refs/heads/main"]
    assert record["url"] == f"{address(hub)}/commit/{record['commit']}"
    assert (record["created"], record["already"], record["sent_bytes"]) == (True, False, 8044)
    assert json.loads(cli("model", "push", files, address(hub), "--json").out)["already"]


def test_options_choose_files_branch_folder_message_and_proposal(cli: Cli, hub: FakeHub, files: Path) -> None:
    hub.add_repo("alice/new", files={})
    where = address(hub)
    done = cli("model", "push", files, where, "--include", "*.csv", "--include", "*.md", "--exclude", "data/b.csv",
               "--to", "x/y", "--message", "Two files")  # fmt: skip
    assert done.code == 0, done.err
    assert hub.contents("alice/new").keys() == {"x/y/README.md", "x/y/data/a.csv"}
    repo = hub.state.repos["models", "alice/new"]
    assert repo.messages[repo.refs["refs/heads/main"]] == "Two files"
    done = cli("model", "push", files, where, "--pull-request")
    assert done.out.endswith(f"Pull request: {where}/discussions/1\n")
    hub.set_ref("alice/new", "refs/heads/dev", repo.refs["refs/heads/main"])
    assert cli("model", "push", files / "README.md", where, "--revision", "dev").code == 0
    assert "README.md" in hub.contents("alice/new", ref="refs/heads/dev")
    assert "README.md" not in hub.contents("alice/new")


def test_what_is_never_pushed_is_named(cli: Cli, hub: FakeHub, files: Path) -> None:
    (files / ".git").mkdir()
    (files / ".DS_Store").write_bytes(b"x")
    done = cli("model", "push", files, address(hub), "--create")
    assert done.err == "Never pushed: .DS_Store, .git\n"


def failed(done: Any, code: int) -> str:
    """The one line of a failed push or pull."""
    assert done.code == code, done
    (line,) = done.err.splitlines()
    assert line.startswith("metalchat: error: ")
    assert TOKEN not in done.out + done.err
    return line


def test_each_failure_is_one_line_with_its_exit_code(
    cli: Cli, hub: FakeHub, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = address(hub)
    assert "use --create" in failed(cli("model", "push", files, where), 4)
    assert "does not exist" in failed(cli("model", "push", files / "none", where), 2)
    assert "expected the address of a dataset" in failed(cli("dataset", "push", files, where), 2)
    assert "add --create" in failed(cli("model", "push", files, where, "--private"), 2)
    assert "--sdk" in failed(cli("space", "push", files, address(hub, "space"), "--create"), 2)
    hub.add_repo("alice/new", files={})
    hub.fault(role="hub", path="preupload", status=502, times=-1, set={"Retry-After": "900"})
    assert "asks to wait" in failed(cli("model", "push", files, where), 5)
    hub.faults.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    assert "needs the role 'write'" in failed(cli("model", "push", files, where), 3)
    monkeypatch.delenv("HF_TOKEN")
    assert "metalchat credential add --write --host" in failed(cli("model", "push", files, where), 3)
    assert hub.contents("alice/new") == {}


def test_a_secret_is_not_pushed_and_not_shown(cli: Cli, hub: FakeHub, files: Path) -> None:
    hub.add_repo("alice/new", files={})
    (files / "notes.txt").write_text(f"token: {TOKEN}\n")
    line = failed(cli("model", "push", files, address(hub)), 8)
    assert "'notes.txt' contains" in line
    (files / "notes.txt").unlink()
    (files / ".env").write_text("A=1\n")
    assert "--exclude '.env'" in failed(cli("model", "push", files, address(hub)), 8)
    assert not any(request.method != "GET" for request in hub.requests)
    assert cli("model", "push", files, address(hub), "--exclude", ".env").code == 0


def test_T_1_names_and_words_of_others_are_shown_harmless(cli: Cli, hub: FakeHub, files: Path) -> None:
    hub.add_repo("alice/new", files={})
    (files / "a\x1b[31mb").write_bytes(b"x")
    assert "\\x1b" in failed(cli("model", "push", files, address(hub)), 8)
    (files / "a\x1b[31mb").unlink()
    hub.fault(role="hub", path="/commit/", status=400, body=b'{"error": "no\\u001b]0;x\\u0007"}', times=-1)
    line = cli("model", "push", files, address(hub)).err.splitlines()[-1]
    assert line.isprintable()


@pytest.mark.parametrize(("kind", "page"), [("dataset", "datasets"), ("space", "spaces")])
def test_datasets_and_spaces_are_kept_like_models(cli: Cli, hub: FakeHub, home: Path, kind: str, page: str) -> None:
    hub.add_repo("alice/d", kind=page, files=FILES)
    where = address(hub, kind, "alice/d")
    done = cli(kind, "pull", where)
    assert done.code == 0, done.err
    first, second = done.out.splitlines()
    assert first == f"Pulling from '{where}'..."
    id = second.removeprefix("Digest: ")
    assert cli(kind, "pull", where).out == done.out
    assert cli(kind, "list").out == f"{id}  3 files  8.0 kB  {where}\n"
    assert cli(kind, "list", "--abbrev").out.startswith(f"{id[:7]}  ")
    (record,) = json.loads(cli(kind, "list", "--json").out)
    assert (record["id"], record["files"], record["size"], record["damaged"]) == (id, 3, 8044, None)
    assert cli(kind, "path", "alice/d").out == f"{home / page / id}\n"
    assert cli(kind, "verify", "d").out == f"{id}  ok\n"
    assert cli(kind, "verify", "--all").out == f"{id}  ok\n"
    assert cli("model", "list").out == ""
    damaged = home / page / id / "data" / "b.csv"
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * 40)
    done = cli(kind, "verify", "d")
    assert (done.code, done.out.splitlines()[-1]) == (6, f"{id}  damaged")
    assert cli(kind, "path", "d").code == 6
    (record,) = json.loads(cli(kind, "verify", "--all", "--json").out)
    assert (record["id"], record["ok"]) == (id, False)
    assert [file["path"] for file in record["files"] if not file["ok"]] == ["data/b.csv"]
    done = cli(kind, "verify", "d", "--repair")
    assert (done.code, done.out) == (0, f"{id[:7]}  data/b.csv  repaired\n{id}  ok\n")
    (record,) = json.loads(cli(kind, "verify", "d", "--repair", "--json").out)
    assert (record["ok"], record["repaired"]) == (True, [])
    damaged.unlink()
    assert cli(kind, "pull", where).code == 0
    assert cli(kind, "verify", "d").code == 0
    assert cli(kind, "remove", id[:8]).code == 0
    assert cli(kind, "list").out == ""
    assert cli(kind, "path", "d").err == f"fatal: {kind} 'd' not found\n"
    assert cli(kind, "verify").code == 2


def test_parts_of_a_dataset_are_pulled(cli: Cli, hub: FakeHub) -> None:
    hub.add_repo("alice/d", kind="datasets", files=FILES)
    where = address(hub, "dataset", "alice/d")
    assert cli("dataset", "pull", where, "--file", "README.md", "--file", "data/b.csv").code == 0
    assert json.loads(cli("dataset", "list", "--json").out)[0]["files"] == 2
    assert "no such file: 'none'" in failed(cli("dataset", "pull", where, "--file", "none"), 4)


def test_parts_of_a_model_need_a_directory(cli: Cli, hub: FakeHub, fails: Callable[..., str], place: Path) -> None:
    hub.add_repo("alice/m", files=tiny_model(size=5000))
    where = address(hub, "model", "alice/m")
    assert "add --to DIRECTORY" in fails(2, "model", "pull", where, "--file", "config.json")
    assert "add --to DIRECTORY" in fails(2, "model", "pull", where, "--force")
    assert "leave it out, or --to" in fails(2, "model", "pull", where, "--update", "--to", "m")
    assert cli("model", "pull", where, "--to", "m", "--file", "config.json").code == 0
    assert [path.name for path in (place / "work" / "m").iterdir()] == ["config.json"]
    (place / "work" / "m" / "config.json").write_bytes(b"mine")
    line = failed(cli("model", "pull", where, "--to", "m"), 8)
    assert "use --force" in line
    assert cli("model", "pull", where, "--to", "m", "--force").code == 0
    assert {path.name for path in (place / "work" / "m").iterdir()} >= {"config.json", "model.safetensors"}
    assert cli("model", "list").out == ""


def test_the_write_credential_is_used_to_write_and_the_other_to_read(
    cli: Cli, hub: FakeHub, files: Path, monkeypatch: pytest.MonkeyPatch, register: Callable[..., None]
) -> None:
    from metalchat_credentials.testing import MemoryBackend

    backend = MemoryBackend()
    register("vault", {"metalchat.credentials": {"vault": lambda: backend}})
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("READING", "hf_reads")
    monkeypatch.setenv("WRITING", TOKEN)
    base = ("credential", "add", "--host", hub.url, "--username", "alice", "--backend", "vault")
    assert cli(*base, "--secret-env", "READING").code == 0
    hub.add_repo("alice/new", files=FILES, private=True)
    assert "needs a credential that may write" in failed(cli("model", "push", files, address(hub)), 3)
    assert cli(*base, "--write", "--secret-env", "WRITING").code == 0
    (files / "new.txt").write_bytes(b"new")
    hub.requests.clear()
    assert cli("model", "push", files, address(hub)).code == 0
    assert {request.header("Authorization") for request in hub.of("hub")} == {f"Bearer {TOKEN}"}
    hub.requests.clear()
    assert cli("model", "pull", address(hub), "--to", "x", "--file", "new.txt").code == 0
    assert {request.header("Authorization") for request in hub.of("hub")} == {"Bearer hf_reads"}
    assert hub.seen(TOKEN) == []
    assert hub.seen("hf_reads") == []
