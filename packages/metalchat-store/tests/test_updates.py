"""What an update would change, taking it, and going back."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from metalchat_store import (
    Change,
    Corrupted,
    Entry,
    IntegrityError,
    Lock,
    NetworkError,
    NotFound,
    Refused,
    Store,
)
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

Make = Callable[[MemoryRemote], Store]
URL = "memory://host/org/m"


@pytest.fixture
def remote() -> MemoryRemote:
    return MemoryRemote(files=tiny_model(), identities="git")


@pytest.fixture
def store(make_store: Make, remote: MemoryRemote) -> Store:
    return make_store(remote)


@pytest.fixture
def entry(store: Store, remote: MemoryRemote) -> Entry:
    entry = store.pull(URL).entry
    remote.reads.clear()
    return entry


def change(remote: MemoryRemote, **files: bytes | None) -> None:
    """Publish another commit; `None` takes a file away, `_` stands for the dot in a name."""
    named = {name.replace("__", "."): content for name, content in files.items()}
    merged = {**remote.files, **named}
    remote.files = {name: content for name, content in merged.items() if content is not None}
    remote.reads.clear()


def template(text: str) -> bytes:
    return json.dumps({"chat_template": text}).encode()


def tree(home: Path) -> dict[str, bytes]:
    """What the store holds; what it remembers about servers is not part of it."""
    files = [path for name in ("blobs", "models", "snapshots") for path in (home / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


def test_a_model_that_is_up_to_date_has_nothing_to_change(store: Store, entry: Entry) -> None:
    plan = store.plan_update(entry.id)
    assert plan.up_to_date
    assert (plan.changes, plan.download_bytes, plan.template, plan.held) == ((), 0, None, None)
    (available,) = store.outdated()
    assert (available.entry, available.outdated, available.error) == (entry, False, None)


def test_a_plan_names_every_change_its_kind_and_the_bytes(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    change(
        remote,
        model__safetensors=bytes(300_000),
        tokenizer__json=b'{"model": 1}',
        LICENSE=None,
        README__md=b"new",
        config__json=json.dumps({"model_type": "llama", "x": 1}).encode(),
        chat_template__jinja=b"hello",
    )
    before = tree(store.home)
    plan = store.plan_update("org/m")
    assert tree(store.home) == before
    assert {(found.path, found.kind, found.what) for found in plan.changes} == {
        ("model.safetensors", "weights", "changed"),
        ("tokenizer.json", "tokenizer", "changed"),
        ("LICENSE", "licence", "removed"),
        ("README.md", "readme", "changed"),
        ("config.json", "other", "changed"),
        ("chat_template.jinja", "template", "added"),
    }
    assert (
        Change(path="model.safetensors", kind="weights", what="changed", before=200_000, after=300_000) in plan.changes
    )
    assert plan.download_bytes == 300_000 + 12 + 3 + 31 + 5
    assert plan.before == entry.commit
    assert not plan.up_to_date
    assert {path for path, _ in remote.reads} == {"chat_template.jinja"}
    assert store.update("org/m").fetched_bytes == plan.download_bytes


def test_F_6_an_update_of_the_template_says_so_with_both_digests(
    store: Store, entry: Entry, remote: MemoryRemote
) -> None:
    import hashlib

    change(remote, tokenizer_config__json=template("other"))
    old = hashlib.sha256(b"{{ messages }} 1").hexdigest()[:8]
    new = hashlib.sha256(b"other").hexdigest()[:8]
    line = f"the chat template of 'memory://host/org/m' changed (sha256 {old}… → {new}…)"
    assert store.plan_update(entry.id).template == line
    assert line in store.update(entry.id).notices


def test_a_template_that_only_moves_to_another_file_is_the_same(
    store: Store, entry: Entry, remote: MemoryRemote
) -> None:
    change(remote, tokenizer_config__json=b"{}", chat_template__jinja=b"{{ messages }} 1")
    assert store.plan_update(entry.id).template is None
    assert len(store.update(entry.id).notices) == 1


@pytest.mark.parametrize("hold", ["pin", "lock"])
@pytest.mark.parametrize("act", ["update", "pull"])
def test_F_6_S_9_what_is_held_is_updated_only_with_consent(
    store: Store, entry: Entry, remote: MemoryRemote, tmp_path: Path, hold: str, act: str
) -> None:
    if hold == "pin":
        store.pin(entry.id)
        why = "it is pinned"
    else:
        store.lock(entry.id).write(tmp_path / "metalchat.lock")
        store.register(tmp_path / "metalchat.toml", entry.id)
        why = f"'{tmp_path / 'metalchat.lock'}' locks it"
    change(remote, tokenizer_config__json=template("other"), model__safetensors=bytes(300_000))
    before = tree(store.home)
    assert store.plan_update(entry.id).held == why
    with pytest.raises(Refused) as caught:
        store.update(entry.id) if act == "update" else store.pull(URL)
    text = str(caught.value)
    assert text.startswith(f"'memory://host/org/m' is now {remote_commit(remote)[:7]}, here it stays at ")
    assert f", since {why}; the chat template of 'memory://host/org/m' changed (sha256 " in text
    assert text.endswith(". 'metalchat model update memory://host/org/m --yes' takes the update")
    assert caught.value.exit_code == 8
    assert ("model.safetensors", 0) not in remote.reads
    assert tree(store.home) == before
    taken = store.update(entry.id, consent=True) if act == "update" else store.pull(URL, consent=True)
    assert taken.entry.commit == remote_commit(remote)


def remote_commit(remote: MemoryRemote) -> str:
    from metalchat_store.remote import RemoteContext

    return remote.list(URL, revision=None, context=RemoteContext()).commit


def test_a_held_model_that_is_up_to_date_is_a_success(store: Store, entry: Entry) -> None:
    store.pin(entry.id)
    assert store.pull(URL).already
    assert store.update(entry.id).already


def test_a_rollback_is_instant_and_offline(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    first = entry.commit
    change(remote, model__safetensors=bytes(300_000))
    second = store.update(entry.id).entry.commit
    assert store.history(entry.id) == (first,)
    remote.listing_faults = [NetworkError("offline")] * 9
    lists = remote.lists
    back = store.rollback("org/m")
    assert (back.id, back.commit, back.damaged) == (entry.id, first, None)
    assert store.path(entry.id).joinpath("model.safetensors").stat().st_size == 200_000
    assert store.verify(entry.id).ok
    assert remote.lists == lists
    assert store.history(entry.id) == (second,)
    with pytest.raises(NotFound, match="'memory://host/org/m' has no earlier state in the store"):
        store.rollback(entry.id)
    assert store.rollback(entry.id, second[:8]).commit == second
    assert store.rollback(entry.id).commit == first


def test_a_rollback_keeps_what_the_user_wrote(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    change(remote, model__safetensors=bytes(300_000))
    store.update(entry.id)
    manifest = entry.path / "metalchat.toml"
    manifest.write_text(manifest.read_text() + "\n# mine\n")
    store.rollback(entry.id)
    assert manifest.read_text().endswith("# mine\n")
    assert f'commit = "{entry.commit}"' in manifest.read_text()


def test_an_update_after_a_rollback_fetches_nothing(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    change(remote, model__safetensors=bytes(300_000))
    store.update(entry.id)
    store.rollback(entry.id)
    assert store.outdated([entry.id])[0].outdated
    assert store.update(entry.id).fetched_bytes == 0
    assert store.rollback(entry.id).commit == entry.commit


def test_a_rollback_to_damaged_content_changes_nothing(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    change(remote, model__safetensors=bytes(300_000))
    updated = store.update(entry.id).entry
    old = next(path for path in (store.home / "blobs").rglob("*") if path.is_file() and path.stat().st_size == 200_000)
    old.chmod(0o600)
    old.write_bytes(bytes(200_000))
    with pytest.raises(Corrupted, match=r"'model.safetensors' of [0-9a-f]{12} is damaged\. .* brings it back$"):
        store.rollback(entry.id)
    old.unlink()
    with pytest.raises(Corrupted, match="is missing"):
        store.rollback(entry.id)
    assert store.list() == (updated,)
    assert store.verify(entry.id).ok
    assert store.pull(URL, revision=None).already


def test_gc_ends_the_way_back(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    change(remote, model__safetensors=bytes(300_000))
    store.update(entry.id)
    store.gc(grace=-1)
    with pytest.raises(NotFound, match="no earlier state"):
        store.rollback(entry.id)


def test_an_update_asks_for_the_revision_of_the_pull(store: Store, remote: MemoryRemote) -> None:
    pinned = store.pull(URL, revision=remote_commit(remote)).entry
    remote.commit = pinned.commit
    assert not store.outdated()[0].outdated
    assert store.update(pinned.id).already


def test_a_source_that_fails_is_an_answer_like_others(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    other = store.pull("memory://host/org/other").entry
    remote.listing_faults = [NetworkError("no way")]
    found = {available.entry.id: available for available in store.outdated()}
    assert {str(found[entry.id].error), str(found[other.id].error)} == {"no way", "None"}
    assert not any(available.outdated for available in found.values())


def test_a_template_that_arrives_damaged_is_not_judged(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    from metalchat_store.testing.memory import Fault

    change(remote, chat_template__jinja=b"hello")
    remote.faults = {"chat_template.jinja": [Fault(replace=b"other")]}
    with pytest.raises(IntegrityError, match=r"^'chat_template.jinja' arrived damaged"):
        store.plan_update(entry.id)


def test_the_same_commit_with_other_content_is_not_whole(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    remote.commit = entry.commit
    change(remote, model__safetensors=bytes(200_000))
    pulled = store.pull(URL)
    assert not pulled.already
    assert (pulled.entry.path / "model.safetensors").read_bytes() == bytes(200_000)


def test_a_lock_of_another_commit_does_not_hold(
    store: Store, entry: Entry, remote: MemoryRemote, tmp_path: Path
) -> None:
    lock: Lock = replace(store.lock(entry.id), commit="0" * 40)
    lock.write(tmp_path / "metalchat.lock")
    store.register(tmp_path / "metalchat.toml", entry.id)
    change(remote, README__md=b"new")
    assert store.update(entry.id).entry.commit != entry.commit


def test_the_digests_are_those_that_the_prompt_knows(store: Store, entry: Entry) -> None:
    import hashlib

    lock = store.lock(entry.id)
    assert lock.template == hashlib.sha256(b"{{ messages }} 1").hexdigest()
    assert lock.tokenizer == hashlib.sha256(b'{"model": {}}').hexdigest()
    assert os.path.getsize(entry.path / "tokenizer.json") == 13  # noqa: PTH202 - a plain number


def gguf(template: bytes, tokens: list[bytes]) -> bytes:
    import struct

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    entries = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"tokenizer.ggml.model") + struct.pack("<I", 8) + text(b"gpt2"),
        text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(tokens)) + b"".join(map(text, tokens)),
        text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + bytes(8),
        text(b"tokenizer.chat_template") + struct.pack("<I", 8) + text(template),
    ]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries) + bytes(1000)


def test_F_6_the_template_and_the_tokenizer_inside_a_gguf_file_are_told_apart(make_store: Make) -> None:
    import hashlib

    remote = MemoryRemote(files={"m.gguf": gguf(b"one", [b"a", b"b"])})
    store = make_store(remote)
    entry = store.pull(URL).entry
    first = store.lock(entry.id)
    assert first.template == hashlib.sha256(b"one").hexdigest()
    remote.files = {"m.gguf": gguf(b"two", [b"a", b"b"])}
    old, new = (hashlib.sha256(text).hexdigest()[:8] for text in (b"one", b"two"))
    line = f"the chat template of 'memory://host/org/m' changed (sha256 {old}… → {new}…)"
    assert store.plan_update(entry.id).template == line
    assert line in store.update(entry.id).notices
    second = store.lock(entry.id)
    assert second.tokenizer == first.tokenizer
    remote.files = {"m.gguf": gguf(b"two", [b"a", b"c"])}
    assert store.plan_update(entry.id).template is None
    assert len(store.update(entry.id).notices) == 1
    assert store.lock(entry.id).tokenizer != first.tokenizer
    store.pin(entry.id)
    remote.files = {"m.gguf": gguf(b"three", [b"a", b"c"])}
    reads = len(remote.reads)
    with pytest.raises(Refused, match=r", since it is pinned\. '"):
        store.update(entry.id)
    assert len(remote.reads) == reads  # the template is inside the weights, which did not come
