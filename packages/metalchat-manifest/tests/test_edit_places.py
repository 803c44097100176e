"""Where an edit puts a key, what it takes away with one, and what it refuses."""

import math
from pathlib import Path

import pytest
from metalchat_manifest import Editor, EditRefused, InvalidSetting

HERE = Path("metalchat.toml")


@pytest.mark.parametrize(
    ("text", "key", "value", "expected"),
    [
        ("", "chat.a", 1, "[chat]\na = 1\n"),
        ("# c", "chat.a", 1, "# c\n\n[chat]\na = 1\n"),
        ("# c\n\n", "chat.a", 1, "# c\n\n[chat]\na = 1\n"),
        ("[chat]", "chat.a", 1, "[chat]\na = 1"),
        ("[chat]\nb = 2 # x", "chat.a", 1, "[chat]\nb = 2 # x\na = 1"),
        ("[chat]\nb = 2\n\n# about tools\n[tools]\n", "chat.a", 1, "[chat]\nb = 2\na = 1\n\n# about tools\n[tools]\n"),
        ("[chat]\n\tb = 2\n", "chat.a", 1, "[chat]\n\tb = 2\n\ta = 1\n"),
        ("[chat]\r\nb = 2\r\n", "chat.a", 1, "[chat]\r\nb = 2\r\na = 1\r\n"),
        ("[chat]\na   =  2   # why\n", "chat.a", 1, "[chat]\na   =  1   # why\n"),
        ("[chat]\na = [\n 1,\n]# why\n", "chat.a", 1, "[chat]\na = 1# why\n"),
        ('[chat]\n"a" = 2\n', "chat.a", 1, '[chat]\n"a" = 1\n'),
        ("chat = {}", "chat.a", 1, "chat = { a = 1 }"),
        ("chat = { b = 2 } # x\n", "chat.a", 1, "chat = { b = 2, a = 1 } # x\n"),
        ("chat = {b=2}\n", "chat.c.d", 1, "chat = {b=2, c.d = 1}\n"),
        ("chat.b = 2\n[tools]\n", "chat.a", 1, "chat.b = 2\nchat.a = 1\n[tools]\n"),
        ("[chat]\nx.b = 2\ny = 1\n", "chat.x.a", 1, "[chat]\nx.b = 2\nx.a = 1\ny = 1\n"),
        ("[chat.x]\nb = 2\n", "chat.a", 1, "[chat.x]\nb = 2\n\n[chat]\na = 1\n"),
        ("[chat]\n[chat.x]\n", "chat.a", 1, "[chat]\na = 1\n[chat.x]\n"),
        ("", 'chat."a b"', 'é\n"\\\x7f', '[chat]\n"a b" = "é\\n\\"\\\\\\u007f"\n'),
        ("", "chat.a", 1e16, "[chat]\na = 1e+16\n"),
        ("", "chat.a", True, "[chat]\na = true\n"),
    ],
)
def test_where_a_key_goes(text, key, value, expected):
    editor = Editor(text.encode(), HERE)
    editor.set(key, value)
    assert editor.data.decode() == expected


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("[chat]\na = 1 # x\nb = 2\n", "chat.a", "[chat]\nb = 2\n"),
        ("[chat]\n# about a\na = 1", "chat.a", "[chat]\n# about a\n"),
        ("chat = { a = 1 }\n", "chat.a", "chat = {  }\n"),
        ("chat = { a = 1, b = 2 }\n", "chat.a", "chat = { b = 2 }\n"),
        ("chat = { b = 2 , a = 1 }\n", "chat.a", "chat = { b = 2 }\n"),
        ("chat.a = 1\nchat.b = 2\n", "chat.a", "chat.b = 2\n"),
        ("a = 1\nb = 2\n", "a", "b = 2\n"),
    ],
)
def test_what_goes_with_a_key(text, key, expected):
    editor = Editor(text.encode(), HERE)
    assert editor.unset(key)
    assert editor.data.decode() == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[[tools.x]]\na = 1\n", "tools.x.a"),
        ("[chat]\na = 1\n", "chat.a.b"),
        ("[chat]\na = [1]\n", "chat.a.b"),
        ("chat = 1\n", "chat.a"),
        ("[chat.a]\nb = 1\n", "chat.a"),
    ],
)
def test_an_edit_that_would_rewrite_more_is_refused(text, key):
    editor = Editor(text.encode(), HERE)
    with pytest.raises(EditRefused, match="Change it by hand") as caught:
        editor.set(key, 1)
    assert caught.value.key == key
    assert editor.data == text.encode()


def test_a_whole_table_is_not_unset():
    with pytest.raises(EditRefused):
        Editor(b"[chat]\na = 1\n", HERE).unset("chat")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inference.sampling.temperature", -1.0),
        ("inference.sampling.temperature", math.nan),
        ("inference.sampling.temperature", "hot"),
        ("inference.sampling.k", 1.5),
        ("inference.sampling.k", True),
        ("inference.sampling.temprature", 1.0),
        ("inference.max_sequence_length", 10**400),
        ("options.rms_norm_eps", "x"),
        ("options.anything", math.inf),
        ("options.anything", [1]),
        ("chat.a", 2**63),
        ("prompt.other", "x"),
        ("profile.a", 1),
        ("chat", 1),
        ("a b", 1),
        ("chat.", 1),
        ("", 1),
    ],
)
def test_a_setting_that_would_not_read_back_is_refused_at_once(key, value):
    editor = Editor(b"# c\n", HERE)
    with pytest.raises(InvalidSetting):
        editor.set(key, value)
    assert editor.data == b"# c\n"


def test_half_of_a_surrogate_pair_is_refused():
    with pytest.raises(EditRefused):
        Editor(b"", HERE).set("chat.a", "\ud800")
