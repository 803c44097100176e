"""The search for access tokens and logins in a manifest, which is a file that people publish."""

import re
from collections.abc import Iterable
from typing import Any

from metalchat_manifest._keys import MAX_DEPTH, Path

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_LOGIN = re.compile(r"://([^/?#\s@]*)@")
_NAMES = frozenset(
    {
        "token",
        "access_token",
        "api_token",
        "auth_token",
        "bearer_token",
        "hf_token",
        "huggingface_token",
        "api_key",
        "apikey",
        "client_secret",
        "password",
        "passwd",
        "secret",
    }
)


class TooDeep(Exception):
    """The document nests tables and arrays deeper than MAX_DEPTH."""


def token_offset(text: str) -> int | None:
    """Where a Hugging Face token stands anywhere in `text`, comments included."""
    if "hf_" not in text:
        return None
    match = _TOKEN.search(text)
    return match.start() if match else None


def secret_path(content: Any, path: Path = ()) -> Path | None:
    """The first value, in the order of the document, that is a token, a URL with a login, or named as a secret.

    Raises TooDeep.
    """
    if isinstance(content, str):
        return path if _is_secret(path, content) else None
    if isinstance(content, dict):
        items: Iterable[tuple[str | int, Any]] = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    else:
        return None
    if len(path) > MAX_DEPTH:
        raise TooDeep
    for name, value in items:
        found = secret_path(value, (*path, name))
        if found is not None:
            return found
    return None


def _is_secret(path: Path, text: str) -> bool:
    if "hf_" in text and _TOKEN.search(text):
        return True
    for login in _LOGIN.finditer(text):
        # `ssh://git@host` names a user; a password, or anything before the host of a web address, is a secret.
        if ":" in login[1] or text[max(0, login.start() - 5) : login.start()].lower().endswith(("http", "https")):
            return True
    name = path[-1]
    return bool(text) and isinstance(name, str) and name.lower().replace("-", "_") in _NAMES
