"""Names that others chose never leave the folder, hide, or fall together."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalchat_store import IntegrityError, Listing, RemoteFile, check_name, check_names, local_path

REFUSED = [
    "../x",
    "a/../../x",
    "/etc/x",
    "C:\\x",
    "..\\x",
    "a\x00b",
    "a\rb",
    "a\nb",
    "con",
    "CON.txt",
    "nul .txt",
    "lpt¹",
    "a.",
    "a ",
    " a",
    "a//b",
    "a/",
    "",
    ".",
    "..",
    "./a",
    "x" * 300,
    "é" * 128,
    "/".join("a" * 100),
    "metalchat.toml",
    "METALCHAT.TOML",
    "sub/metalchat.toml",
    ".metalchat-partial",
    ".git/config",
    ".GIT",
    "a\x1b[2Kb",
    "a\x85b",
    "a\u202eb",
    "a\u200bb",
    "a\u2028b",
    "a\U000e0041b",
    "a\udc80",
    "file.txt:stream",
]
TOGETHER = [
    ["A", "a"],
    ["é", "e\u0301"],
    ["ß", "ss"],
    ["a", "a"],
    ["a", "a/b"],
    ["a/b", "a"],
    ["A/x", "a/y"],
]


@pytest.mark.parametrize("name", REFUSED)
def test_S_2_a_name_that_is_not_plain_is_refused_escaped(name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        RemoteFile(path=name)
    text = str(caught.value)
    assert text.startswith('the model contains a file name that is not allowed: "')
    assert text.isprintable()
    assert text.isascii()


def test_S_2_the_message_shows_what_cannot_be_seen() -> None:
    with pytest.raises(IntegrityError) as caught:
        check_name("a\rb")
    assert str(caught.value) == r'the model contains a file name that is not allowed: "a\rb"'


@pytest.mark.parametrize("names", TOGETHER)
def test_S_2_names_that_fall_together_on_some_file_system_are_refused(names: list[str]) -> None:
    with pytest.raises(IntegrityError, match="file name that is not allowed"):
        Listing(repository="r", commit="1", files=tuple(RemoteFile(path=name) for name in names))


@pytest.mark.parametrize(
    "name", ["model.safetensors", ".gitattributes", "Modèle-7B.gguf", "a/b/c.json", "コンフィグ.json"]
)
def test_plain_names_are_segments(name: str, tmp_path: Path) -> None:
    assert "/".join(check_name(name)) == name
    assert local_path(tmp_path, name) == tmp_path / name


def test_files_may_share_folders() -> None:
    check_names(["a/b", "a/c", "a/d/e", "f"])


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "\\", "\0", "~"])).map("/".join))
def test_S_2_an_accepted_name_stays_below_its_root(name: str) -> None:
    root = Path("/root/of/it")
    try:
        path = local_path(root, name)
    except IntegrityError:
        return
    assert path != root
    assert Path(str(path)).parts[: len(root.parts)] == root.parts
    assert ".." not in path.parts
    assert len(path.parts) == len(root.parts) + name.count("/") + 1


def test_only_one_function_joins_foreign_names_to_paths() -> None:
    source = Path(__file__).parents[1] / "src"
    joining = [
        path.name for path in source.rglob("*.py") if ".joinpath(" in path.read_text() and "testing" not in path.parts
    ]
    assert joining == ["names.py"]
