"""The filter between foreign text and a message of one line."""

import re

_MAX_CHARACTERS = 400
_MAX_ECHO = 20
# C0, DEL, C1; soft hyphen; zero-width, bidi and line separators; surrogates; BOM; interlinear; tag characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def one_line(text: str, limit: int = _MAX_CHARACTERS) -> str:
    """`text` with every control, bidi and invisible character as a visible escape, cut at `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return _UNPRINTABLE.sub(_escape, cut)


def is_printable(text: str) -> bool:
    """No control, bidi, invisible or surrogate character is in `text`."""
    return _UNPRINTABLE.search(text) is None


def quoted(text: str) -> str:
    """`text` in quotes where it is short, else its length: what is long may be a secret in the wrong place."""
    return f"'{one_line(text)}'" if len(text) <= _MAX_ECHO else f"a text of {len(text)} characters"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
