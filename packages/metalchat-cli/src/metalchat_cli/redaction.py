"""What a message must not show: the tokens that this command has used, whatever they look like."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metalchat_credentials import Credentials

_used: "list[Credentials]" = []


def remember(credentials: "Credentials") -> None:
    """From now on `redacted` takes out the tokens that `credentials` hands out."""
    _used.append(credentials)


def forget() -> None:
    """Let go of all tokens, at the end of a command."""
    _used.clear()


def redacted(text: str) -> str:
    """`text` without those tokens: a server may send back in an error what it was sent."""
    for credentials in _used:
        text = credentials.redact(text)
    return text
