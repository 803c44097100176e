"""`--schema FILE`: the JSON Schema that an answer has to satisfy."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalchat_cli import errors

if TYPE_CHECKING:
    from metalchat_engine import JsonSchema

MAX_SCHEMA_BYTES = 1024 * 1024


def read(file: str) -> "JsonSchema":
    """The schema in a file.

    Raises:
        Usage: the file cannot be read, or does not hold a JSON object.
    """
    from metalchat_engine import JsonSchema

    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_SCHEMA_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.Usage(f"cannot read the schema '{file}': {reason.lower()}") from error
    if len(data) > MAX_SCHEMA_BYTES:
        raise errors.Usage(f"the schema '{file}' is larger than 1 MiB")
    try:
        schema: Any = json.loads(data.decode("utf-8-sig"), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise errors.Usage(f"the schema '{file}' is not JSON: {reason}") from error
    if not isinstance(schema, dict):
        raise errors.Usage(f"the schema '{file}' is not a JSON object")
    return JsonSchema(schema=schema)


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
