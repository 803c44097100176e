"""The token file that other tools of the Hugging Face hub leave, read and never written."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from metalchat_credentials._origins import is_hub
from metalchat_credentials.backend import BackendContext, SecretBackend, SecretKey
from metalchat_credentials.errors import InvalidSecret, TokenFileRefused
from metalchat_credentials.secret import Secret

_LARGEST = 65_536


class HuggingFaceBackend:
    """The file $HF_TOKEN_PATH, $HF_HOME/token or ~/.cache/huggingface/token, for both purposes.

    It belongs to https://huggingface.co and $HF_ENDPOINT only, and is refused where others may read or write it.
    """

    name = "huggingface"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def bind(self, context: BackendContext) -> SecretBackend:
        """The same for that environment."""
        return HuggingFaceBackend(context.environ)

    def get(self, key: SecretKey) -> Secret | None:
        """Raises TokenFileRefused, which names the file and its mode, and InvalidSecret, which names the file."""
        if not is_hub(key.url, self._environ):
            return None
        path = self._path()
        text = _read(path)
        if not text.strip():
            return None
        try:
            return Secret.parse(text)
        except InvalidSecret as error:
            raise InvalidSecret(f"the token file {path} cannot be used: {error}") from None

    def _path(self) -> Path:
        home = Path(self._environ.get("HOME") or Path.home())
        if self._environ.get("HF_TOKEN_PATH"):
            return _expanded(self._environ["HF_TOKEN_PATH"], home)
        if self._environ.get("HF_HOME"):
            return _expanded(self._environ["HF_HOME"], home) / "token"
        return _expanded(self._environ.get("XDG_CACHE_HOME") or "~/.cache", home) / "huggingface" / "token"


def _expanded(text: str, home: Path) -> Path:
    return home / text[2:] if text.startswith("~/") else Path(text)


def _read(path: Path) -> str:
    try:
        # Without O_NONBLOCK a named pipe put in the file's place would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise TokenFileRefused(f"the token file {path} could not be read ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise TokenFileRefused(f"the token file {path} is not a regular file and was not used")
        if mode & 0o066:
            raise TokenFileRefused(
                f"the token file {path} is open to other users (mode {mode:04o}) and was not used. "
                f"Run: chmod 600 {path}"
            )
        return os.read(descriptor, _LARGEST).decode("utf-8", errors="replace")
    finally:
        os.close(descriptor)
