"""An edit changes the text of its key and not one other byte."""

import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from metalchat_manifest import (
    KEYS,
    Editor,
    EditRefused,
    InvalidManifest,
    InvalidSetting,
    Manifest,
    ManifestNotFound,
    MisspeltKey,
    ModelSpec,
    SecretInManifest,
    edit,
)

HERE = Path("metalchat.toml")
CORPUS = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").glob("*.toml"))}
SPEC = ModelSpec(repository="https://h/a", architecture="qwen3", partitioning="sharded", variant="gguf")
FORMS = {
    "unix": lambda data: data,
    "windows": lambda data: data.replace(b"\n", b"\r\n"),
    "marked": lambda data: b"\xef\xbb\xbf" + data,
    "unended": lambda data: data.rstrip(b"\n"),
}

words = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cn", "Zl", "Zp"]), max_size=12)
settings_of_keys = st.one_of(
    st.tuples(st.just("inference.sampling.temperature"), st.floats(0, 100) | st.integers(0, 100)),
    st.tuples(st.just("inference.sampling.k"), st.integers(0, 1000)),
    st.tuples(st.just("inference.sampling.type"), st.sampled_from(["nucleus", "greedy"])),
    st.tuples(st.just("inference.max_sequence_length"), st.integers(1, 10**6)),
    st.tuples(st.just("prompt.system"), words),
    st.tuples(st.just("engine.name"), words),
    st.tuples(st.sampled_from(["options.rms_norm_eps", "options.rope_theta"]), st.floats(0, 1e9)),
    st.tuples(st.sampled_from(["options.tie_word_embeddings", "chat.a", 'tools."b c"']), st.booleans()),
    st.tuples(
        st.sampled_from(["chat.x", "source.y.z", "engine.mlx.kv_bits", "tools.clock.zone"]), words | st.integers(-9, 9)
    ),
)


def content_of(data):
    return tomllib.loads(data.decode().removeprefix("\ufeff"))


def put(content, key, value):
    *tables, name = parts(key)
    for table in tables:
        content = content.setdefault(table, {})
    content[name] = value


def parts(key):
    found, content = [], tomllib.loads(f"{key} = 0")
    while isinstance(content, dict):
        (name,) = content
        found.append(name)
        content = content[name]
    return found


def without_empty(content):
    if isinstance(content, float) and math.isnan(content):
        return "nan"
    if isinstance(content, list):
        return [without_empty(each) for each in content]
    if not isinstance(content, dict):
        return content
    kept = {name: without_empty(value) for name, value in content.items()}
    return {name: value for name, value in kept.items() if value != {}}


def changed_region(old, new):
    """The part of each that is not a common beginning or end."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return old[start : len(old) - end], new[start : len(new) - end]


def has_one_line_ending(old, new):
    return new.count(b"\n") == new.count(b"\r\n") if b"\r\n" in old else b"\r" not in new


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CORPUS)
@settings(deadline=None, max_examples=40)
@given(changes=st.lists(settings_of_keys, min_size=1, max_size=4))
def test_setting_a_key_changes_its_line_or_adds_lines_and_nothing_else(name, form, changes):
    data = FORMS[form](CORPUS[name])
    editor = Editor(data, HERE)
    for key, value in changes:
        before, expected = editor.data, content_of(editor.data)
        present = Manifest.parse(before, HERE).line(key) is not None
        editor.set(key, value)
        put(expected, key, value)
        assert without_empty(content_of(editor.data)) == without_empty(expected)
        removed, added = changed_region(before, editor.data)
        if present:
            assert b"\n" not in removed + added
        else:
            assert removed == b""  # only added
        assert has_one_line_ending(data, editor.data)
        again = editor.data
        editor.set(key, value)
        assert editor.data == again


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CORPUS)
def test_unsetting_any_key_removes_its_line_and_nothing_else(name, form):
    data = FORMS[form](CORPUS[name])
    for key in Manifest.parse(data, HERE).values:
        editor = Editor(data, HERE)
        assert editor.unset(key)
        assert Manifest.parse(data, HERE).line(key) is not None
        removed, added = changed_region(data, editor.data)
        assert added == b""
        assert removed.count(b"\n") <= 1 or b"[\n" in removed or b"[\r\n" in removed
        assert removed
        content = content_of(editor.data)
        for part in parts(key)[:-1]:
            content = content.get(part, {})
        assert parts(key)[-1] not in content
        assert not editor.unset(key)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CORPUS)
@settings(deadline=None, max_examples=40)
@given(change=settings_of_keys)
def test_setting_a_new_key_and_removing_it_leaves_the_lines_as_they_were(name, form, change):
    key, value = change
    data = FORMS[form](CORPUS[name])
    if Manifest.parse(data, HERE).line(key) is not None:
        return
    editor = Editor(data, HERE)
    editor.set(key, value)
    editor.unset(key)
    old, new = (re.sub(rb"\s", b"", each) for each in (data, editor.data))
    assert re.fullmatch(re.escape(old) + rb"(\[[^]]+\])?", new)  # at most the header of a table that is now empty
    assert without_empty(content_of(editor.data)) == without_empty(content_of(data))


names = st.sampled_from(["a", "b", "c", '"d e"', "f.g"])
spaces = st.sampled_from(["", " ", "  ", "\t"])
comments = st.sampled_from(["", " # note", "\t# [x] = 'y'", " #"])
literals = st.sampled_from(
    [
        "1",
        "true",
        "'x'",
        '"""\nmany\n#lines"""',
        "[ 1, 2 ] ",
        "[\n  1, # one\n  2,\n]",
        "{ z = 1 }",
        "{}",
        "1e3",
        "1979-05-27",
    ]
)


@st.composite
def documents(draw):
    lines = []
    tables = draw(st.lists(st.sampled_from(["chat", "tools", "tools.x", "chat.y.z", "source", "other"]), unique=True))
    for table in tables:
        lines.append(draw(st.sampled_from(["", "\n", "# about\n", " # far\n\n"])))
        lines.append(f"{draw(spaces)}[{draw(spaces)}{table}{draw(spaces)}]{draw(comments)}\n")
        for name in draw(st.lists(names, unique=True)):
            lines.append(f"{draw(spaces)}{name}{draw(spaces)}={draw(spaces)}{draw(literals)}{draw(comments)}\n")
            lines.append(draw(st.sampled_from(["", "", "\n", "  # between\n"])))
    return "".join(lines)


def removed_by(editor, key):
    before = editor.data
    assert editor.unset(key)
    removed, added = changed_region(before, editor.data)
    assert added == b""
    return removed


@settings(deadline=None, max_examples=300)
@given(documents(), st.sampled_from(["chat", "tools", "tools.x", "chat.y.z", "source"]), names, st.booleans())
def test_edits_of_any_document_are_exact_or_refused(text, table, name, windows):
    data = text.replace("\n", "\r\n").encode() if windows else text.encode()
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    key = f"{table}.{name}"
    for part in parts(key):
        content = content.get(part) if isinstance(content, dict) else None
    editor = Editor(data, HERE)
    try:
        editor.set(key, 5)
    except EditRefused:
        assert editor.data == data
        assert content is None or isinstance(content, dict)
        return
    removed, added = changed_region(data, editor.data)
    expected = tomllib.loads(text)
    put(expected, key, 5)
    assert has_one_line_ending(data, editor.data)
    assert without_empty(content_of(editor.data)) == without_empty(expected)
    if content is None:
        assert removed == b""
    else:
        assert len(added) <= 1
    after = editor.data
    removed = removed_by(editor, key)
    assert len(after) - len(removed) == len(editor.data)


def test_a_checkout_replaces_the_four_words_and_keeps_everything_else():
    data = CORPUS["full.toml"]
    editor = Editor(data, HERE)
    editor.set_model(SPEC)
    old, new = data.decode().split("\n"), editor.data.decode().split("\n")
    assert [index for index, line in enumerate(old) if new[index] != line] == [2, 3, 4, 5]
    assert new[2] == 'repository   = "https://h/a"'
    assert Manifest.parse(editor.data, HERE).model == SPEC


@pytest.mark.parametrize("name", CORPUS)
def test_a_checkout_works_in_any_manifest(name):
    editor = Editor(CORPUS[name], HERE)
    editor.set_model(SPEC)
    assert Manifest.parse(editor.data, HERE).model == SPEC


def test_a_new_table_is_written_values_first():
    editor = Editor(b"[chat]\r\n", HERE)
    editor.set_table("source", {"files": {"a.b": {"size": 1}}, "commit": "abc", "revisions": ["x", "y"]})
    assert editor.data.decode().replace("\r\n", "|") == (
        '[chat]||[source]|commit = "abc"|revisions = ["x", "y"]||[source.files."a.b"]|size = 1|'
    )


def test_a_table_is_replaced_in_place():
    editor = Editor(CORPUS["full.toml"], HERE)
    editor.set_table("source", {"commit": "abc", "files": {"model.safetensors": {"size": 1}, "x": {"size": 2}}})
    assert content_of(editor.data)["source"] == {
        "commit": "abc",
        "files": {"model.safetensors": {"size": 1}, "x": {"size": 2}},
    }
    start = CORPUS["full.toml"].index(b"commit")
    assert editor.data[:start] == CORPUS["full.toml"][:start]
    editor.set_table("source", {})
    assert without_empty(content_of(editor.data)).get("source") is None


scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | words
contents = st.recursive(
    st.dictionaries(words, scalars | st.lists(scalars, max_size=3), max_size=3),
    lambda inner: st.dictionaries(words, inner | scalars, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(contents, contents)
@example({"a": []}, {"a": ""})
def test_any_table_that_is_set_reads_back(first, second):
    editor = Editor(b"# c\n", HERE)
    editor.set_table("source", first)
    assert without_empty(content_of(editor.data)) == without_empty({"source": first})
    before = editor.data
    try:
        editor.set_table("source", second)
    except EditRefused:
        assert editor.data == before
    else:
        assert without_empty(content_of(editor.data)) == without_empty({"source": second})


@pytest.mark.parametrize("mapping", [{"a": None}, {"a": math.nan}, {"a": [object()]}, {"a": {"b": 2**70}}])
def test_a_table_holds_only_values(mapping):
    with pytest.raises(InvalidSetting):
        Editor(b"", HERE).set_table("source", mapping)
    with pytest.raises(InvalidSetting):
        Editor(b"", HERE).set_table("model", {"variant": "x"})


def test_what_is_saved_reads_back_or_is_not_saved(tmp_path):
    path = tmp_path / "metalchat.toml"
    with pytest.raises(SecretInManifest), edit(path) as editor:
        editor.set("chat.note", "https://user:word@h/")
    with pytest.raises(InvalidManifest), edit(path) as editor:
        editor.set("model.variant", "gguf")
    assert list(tmp_path.iterdir()) == []
    path.write_text("[prompt]\nsytem = 'a'\n")
    with pytest.raises(MisspeltKey), edit(path) as editor:
        editor.set("chat.a", 1)
    with edit(path) as editor:
        assert editor.unset("prompt.sytem")
    assert path.read_text() == "[prompt]\n"


def test_an_exception_in_the_block_saves_nothing(tmp_path):
    path = tmp_path / "metalchat.toml"
    with pytest.raises(ZeroDivisionError), edit(path) as editor:
        editor.set("chat.a", 1 // 0)
    assert list(tmp_path.iterdir()) == []


def test_an_edit_without_a_change_does_not_touch_the_file(tmp_path):
    path = tmp_path / "metalchat.toml"
    with edit(path):
        pass
    assert not path.exists()
    path.write_text("[chat]\na = 1\n")
    before = path.stat()
    with edit(path) as editor:
        editor.set("chat.a", 1)
        assert not editor.unset("chat.b")
        assert editor.tables == {"chat": {"a": 1}}
    assert path.stat().st_ino == before.st_ino


def test_without_create_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ManifestNotFound), edit(tmp_path / "metalchat.toml", create=False):
        raise AssertionError
    with pytest.raises(InvalidManifest):
        Editor(b"a = ", HERE)


@pytest.mark.parametrize("key", KEYS)
def test_every_known_key_can_be_set_at_both_ends_of_its_range(key):
    known = KEYS[key]
    values = known.choices or (("https://h/a",) if known.kind is str else (known.low, known.high))
    for value in values:
        editor = Editor(b"", HERE)
        editor.set(key, value)
        assert content_of(editor.data)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "[model]\nvariant = 'x'\n", "# a note\n\n[options]\nrope_theta = 1.0\n\n"])
def test_a_table_that_came_and_went_leaves_no_byte_behind(before: str, ending: str) -> None:
    data = before.replace("\n", ending).encode()
    editor = Editor(data, HERE)
    editor.set("engine.lookup", 8)
    editor.set_table("calibration", {"gain": 1.5, "runs": 3})
    assert editor.tables["calibration"] == {"gain": 1.5, "runs": 3}
    assert not editor.drop_empty("calibration")
    editor.set_table("calibration", {})
    editor.unset("engine.lookup")
    assert editor.drop_empty("calibration")
    assert editor.drop_empty("engine")
    assert not editor.drop_empty("engine")
    # Where a file ends with an empty line, that was the one before the table.
    assert editor.data == (data.removesuffix(ending.encode()) if before.endswith("\n\n") else data)


def test_only_an_empty_table_loses_its_header() -> None:
    text = b"[engine]\n# mine\nname = 'mlx'\n\n[chat] # empty\n[tools]\nx = 1\n"
    editor = Editor(text, HERE)
    assert not editor.drop_empty("engine")
    assert not editor.drop_empty("source")
    assert editor.drop_empty("chat")
    assert editor.data == b"[engine]\n# mine\nname = 'mlx'\n[tools]\nx = 1\n"
