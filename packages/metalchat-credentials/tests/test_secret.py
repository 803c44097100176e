import copy
import dataclasses
import io
import json
import logging
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalchat_credentials import InvalidSecret, Secret, redact
from metalchat_credentials.secret import one_line

TOKEN = "hf_CANARYcanaryCANARYcanary12345"
REFUSED = "this is not an access token: it contains a line break or another character that is not allowed"


@pytest.mark.parametrize("text", [TOKEN, f"{TOKEN}\n", f"{TOKEN}\r\n", f"{TOKEN}\r", f" \t{TOKEN} ", "!", "~" * 1024])
def test_c3_white_space_around_a_token_is_dropped(text: str) -> None:
    assert Secret.parse(text).reveal() == text.strip(" \t\r\n")


@pytest.mark.parametrize(
    "text",
    [
        f"{TOKEN}\nhost=evil",
        f"{TOKEN}\rhost=evil",
        f"{TOKEN}\0",
        f"{TOKEN[:5]} {TOKEN[5:]}",
        f"{TOKEN}Ö",
        f"\x1b[31m{TOKEN}",
        f"{TOKEN}\x7f",
        f"{TOKEN}\x85",
        f"{TOKEN}\u2028",
        f"{TOKEN}\x1c",
        "a" * 2_000_000,
        "a" * 1025,
        "",
        " \n",
    ],
    ids=range(14),
)
def test_c3_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidSecret) as caught:
        Secret.parse(text)
    assert str(caught.value) == REFUSED
    assert caught.value.exit_code == 2
    lines = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [frame for frame in lines.stack if frame.filename.endswith("/secret.py")]
    assert frames
    assert all(TOKEN[:5] not in str(frame.locals) for frame in frames)


def test_a_secret_is_not_shown_by_any_way_of_printing_it() -> None:
    secret = Secret(TOKEN)

    @dataclasses.dataclass
    class Holder:
        secret: Secret

    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.Logger("secrets")
    logger.addHandler(handler)
    logger.error("%s %r %s", secret, secret, [secret])
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>40}",
        "%s" % secret,  # noqa: UP031 - this way of formatting, too
        str([secret]),
        str({secret: secret}),
        str(Holder(secret)),
        str(dataclasses.asdict(Holder(secret))),
        json.dumps([secret], default=str),
        log.getvalue(),
        str(dir(secret)),
        ascii(secret),
    ]
    assert all(TOKEN not in text for text in shown)
    assert str(secret) == "Secret(…)"


def test_a_secret_cannot_be_serialised() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(Secret(TOKEN), protocol)
    with pytest.raises(TypeError):
        Secret(TOKEN).__getstate__()
    with pytest.raises(TypeError):
        json.dumps(Secret(TOKEN))
    with pytest.raises(TypeError):
        vars(Secret(TOKEN))


def test_a_copy_of_a_secret_is_the_secret() -> None:
    secret = Secret(TOKEN)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_a_secret_does_not_change() -> None:
    secret = Secret(TOKEN)
    with pytest.raises(AttributeError):
        secret._Secret__text = "other"
    with pytest.raises(AttributeError):
        del secret._Secret__text
    assert secret.reveal() == TOKEN


def test_secrets_are_equal_when_their_texts_are() -> None:
    assert Secret(TOKEN) == Secret.parse(TOKEN + "\n")
    assert Secret(TOKEN) != Secret(TOKEN + "x")
    assert Secret(TOKEN) != TOKEN
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Illegal header value b'Bearer hf_abcdefghijklmnopqrstuvwxyz'", "Illegal header value b'Bearer hf_…'"),
        ("hf_abcdefghijklmnopqrst", "hf_…"),
        ("hf_abcdefghijklmnopqrs", "hf_abcdefghijklmnopqrs"),
        ("the model hf_x", "the model hf_x"),
        ("xhf_abcdefghijklmnopqrstuvwxyz0123456789.", "xhf_…."),
    ],
)
def test_c4_what_looks_like_a_token_is_taken_out_of_text(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=4, max_size=50), st.text(), st.text())
def test_c4_a_known_token_is_taken_out_of_any_text(token: str, before: str, after: str) -> None:
    for spelling in (token, repr(token), json.dumps(token), repr(f"Bearer {token}".encode())):
        redacted = redact(before + spelling + after, [Secret(token)])
        assert token not in redacted.replace("hf_…", "")


def test_c4_a_token_that_begins_with_another_is_taken_out_whole() -> None:
    assert redact("abcdef abc", [Secret("abc"), Secret("abcdef")]) == "hf_… hf_…"


def test_text_of_another_program_becomes_one_printable_line() -> None:
    assert one_line("a\nb\r\n\tc\x1b[31m\u202e") == "a b c\\x1b[31m\\u202e"
