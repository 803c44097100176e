"""What of a folder is pushed, what is passed over, and what is refused: links, names, secrets."""

import os
import random
import string
from pathlib import Path

import pytest
from metalchat_store import Filter, NotFound, Refused, RepositoryNotFound
from metalchat_store._push_folder import Collected, Wanted, collect
from metalchat_store.errors import StoreError

OWN = b"gho-this-is-no-known-kind-of-token-but-ours"
_DICE = random.Random(7)
HF = "hf_" + "".join(_DICE.choices(string.ascii_letters + string.digits, k=34))


def look(path: Path, **options: object) -> Collected:
    wanted = {"to": "", "include": (), "exclude": ()} | options
    return collect(Wanted(path=path, **wanted), own=OWN, seen=lambda *_: None)  # type: ignore[arg-type]


def names(path: Path, **options: object) -> list[str]:
    return [file.path for file in look(path, **options).files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"a")
    (root / "sub" / "b.txt").write_bytes(b"b")
    return root


def test_what_belongs_to_other_programs_is_passed_over_and_named(folder: Path) -> None:
    for name in (".git/config", ".cache/huggingface/x", "sub/__pycache__/m.pyc", "sub/.ipynb_checkpoints/n.ipynb"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name in (".DS_Store", "sub/.DS_Store", "metalchat.toml", "Thumbs.db", ".gitattributes"):
        (folder / name).write_bytes(b"x")
    found = look(folder)
    assert [file.path for file in found.files] == [".gitattributes", "a.txt", "sub/b.txt"]
    assert found.passed_over == (
        ".DS_Store", ".cache", ".git", "Thumbs.db", "metalchat.toml", "sub/.DS_Store", "sub/.ipynb_checkpoints",
        "sub/__pycache__",
    )  # fmt: skip


def test_a_link_to_a_file_of_the_folder_is_that_file(folder: Path) -> None:
    (folder / "link.txt").symlink_to("sub/b.txt")
    assert names(folder) == ["a.txt", "link.txt", "sub/b.txt"]
    digests = {file.path: file.sha256 for file in look(folder).files}
    assert digests["link.txt"] == digests["sub/b.txt"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside.txt", "sub/../../outside.txt", "sub", "nowhere", "loop"])
def test_S_3_a_link_that_leads_elsewhere_is_refused(folder: Path, target: str) -> None:
    (folder.parent / "outside.txt").write_bytes(b"private")
    (folder / "loop").symlink_to(target)
    with pytest.raises(Refused, match=r"'loop' is a link that leads .*--exclude 'loop'") as caught:
        look(folder)
    assert caught.value.exit_code == 8
    assert names(folder, exclude=["loop"]) == ["a.txt", "sub/b.txt"]


def test_S_3_a_folder_that_is_a_link_is_never_walked_into(folder: Path) -> None:
    (folder.parent / "private").mkdir()
    (folder.parent / "private" / "key").write_bytes(b"private")
    (folder / "data").symlink_to(folder.parent / "private")
    with pytest.raises(Refused, match=r"'data' is a link"):
        look(folder)


def test_the_folder_itself_may_be_named_by_a_link(folder: Path) -> None:
    (folder.parent / "name").symlink_to(folder)
    assert names(folder.parent / "name") == ["a.txt", "sub/b.txt"]


def test_what_is_neither_file_nor_folder_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(Refused, match="'pipe' is not a file or a folder"):
        look(folder)


@pytest.mark.parametrize("name", ["a\rb", "con", "x.", "a:b", "ev\u202eil", "\x1b[2J", "A.txt"])
def test_S_2_a_name_that_a_pull_would_refuse_is_not_pushed(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(Refused, match="a file has a name that is not pushed") as caught:
        look(folder)
    assert str(caught.value).isprintable()


def test_nothing_to_push_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        look(tmp_path / "none")
    with pytest.raises(NotFound, match="matches --include and --exclude"):
        look(folder, include=["*.safetensors"])
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    with pytest.raises(NotFound, match="can be pushed"):
        look(tmp_path / "empty")


def test_a_folder_that_may_not_be_read_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(StoreError, match="permission denied") as caught:
        look(folder)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    "name",
    [".env", "sub/.env", ".env.local", ".ENV", ".netrc", ".pypirc", ".npmrc", ".git-credentials", "id_rsa",
     "id_ed25519"],
)  # fmt: skip
def test_C_6_files_that_keep_secrets_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(Refused, match=r"is where secrets are kept and is not pushed: leave it out with --exclude"):
        look(folder)
    assert names(folder, exclude=[name]) == ["a.txt", "sub/b.txt"]


@pytest.mark.parametrize("name", [".env.example", ".env.sample", "env", "dotenv", "id_rsa.pub", "environment.env"])
def test_files_that_are_only_called_so_are_pushed(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"TOKEN=\n")
    assert name in names(folder)


def made_up(start: str, length: int, letters: str = string.ascii_letters + string.digits) -> str:
    return start + "".join(_DICE.choices(letters, k=length - 2)) + "A1"


@pytest.mark.parametrize(
    ("token", "what"),
    [
        (HF, "a Hugging Face access token"),
        (made_up("api_org_", 34), "a Hugging Face access token"),
        (made_up("ghp_", 36), "a GitHub access token"),
        (made_up("github_pat_", 82), "a GitHub access token"),
        (made_up("glpat-", 20), "a GitLab access token"),
        (made_up("pypi-AgE", 150), "a PyPI access token"),
        (made_up("sk-proj-", 48), "an API key"),
        (made_up("sk-ant-", 90), "an API key"),
        (made_up("AKIA", 16, string.ascii_uppercase + string.digits), "an AWS access key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n" + made_up("", 64), "a private key"),
        (OWN.decode(), "the access token of this push"),
    ],
)
@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 10, 1 << 20, (2 << 20) - 1])
def test_C_6_a_file_with_an_access_token_is_refused_wherever_it_is(
    folder: Path, token: str, what: str, before: int
) -> None:
    (folder / "sub" / "notes.bin").write_bytes(b"\n" * before + token.encode() + b'"\n' + b"x" * 1000)
    with pytest.raises(Refused, match=f"'sub/notes.bin' contains {what}: nothing was pushed") as caught:
        look(folder)
    assert token not in str(caught.value)
    assert caught.value.exit_code == 8
    assert names(folder, exclude=["sub/notes.bin"]) == ["a.txt", "sub/b.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "hf_...", "hf_YOUR_TOKEN_HERE", "export HF_TOKEN=$TOKEN",
        "hf_tokenizerconfigurationloaderinterface", "sk-learn", "AKIA", "-----BEGIN PUBLIC KEY-----\nMIIB",
        "the -----BEGIN PRIVATE KEY----- line", "ghp_", "AKIAAAAAAAAAAAAAAAAA",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_token_is_pushed(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(text)
    assert "README.md" in names(folder)


def test_noise_holds_no_tokens(folder: Path) -> None:
    (folder / "w.safetensors").write_bytes(_DICE.randbytes(4 << 20))
    assert "w.safetensors" in names(folder)


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, ["a.txt", "b/c.txt", "b/d/e.bin"]),
        ({"include": ["*.txt"]}, ["a.txt", "b/c.txt"]),
        ({"include": ["b"]}, ["b/c.txt", "b/d/e.bin"]),
        ({"include": ["b/"]}, ["b/c.txt", "b/d/e.bin"]),
        ({"include": ["b/*"], "exclude": ["*.bin"]}, ["b/c.txt"]),
        ({"exclude": ["b/d"]}, ["a.txt", "b/c.txt"]),
        ({"files": ["b/d/e.bin"]}, ["b/d/e.bin"]),
        ({"files": ["b/d/e.bin"], "exclude": ["*"]}, ["b/d/e.bin"]),
        ({"files": ["b/d/e.bin"], "include": ["a*"]}, ["a.txt", "b/d/e.bin"]),
    ],
)
def test_names_and_patterns_choose_files(options: dict[str, list[str]], chosen: list[str]) -> None:
    assert list(Filter(**options).choose(["a.txt", "b/c.txt", "b/d/e.bin"], where="org/m")) == chosen


def test_a_name_that_is_not_there_and_patterns_that_leave_nothing_are_errors() -> None:
    with pytest.raises(RepositoryNotFound, match="'org/m' has no such file: 'x'"):
        Filter(files=["x"]).choose(["a"], where="org/m")
    with pytest.raises(RepositoryNotFound, match="'org/m' has no file that --include and --exclude leave"):
        Filter(include=["x"]).choose(["a"], where="org/m")
    assert Filter().choose([], where="org/m") == ()
