"""`metalchat lock`, `--frozen`, and the commands of `metalchat model` and `metalchat store` about states of models."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine.testing import EchoEngine
from metalchat_store.testing import FakeHub
from metalchat_store.testing.memory import git_blob_id, tiny_model

Cli = Callable[..., Any]
NAME = "org/m"


def template(text: str) -> dict[str, bytes]:
    return tiny_model(size=20_000) | {"tokenizer_config.json": json.dumps({"chat_template": text}).encode()}


def flip(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def commit(cli: Cli) -> str:
    return json.loads(cli("model", "list", "--json").out)[0]["commit"]


def requests(hub: FakeHub) -> int:
    return len(hub.requests)


def test_a_lock_is_written_beside_the_manifest_that_selects(cli: Cli, id: str, hub: FakeHub, url: str) -> None:
    done = cli("lock")
    assert (done.code, done.out) == (0, f"{id[:7]}  {url}  {hub.first[:12]}  locked\n")
    assert f'commit = "{hub.first}"' in Path("metalchat.lock").read_text()
    assert cli("lock").out.endswith("unchanged\n")
    record = json.loads(cli("lock", "--json").out)
    assert (record["id"], record["commit"], record["changed"]) == (id, hub.first, False)
    assert record["path"] == str(Path("metalchat.lock").absolute())


def test_a_lock_needs_a_model_that_is_checked_out_and_there(cli: Cli, fails: Cli, id: str) -> None:
    cli("model", "remove", id)
    assert fails(4, "lock").startswith(f"fatal: model '{id}' not found. To fetch it: metalchat model pull http")
    Path("metalchat.toml").unlink()
    assert fails(2, "lock") == "error: requested scope not checked out. Run 'metalchat checkout ID'"


def test_a_frozen_prompt_answers_with_what_is_locked_and_no_network(
    cli: Cli, id: str, hub: FakeHub, use_engine: Any
) -> None:
    use_engine(EchoEngine())
    cli("lock")
    before = requests(hub)
    done = cli("prompt", "-c", "Hello", "--frozen")
    assert (done.code, done.err) == (0, "")
    assert cli("model", "pull", "--frozen").out.endswith(f"Digest: {id}\n")
    assert requests(hub) == before


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_S_9_frozen_refuses_another_state_and_the_pull_brings_the_locked_one_back(
    cli: Cli, fails: Cli, id: str, hub: FakeHub, use_engine: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    use_engine(EchoEngine())
    cli("lock")
    second = hub.commit(NAME, template("other"))
    assert cli("model", "update", id, "--yes").code == 0
    assert commit(cli) == second
    flags = ["--frozen"] if way == "flag" else []
    if way == "variable":
        monkeypatch.setenv("METALCHAT_FROZEN", "1")
    line = fails(8, "prompt", "-c", "Hello", *flags)
    assert line == (
        f"metalchat: error: '{NAME}' is at {second[:7]}, the lock pins {hub.first[:7]}: "
        "'metalchat model pull --frozen' brings that back, 'metalchat lock' locks what is here"
    )
    assert fails(8, "chat", *flags) == line
    before = requests(hub)
    assert cli("model", "pull", *flags).code == 0
    assert requests(hub) == before
    assert commit(cli) == hub.first
    assert cli("prompt", "-c", "Hello", *flags).code == 0


def test_frozen_fetches_what_is_not_there(cli: Cli, fails: Cli, id: str, hub: FakeHub, use_engine: Any) -> None:
    use_engine(EchoEngine())
    cli("lock")
    cli("model", "remove", id)
    hub.commit(NAME, template("other"))
    assert "is locked, but not in the store" in fails(8, "prompt", "-c", "Hello", "--frozen")
    done = cli("model", "pull", "--frozen", f"{hub.url}/{NAME}")
    assert (done.code, done.out.splitlines()[-1]) == (0, f"Digest: {id}")
    assert commit(cli) == hub.first
    assert cli("prompt", "-c", "Hello", "--frozen").code == 0


def test_frozen_refuses_another_model_a_missing_lock_and_options_that_contradict(
    cli: Cli, fails: Cli, id: str, hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Path("metalchat.lock").absolute()
    assert fails(8, "model", "pull", "--frozen") == (
        f"metalchat: error: nothing is locked: there is no '{lock}'. 'metalchat lock' writes it"
    )
    cli("lock")
    cli("model", "pull", folder.as_uri())
    assert "locks 'http" in fails(8, "prompt", "-c", "x", "--frozen", "--model", "SmallModel")
    assert "not what is named here" in fails(8, "model", "pull", folder.as_uri(), "--frozen")
    assert "--frozen says already" in fails(2, "model", "pull", "--frozen", "--revision", "main")
    lock.write_text("version = 2")
    assert fails(2, "model", "pull", "--frozen").startswith(f"metalchat: error: '{lock}' cannot be used: ")
    monkeypatch.setenv("METALCHAT_FROZEN", "perhaps")
    assert "METALCHAT_FROZEN is neither 1 nor 0" in fails(2, "model", "pull")


def test_outdated_lists_what_has_something_newer(cli: Cli, id: str, hub: FakeHub, url: str) -> None:
    assert (cli("model", "outdated").code, cli("model", "outdated").out) == (0, "")
    second = hub.commit(NAME, template("other"))
    assert cli("model", "outdated").out == f"{id[:7]}  {hub.first[:12]}  {second[:12]}  {url}\n"
    (record,) = json.loads(cli("model", "outdated", NAME, "--json").out)
    assert record == {
        "id": id,
        "repository": url,
        "commit": hub.first,
        "available": second,
        "outdated": True,
        "error": None,
    }


def test_outdated_goes_on_after_a_source_that_fails(cli: Cli, id: str, folder: Path) -> None:
    cli("model", "pull", folder.as_uri())
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    done = cli("model", "outdated")
    assert done.code == 4
    assert done.err.startswith("warning: ")
    assert "does not exist" in done.err


def test_an_update_can_be_looked_at_first(cli: Cli, id: str, hub: FakeHub) -> None:
    second = hub.commit(NAME, template("other") | {"model.safetensors": bytes(30_000)})
    done = cli("model", "update", NAME, "--dry-run")
    first, *changes, last = done.out.splitlines()
    assert first == f"{id}  {hub.first[:12]}  {second[:12]}"
    assert changes == [
        "weights    changed  model.safetensors  20.0 kB → 30.0 kB",
        "tokenizer  changed  tokenizer_config.json  37 B → 26 B",
    ]
    assert last == "to fetch: 30.0 kB"
    old = hashlib.sha256(b"{{ messages }} 1").hexdigest()[:8]
    new = hashlib.sha256(b"other").hexdigest()[:8]
    line = f"the chat template of '{NAME}' changed (sha256 {old}… → {new}…)\n"
    assert done.err == line
    record = json.loads(cli("model", "update", NAME, "--dry-run", "--json").out)
    assert (record["after"], record["download_bytes"], record["template"]) == (second, 30_026, line.rstrip())
    assert commit(cli) == hub.first
    done = cli("model", "update", NAME)
    assert done.out == f"Digest: {id}\n"
    assert done.err.endswith(line)
    assert cli("model", "update", NAME, "--dry-run").out == f"{id}  {second[:12]}  up to date\n"


@pytest.mark.parametrize("words", [["model", "update", NAME], ["model", "pull", "{url}"]])
def test_F_6_what_is_pinned_is_updated_only_with_consent(
    cli: Cli, fails: Cli, id: str, hub: FakeHub, url: str, words: list[str]
) -> None:
    words = [word.format(url=url) for word in words]
    assert cli("store", "pin", NAME).code == 0
    second = hub.commit(NAME, template("other"))
    assert cli("model", "update", NAME, "--dry-run").err.endswith("the update needs --yes, since it is pinned\n")
    done = cli(*words)
    assert done.code == 8
    line = done.err.splitlines()[-1]
    assert (
        f"'{NAME}' is now {second[:7]}, here it stays at {hub.first[:7]}, since it is pinned; the chat template" in line
    )
    assert line.endswith(f"'metalchat model update {NAME} --yes' takes the update")
    assert commit(cli) == hub.first
    assert cli(*words, "--yes" if "update" in words else "--update").code == 0
    assert commit(cli) == second
    assert cli("store", "unpin", NAME).code == 0
    hub.commit(NAME, template("a third"))
    assert cli(*words).code == 0


def test_what_an_interrupted_pull_left_goes_on_request(cli: Cli, id: str, home: Path) -> None:
    left = home / "partial" / f"{'a' * 64}~{2**22 + 1}-00000000.part"
    left.write_bytes(bytes(5000))
    assert cli("store", "gc").out == "freed 0 B: 0 contents, 0 earlier states\n"
    assert cli("store", "gc", "--partials", "--dry-run").out.startswith("would free 5.0 kB: ")
    assert cli("store", "gc", "--partials").out.startswith("freed 5.0 kB: ")
    assert not left.exists()


def test_a_rollback_goes_back_offline_until_the_collection(cli: Cli, fails: Cli, id: str, hub: FakeHub) -> None:
    second = hub.commit(NAME, template("other"))
    cli("model", "update", NAME)
    before = requests(hub)
    assert cli("model", "rollback", NAME).out == f"{id}  {hub.first[:12]}\n"
    assert cli("model", "rollback", NAME, second[:8]).out == f"{id}  {second[:12]}\n"
    assert requests(hub) == before
    done = cli("store", "gc", "--grace", "0")
    assert done.code == 0
    assert done.out.endswith(": 1 content, 1 earlier state\n")
    assert "has no earlier state in the store" in fails(4, "model", "rollback", NAME)


def test_verify_repairs_what_is_damaged_and_nothing_else(cli: Cli, id: str, hub: FakeHub, home: Path) -> None:
    flip(home / "models" / id / "model.safetensors")
    assert cli("model", "verify", id).code == 6
    before = requests(hub)
    done = cli("model", "verify", id, "--repair")
    assert (done.code, done.out) == (0, f"{id[:7]}  model.safetensors  repaired\n{id}  ok\n")
    fetched = {request.path for request in hub.requests[before:] if "resolve" in request.path}
    assert all("model.safetensors" in path for path in fetched)
    assert fetched
    record = json.loads(cli("model", "verify", "--all", "--repair", "--json").out)
    assert [(each["ok"], each["repaired"]) for each in record] == [(True, [])]


def test_the_store_says_where_the_bytes_are(cli: Cli, id: str, home: Path) -> None:
    done = cli("store", "df")
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "models",
        "shared",
        "blobs",
        "elsewhere",
        "entries",
        "partials",
        "quarantine",
        "cache",
        "datasets",
        "spaces",
        "total",
        "reclaimable",
    ]
    record = json.loads(cli("store", "df", "--json").out)
    assert record["entry_count"] == 1
    assert record["total"] == record["blobs"] + record["entries"] + record["other"]


def test_a_collection_says_what_it_would_do_and_does_it(
    cli: Cli, fails: Cli, id: str, hub: FakeHub, folder: Path, home: Path
) -> None:
    cli("model", "pull", folder.as_uri())
    other = next(path.name for path in (home / "models").iterdir() if path.name != id)
    old = time.time() - 3 * 3600
    (home / "used").mkdir(exist_ok=True)
    for name in (id, other):
        (home / "used" / name).touch()
        os.utime(home / "used" / name, (old, old))
    done = cli("store", "gc", "--max-size", "0", "--dry-run")
    assert done.out.splitlines()[0] == f"evict  {other[:7]}  {folder.as_uri()}"
    assert len(list((home / "models").iterdir())) == 2
    record = json.loads(cli("store", "gc", "--max-size", "1kB", "--json").out)
    assert (record["models"], record["dry_run"]) == ([other], False)
    assert record["too_large"] > 0
    assert [path.name for path in (home / "models").iterdir()] == [id]
    for words in (["--max-size", "much"], ["--grace", "soon"], ["--max-size", "1iB"]):
        assert " such as " in fails(2, "store", "gc", *words)


def test_why_says_who_keeps_a_content(cli: Cli, fails: Cli, id: str, hub: FakeHub, url: str, home: Path) -> None:
    cli("lock")
    digest = hashlib.sha256(tiny_model(size=20_000)["model.safetensors"]).hexdigest()
    lines = cli("store", "why", digest[:8]).out.splitlines()
    assert lines[0] == f"{id[:7]}  {hub.first[:12]}  now  model.safetensors  {url}"
    assert {line.strip() for line in lines[1:]} == {
        f"'{Path('metalchat.toml').absolute()}' selects it",
        f"'{Path('metalchat.lock').absolute()}' locks it",
    }
    (record,) = json.loads(cli("store", "why", str(home / "models" / id / "config.json"), "--json").out)
    assert (record["path"], record["current"]) == ("config.json", True)
    assert "the store has no content" in fails(4, "store", "why", "f" * 64)


def test_models_of_other_tools_are_taken_in(cli: Cli, place: Path) -> None:
    repository = place / ".cache" / "huggingface" / "hub" / "models--org--other"
    snapshot = repository / "snapshots" / ("1" * 40)
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    for name, content in tiny_model(size=20_000).items():
        large = name.endswith(".safetensors")
        blob = repository / "blobs" / (hashlib.sha256(content).hexdigest() if large else git_blob_id(content))
        blob.write_bytes(content)
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    done = cli("model", "adopt", "--dry-run")
    assert done.out.splitlines()[0].startswith("would take  https://huggingface.co/org/other  ")
    assert done.out.splitlines()[-1] == "would save 20.1 kB"
    done = cli("model", "adopt")
    (entry,) = json.loads(cli("model", "list", "--json").out)
    assert done.out.splitlines()[0].startswith(f"{entry['id'][:7]}  https://huggingface.co/org/other  ")
    assert (done.code, entry["commit"]) == (0, "1" * 40)
    (record,) = json.loads(cli("model", "adopt", repository, "--json").out)
    assert (record["state"], record["already"], record["tool"]) == ("already", True, "huggingface")


def test_what_cannot_be_taken_in_says_why(cli: Cli, fails: Cli, place: Path) -> None:
    (place / "plain").mkdir()
    (place / "plain" / "x-00001-of-00002.gguf").write_bytes(b"GGUF")
    done = cli("model", "adopt", place / "plain")
    uri = (place / "plain" / "x-00001-of-00002.gguf").as_uri()
    assert (done.code, done.out) == (8, f"not taken  {uri}  it is one of several parts, which are not joined\n")
    assert cli("model", "adopt", place / "plain", "--dry-run").code == 0
    (place / "plain" / "y.gguf").write_bytes(b"no model")
    done = cli("model", "adopt", place / "plain")
    assert done.code == 6
    assert "is not a GGUF model" in done.out
    assert "is not a folder" in fails(4, "model", "adopt", place / "nowhere")
    (place / "empty").mkdir()
    assert "there is no model in '" in fails(4, "model", "adopt", place / "empty")


def test_a_checkout_lets_the_store_know(cli: Cli, id: str, home: Path) -> None:
    (record,) = (home / "roots").iterdir()
    assert json.loads(record.read_text()) == {
        "version": 1,
        "path": str(Path("metalchat.toml").absolute()),
        "model": id,
    }


def test_a_store_that_cannot_be_written_to_can_still_be_selected_from(
    cli: Cli, id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalchat_store import DiskError, Store

    def no(*_: object) -> None:
        raise DiskError("cannot write to /x: read-only file system")

    monkeypatch.setattr(Store, "register", no)
    done = cli("checkout", id)
    assert done.code == 0
    assert done.err.startswith("warning: the store does not know of '")
