"""Stop strings in a text that arrives piece by piece."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metalchat_engine import StopStrings


def run(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, str | None]:
    scanner = StopStrings(stop)
    text = "".join(scanner.push(piece) for piece in pieces) + scanner.flush()
    return text, scanner.found


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["Hello", " wor", "ld"], ("o w",), ("Hell", "o w")),
        (["aa", "ab"], ("aab",), ("a", "aab")),
        (["a", "b", "a", "b", "a", "c"], ("abac",), ("ab", "abac")),
        (["User", ":"], ("User:", "\n"), ("", "User:")),
        (["xabcd"], ("xabcd", "bc"), ("xa", "bc")),
        (["abc"], ("c", "bc"), ("a", "bc")),
        (["ab", "a"], ("abc",), ("aba", None)),
        (["one"], (), ("one", None)),
    ],
)
def test_the_first_stop_string_ends_the_text(
    pieces: list[str], stop: tuple[str, ...], expected: tuple[str, str | None]
) -> None:
    assert run(pieces, stop) == expected


@settings(deadline=None)
@given(
    pieces=st.lists(st.text(alphabet="abc", max_size=4), max_size=8),
    stop=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4).map(tuple),
)
def test_the_answer_does_not_depend_on_where_the_pieces_are_cut(pieces: list[str], stop: tuple[str, ...]) -> None:
    whole = "".join(pieces)
    text, found = run(pieces, stop)
    assert (text, found) == run(list(whole), stop) == run([whole], stop)
    assert not any(end in text for end in stop)
    assert whole.startswith(text if found is None else text + found)
    assert found is not None or text == whole


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab", max_size=3), max_size=8))
def test_only_what_may_begin_a_stop_string_is_held_back(pieces: list[str]) -> None:
    scanner = StopStrings(("abbb",))
    let, given_ = "", ""
    for piece in pieces:
        given_ += piece
        let += scanner.push(piece)
        if scanner.found is not None:
            return
        assert "abbb".startswith(given_[len(let) :])


def test_nothing_follows_a_stop_string() -> None:
    scanner = StopStrings(("b",))
    assert [scanner.push("abc"), scanner.push("d"), scanner.flush()] == ["a", "", ""]
