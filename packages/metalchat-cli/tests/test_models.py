"""`metalchat model` and `metalchat checkout`: what they print, and what they leave behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine.testing import EchoEngine
from metalchat_store.testing import FakeHub
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]

LLAMA = "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct"
LLAMA_ID = "e37f2dfbbef2a9dcad4e1d83274b8ff5d55c5481"


def lay_down(home: Path, id: str, repository: str, text: str | None = None) -> Path:
    """An entry as another program leaves it."""
    entry = home / "models" / id
    entry.mkdir(parents=True)
    words = f'repository = "{repository}"\narchitecture = "llama3"\npartitioning = "consolidated"\n'
    (entry / "metalchat.toml").write_text(f'[model]\n{words}variant = "huggingface"\n' if text is None else text)
    (entry / "config.json").write_text('{"model_type": "llama"}')
    return entry


def flip(path: Path) -> None:
    """Change one byte of a file, and neither its size nor its time."""
    import os

    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder but the store's notes of when a model was used."""
    found = {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
    return {name: content for name, content in found.items() if not name.startswith(".metalchat/used")}


def test_a_pull_prints_where_it_pulls_from_and_the_digest(cli: Cli, folder: Path, home: Path) -> None:
    done = cli("model", "pull", folder.as_uri())
    first, second = done.out.splitlines()
    assert first == f"Pulling from '{folder.as_uri()}'..."
    id = second.removeprefix("Digest: ")
    assert len(id) == 40
    assert [path.name for path in (home / "models").iterdir()] == [id]
    assert done.code == 0


def test_pulling_again_is_a_success_that_prints_the_same(cli: Cli, folder: Path) -> None:
    first, second = cli("model", "pull", folder.as_uri()), cli("model", "pull", folder.as_uri())
    assert (second.code, second.out, second.err) == (0, first.out, "")


def test_a_pull_from_a_hub_says_what_changed_since_the_last_one(cli: Cli) -> None:
    with FakeHub() as hub:
        hub.add_repo("org/m", files=tiny_model())
        assert cli("model", "pull", f"{hub.url}/org/m").code == 0
        hub.commit("org/m", tiny_model() | {"tokenizer_config.json": b'{"chat_template": "other"}'})
        done = cli("model", "pull", f"{hub.url}/org/m")
    moved, template = done.err.splitlines()
    assert moved.startswith("'org/m' moved from ")
    assert template.startswith("the chat template of 'org/m' changed (sha256 ")
    assert done.code == 0


def test_a_pull_takes_the_revision_that_is_named(cli: Cli) -> None:
    with FakeHub() as hub:
        first = hub.add_repo("org/m", files=tiny_model())
        hub.commit("org/m", tiny_model(seed=2))
        assert cli("model", "pull", f"{hub.url}/org/m", "--revision", first).code == 0
    assert json.loads(cli("model", "list", "--json").out)[0]["commit"] == first


def test_the_list_has_four_columns_two_spaces_apart(cli: Cli, pulled: str, folder: Path) -> None:
    assert cli("model", "list").out == f"{pulled}  llama3  consolidated  {folder.as_uri()}\n"


def test_an_abbreviated_id_has_seven_characters(cli: Cli, home: Path) -> None:
    lay_down(home, LLAMA_ID, LLAMA)
    assert cli("model", "list", "--abbrev").out == f"e37f2df  llama3  consolidated  {LLAMA}\n"


def test_ids_that_share_seven_characters_are_abbreviated_less(cli: Cli, home: Path) -> None:
    lay_down(home, LLAMA_ID, LLAMA)
    lay_down(home, "e37f2df0" + "0" * 32, "https://huggingface.co/org/other")
    ids = [line.split()[0] for line in cli("model", "list", "--abbrev").out.splitlines()]
    assert ids == ["e37f2df0", "e37f2dfb"]


def test_a_damaged_entry_is_listed_as_such_beside_the_others(cli: Cli, pulled: str, home: Path) -> None:
    lay_down(home, "0" * 40, LLAMA, "[model")
    done = cli("model", "list")
    assert done.out.splitlines()[0] == f"{'0' * 40}  damaged: its metalchat.toml is not valid TOML"
    assert done.out.splitlines()[1].startswith(pulled)
    assert (done.code, done.err) == (0, "")


def test_an_empty_store_is_listed_without_being_made(cli: Cli, home: Path) -> None:
    done = cli("model", "list")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert json.loads(cli("model", "list", "--json").out) == []
    assert not home.exists()


def test_the_list_as_json_has_these_keys(cli: Cli, pulled: str, home: Path) -> None:
    lay_down(home, "0" * 40, LLAMA, "[model")
    damaged, whole = json.loads(cli("model", "list", "--json").out)
    keys = ["id", "architecture", "partitioning", "variant", "repository", "path", "commit", "size", "damaged"]
    assert list(damaged) == list(whole) == keys
    assert whole["id"] == pulled
    assert whole["damaged"] is None
    assert damaged["damaged"] == "its metalchat.toml is not valid TOML"
    assert damaged["repository"] is None


@pytest.mark.parametrize("reference", [4, 7, 40, "SmallModel", "small"])
def test_a_model_is_found_by_its_id_a_prefix_or_a_part_of_its_name(
    cli: Cli, pulled: str, home: Path, reference: int | str
) -> None:
    word = pulled[:reference] if isinstance(reference, int) else reference
    assert cli("model", "path", word).out == f"{home / 'models' / pulled}\n"


def test_an_unknown_model_is_not_found(fails: Cli, pulled: str) -> None:
    for verb in ("remove", "verify", "path", "describe"):
        assert fails(4, "model", verb, "0000") == "fatal: model '0000' not found"
    assert fails(4, "checkout", "0000") == "fatal: model '0000' not found"


def test_a_prefix_of_less_than_four_characters_is_not_one(fails: Cli, pulled: str) -> None:
    assert fails(4, "checkout", pulled[:3]) == f"fatal: model '{pulled[:3]}' not found"


def test_an_ambiguous_reference_lists_the_candidates(fails: Cli, home: Path) -> None:
    lay_down(home, LLAMA_ID, LLAMA)
    lay_down(home, "e37f" + "0" * 36, "https://huggingface.co/org/Llama-other")
    for reference in ("e37f", "llama"):
        line = fails(2, "checkout", reference)
        assert "e37f2df meta-llama/Llama-3.2-1B-Instruct" in line
        assert "e37f000 org/Llama-other" in line
    assert not Path("metalchat.toml").exists()


def test_a_checkout_writes_the_model_of_this_directory_and_prints_nothing(cli: Cli, pulled: str, folder: Path) -> None:
    done = cli("checkout", pulled[:7])
    assert (done.code, done.out, done.err) == (0, "", "")
    text = f'[model]\nrepository = "{folder.as_uri()}"\narchitecture = "llama3"\n'
    assert Path("metalchat.toml").read_text() == text + 'partitioning = "consolidated"\nvariant = "huggingface"\n'


def test_a_global_checkout_writes_the_home_and_not_the_directory(cli: Cli, pulled: str, home: Path) -> None:
    assert cli("checkout", "--global", pulled).code == 0
    assert "SmallModel" in (home / "metalchat.toml").read_text()
    assert not Path("metalchat.toml").exists()


def test_a_checkout_replaces_the_model_and_keeps_every_other_byte(cli: Cli, pulled: str) -> None:
    rest = "# mine\r\n[chat]  # odd\r\nx   = 1\r\n\r\n[prompt]\r\nsystem = 'system.md'\r\n"
    words = 'architecture = "llama3"\r\npartitioning = "sharded"\r\nvariant = "huggingface"\r\n'
    Path("metalchat.toml").write_bytes(f'{rest}[model]\r\nrepository = "https://old/x"\r\n{words}'.encode())
    assert cli("checkout", "--local", pulled).code == 0
    after = Path("metalchat.toml").read_bytes().decode()
    assert after.startswith(rest)
    assert "SmallModel" in after
    assert "https://old/x" not in after
    assert "\n" not in after.replace("\r\n", "")


@pytest.mark.parametrize("damage", ["manifest", "missing file"])
def test_a_damaged_model_is_not_checked_out(fails: Cli, pulled: str, home: Path, damage: str) -> None:
    entry = home / "models" / pulled
    if damage == "manifest":
        (entry / "metalchat.toml").write_text("[model")
    else:
        (entry / "model.safetensors").unlink()
    assert fails(6, "checkout", pulled) == f"fatal: model '{pulled}' is corrupted"
    assert fails(6, "prompt", "--model", pulled, "-c", "Hello") == f"fatal: model '{pulled}' is corrupted"
    assert not Path("metalchat.toml").exists()


def test_a_flipped_byte_is_found_by_verify_which_names_the_file(
    cli: Cli, fails: Cli, pulled: str, home: Path, use_engine: Cli
) -> None:
    use_engine(EchoEngine())
    assert cli("model", "verify", pulled).out == f"{pulled}  ok\n"
    flip(home / "models" / pulled / "model.safetensors")
    done = cli("model", "verify", pulled)
    assert done.code == 6
    file, verdict = done.out.splitlines()
    assert file.startswith(f"{pulled[:7]}  model.safetensors  expected sha256 ")
    assert verdict == f"{pulled}  damaged"
    assert fails(6, "model", "path", pulled) == f"fatal: model '{pulled}' is corrupted"
    assert fails(6, "prompt", "--model", pulled, "-c", "Hello") == f"fatal: model '{pulled}' is corrupted"


def test_a_pull_repairs_what_verify_found(cli: Cli, folder: Path) -> None:
    with FakeHub() as hub:
        hub.add_repo("org/m", files=tiny_model())
        id = cli("model", "pull", f"{hub.url}/org/m").out.split()[-1]
        flip(Path(cli("model", "path", id).out.strip()) / "model.safetensors")
        assert cli("model", "verify", id).code == 6
        assert cli("model", "pull", f"{hub.url}/org/m").code == 0
    assert cli("model", "verify", id).code == 0


def test_verify_as_json_says_every_file(cli: Cli, pulled: str, home: Path) -> None:
    flip(home / "models" / pulled / "tokenizer.json")
    done = cli("model", "verify", "--all", "--json")
    (report,) = json.loads(done.out)
    assert (done.code, report["id"], report["ok"]) == (6, pulled, False)
    assert [file["path"] for file in report["files"] if not file["ok"]] == ["tokenizer.json"]
    assert list(report["files"][0]) == ["path", "ok", "reason"]


def test_verifying_all_of_nothing_is_a_success(cli: Cli) -> None:
    assert cli("model", "verify", "--all").code == 0


def test_a_removed_model_is_gone_with_its_content(cli: Cli, pulled: str, home: Path) -> None:
    done = cli("model", "remove", pulled)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert cli("model", "list").out == ""
    assert not [path for path in (home / "blobs").rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["metalchat.toml", "model.safetensors"])
def test_a_damaged_model_can_be_removed(cli: Cli, pulled: str, home: Path, damage: str) -> None:
    (home / "models" / pulled / damage).unlink()
    assert cli("model", "remove", pulled).code == 0
    assert cli("model", "list").out == ""


def test_a_model_in_the_store_is_described_by_its_headers(cli: Cli, pulled: str, use_engine: Cli) -> None:
    use_engine(EchoEngine())
    rows = dict(line.split(maxsplit=1) for line in cli("model", "describe", "small").out.splitlines())
    assert rows["id"] == pulled
    assert rows["loadable"] == "yes"
    record = json.loads(cli("model", "describe", "small", "--json").out)
    assert record["context_length"] == 4096
    assert record["reason"] is None


def test_a_damaged_model_is_described_without_an_engine(cli: Cli, pulled: str, home: Path) -> None:
    (home / "models" / pulled / "model.safetensors").unlink()
    assert "damaged       'model.safetensors' is missing" in cli("model", "describe", pulled).out


def test_what_is_in_the_store_is_described_without_contacting_anybody(cli: Cli, use_engine: Cli) -> None:
    use_engine(EchoEngine())
    with FakeHub() as hub:
        hub.add_repo("org/m", files=tiny_model())
        address = f"{hub.url}/org/m"
        id = cli("model", "pull", address).out.split()[-1]
        before = len(hub.requests)
        assert json.loads(cli("model", "describe", address, "--json").out)["id"] == id
        assert len(hub.requests) == before


@pytest.mark.parametrize("verb", ["pull", "describe"])
def test_what_is_no_model_is_an_error_that_says_what_was_found(
    cli: Cli, make_folder: Cli, home: Path, verb: str
) -> None:
    papers = make_folder("papers", files={"essay.md": b"words"})
    done = cli("model", verb, papers.as_uri())
    assert done.code == 6
    assert "is not a model: found essay.md; looked for config.json" in done.err
    pickle = make_folder("pickle", files={"config.json": b'{"model_type": "llama"}', "pytorch_model.bin": b"\x80"})
    done = cli("model", verb, pickle.as_uri())
    assert done.code == 6
    assert "(found pytorch_model.bin, which can run code and is not read)" in done.err
    assert cli("model", "list").out == ""


def test_a_failed_pull_leaves_no_model_and_does_not_block_the_next_one(cli: Cli, home: Path) -> None:
    with FakeHub() as hub:
        hub.add_repo("org/m", files=tiny_model())
        hub.fault(path="/tree/", status=404, times=-1)
        done = cli("model", "pull", f"{hub.url}/org/m")
        assert (done.code, done.err.count("\n")) == (4, 1)
        assert cli("model", "list").out == ""
        hub.faults.clear()
        assert cli("model", "pull", f"{hub.url}/org/m").code == 0


def test_what_only_reads_leaves_every_byte_as_it_was(cli: Cli, checked_out: str, place: Path, use_engine: Cli) -> None:
    use_engine(EchoEngine())
    before = tree(place)
    for words in (
        ["model", "list"],
        ["model", "verify", "--all"],
        ["model", "path", checked_out],
        ["model", "describe", checked_out],
        ["options", "list"],
        ["config", "list"],
        ["config", "explain", "engine.name"],
        ["credential", "list"],
        ["doctor"],
        ["plugins"],
        ["prompt", "-c", "Hello"],
    ):
        assert cli(*words).code == 0, words
    assert tree(place) == before
