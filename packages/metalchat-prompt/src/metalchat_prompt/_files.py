"""Reading of the small files that come with a model, none of which is trusted."""

import json
from pathlib import Path
from typing import Any, NoReturn

from metalchat_prompt.errors import InvalidTokenizer, visible

CONFIG_LIMIT = 16 * 2**20
TEMPLATE_LIMIT = 1 * 2**20


def read_limited(path: Path, limit: int) -> bytes | None:
    """The bytes of `path`, None if there is no such file. Raises InvalidTokenizer past `limit` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidTokenizer(f"'{path.name}' could not be read: {visible(error.strerror or str(error))}") from error
    if len(data) > limit:
        raise InvalidTokenizer(f"'{path.name}' could not be used: it is larger than {limit // 2**20} MiB")
    return data


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; `what` names the file. Raises InvalidTokenizer for anything else.

    NaN and Infinity are no JSON; text with a lone surrogate cannot be encoded, so both are refused.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidTokenizer(f"'{what}' could not be used: it is not valid JSON ({_reason(error)})") from error
    if not isinstance(value, dict):
        raise InvalidTokenizer(f"'{what}' could not be used: it holds no JSON object")
    return value


def read_object(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object in the file, an empty one if there is no such file."""
    data = read_limited(path, limit)
    return {} if data is None else parse_object(data, path.name)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return visible(str(error)) or type(error).__name__
