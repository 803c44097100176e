"""The settings that environment variables make."""

from collections.abc import Mapping

from metalchat_manifest.errors import InvalidSetting
from metalchat_manifest.schema import KEYS, misspelling, parse_value
from metalchat_manifest.values import Value

PREFIX = "METALCHAT_"

_OPEN = ("options", "engine", "chat", "tools")


def variable(key: str) -> str:
    """The variable of a dotted key: `METALCHAT_INFERENCE_SAMPLING_TEMPERATURE`."""
    return PREFIX + key.replace(".", "_").upper()


def read_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    """The values, by dotted key.

    Every key of KEYS but those of `[model]` has a variable, and so has every known option:
    `METALCHAT_OPTIONS_ROPE_THETA`. `METALCHAT_ENGINE_X`, `METALCHAT_CHAT_X` and `METALCHAT_TOOLS_X` set `x` of
    the open tables. An empty variable counts as not set. Raises InvalidSetting, which names the variable, for a
    value that the key does not take and for a name that nearly is one of these; UnknownOption for an option.
    Other variables are not looked at.
    """
    known = {variable(key): key for key in KEYS if not key.startswith("model.")}
    found: dict[str, Value] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or not text:
            continue
        key = known.get(name) or _other_key(name)
        if key is None:
            continue
        try:
            found[key] = parse_value(key, text)
        except InvalidSetting as error:
            raise type(error)(f"the environment variable {name} is not valid: {error}", key=key) from error
    return found


def _other_key(name: str) -> str | None:
    words = name.removeprefix(PREFIX).lower()
    for table in ("inference.sampling", "inference", "prompt"):
        start = f"{table.replace('.', '_')}_"
        if words.startswith(start):
            key = f"{table}.{words.removeprefix(start)}"
            return key if misspelling(key) else None
    table, _, rest = words.partition("_")
    return f"{table}.{rest}" if table in _OPEN and rest else None
