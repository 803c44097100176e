"""The header of a GGUF file elsewhere, as much of it as is needed."""

from collections.abc import Callable

from metalchat_store._peek import Peek
from metalchat_store.errors import NotAModel
from metalchat_store.gguf import Header, read_header
from metalchat_store.remote import RemoteFile

_STEP = 64 << 10
_MOST = 24 << 20  # the header of a large vocabulary has about 8 MB


def look(peek: Peek, file: RemoteFile, enough: Callable[[Header], bool] = lambda _: False) -> Header:
    """The header, read until it is `enough` or complete, at most 24 MiB of it. Raises `NotAModel`."""
    data = b""
    while True:
        more = peek.part(file, len(data), len(data) + max(_STEP, len(data) // 2))
        data += more
        header = read_header(data, file.path)
        if header.complete or enough(header) or len(data) >= _MOST:
            return header
        if not more or len(data) == file.size:
            raise NotAModel(f"'{file.path}' is not a GGUF model: it ends within its header")
