"""Tokens in the file .env of the working directory, read and never written."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from metalchat_credentials._origins import is_hub
from metalchat_credentials.backend import BackendContext, Purpose, SecretBackend, SecretKey
from metalchat_credentials.errors import InvalidSecret, TokenFileRefused
from metalchat_credentials.secret import Secret

VARIABLES = {Purpose.READ: "HUGGINGFACE_READ_API", Purpose.WRITE: "HUGGINGFACE_WRITE_API"}
_LARGEST = 1 << 20
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_VALUE = re.compile(r"""(?:"([^"\\]*)"|'([^']*)'|([^\s"'#]\S*)?)\s*(?:(?<!\S)#.*)?""")


class DotenvBackend:
    """HUGGINGFACE_READ_API for reading and HUGGINGFACE_WRITE_API for writing.

    They belong to https://huggingface.co and $HF_ENDPOINT only. A key with a `variable` is answered from that name
    alone, whatever its address. A line is `NAME=value`, with or without `export` before it and quotes around the
    value; nothing in it is expanded. Lines that set other names are not looked at.
    """

    name = "dotenv"

    def __init__(self, directory: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._environ = os.environ if environ is None else environ

    def bind(self, context: BackendContext) -> SecretBackend:
        """The same for that directory and environment."""
        return DotenvBackend(context.directory, context.environ)

    def get(self, key: SecretKey) -> Secret | None:
        """Raises InvalidSecret, which names file and line, and TokenFileRefused for a file that cannot be read."""
        if key.variable is None and not is_hub(key.url, self._environ):
            return None
        path = (Path.cwd() if self._directory is None else self._directory) / ".env"
        return _value(path, VARIABLES[key.purpose] if key.variable is None else key.variable)


def _value(path: Path, variable: str) -> Secret | None:
    secret = None
    for number, line in enumerate(re.split(r"\r\n|\n|\r", _read(path)), start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[1] != variable:
            continue
        value = _VALUE.fullmatch(match[2])
        text = "" if value is None else next((group for group in value.groups() if group), "")
        if value is not None and not text:
            secret = None
            continue
        try:
            secret = Secret.parse(text)
        except InvalidSecret as error:
            raise InvalidSecret(f"{path} line {number}: {variable} cannot be used: {error}") from None
    return secret


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise TokenFileRefused(f"{path} could not be read ({error.strerror}) and was not used") from error
    if len(data) > _LARGEST:
        raise TokenFileRefused(f"{path} is larger than {_LARGEST >> 20} MiB and was not used")
    return data.decode("utf-8-sig", errors="replace")
