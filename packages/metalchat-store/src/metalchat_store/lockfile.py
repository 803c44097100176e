"""`metalchat.lock`: the exact content of a model, by commit, size and SHA-256, to be committed beside a manifest."""

import errno
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalchat_store._files import disk_errors, private_name, read_file, write_file
from metalchat_store.digest import Digest
from metalchat_store.entries import quote
from metalchat_store.errors import InvalidLock, StoreError
from metalchat_store.names import check_names
from metalchat_store.remote import check_commit

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec

LOCK = "metalchat.lock"
_LIMIT = 16 << 20
_WORDS = ("repository", "architecture", "partitioning", "variant")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedFile:
    """One file of a locked model."""

    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What one `metalchat.lock` says.

    `template` and `tokenizer` are the SHA-256 of the chat template's text and of the tokenizer, None where the model
    has none: a reviewer sees in two lines whether a change of the lock touches them.
    """

    spec: "ModelSpec"
    commit: str
    files: tuple[LockedFile, ...]
    template: str | None = None
    tokenizer: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @classmethod
    def read(cls, path: Path) -> "Lock | None":
        """The lock at `path`, None if there is none. Raises `InvalidLock`."""
        try:
            data = read_file(path, _LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else (error.strerror or "unknown reason").lower()
            raise InvalidLock(f"'{path}' cannot be read: {reason}") from error
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "Lock":
        """The lock of these bytes; `path` is what messages name. Raises `InvalidLock`."""
        from metalchat_manifest import ManifestError

        try:
            tables = tomllib.loads(data.decode())
            if tables.get("version") != 1:
                raise _Unusable("its version is not 1, the one that is known here")
            return _lock(tables)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            reason, cause = "it is not valid TOML", error
        except (KeyError, TypeError, AttributeError) as error:
            reason, cause = "a key is missing or has a value of the wrong type", error
        except (_Unusable, StoreError, ManifestError) as error:
            reason, cause = str(error), error
        raise InvalidLock(f"'{path}' cannot be used: {reason}. Write it anew with 'metalchat lock'") from cause

    def write(self, path: Path) -> bool:
        """Make `path` this lock, all or nothing; False, and nothing is written, if it says so already."""
        data = self.text().encode()
        with disk_errors(path.parent):
            try:
                if read_file(path, _LIMIT) == data:
                    return False
            except OSError:
                pass  # missing, a link, or larger than any lock: replaced below
            write_file(path, data, temporary=path.parent / private_name(f".{LOCK}", "tmp"), mode=0o644)
        return True

    def text(self) -> str:
        """The lock as TOML, the same for the same content."""
        lines = [
            "# Written by 'metalchat lock': the exact content of the model. Commit it beside metalchat.toml.",
            "version = 1",
            "",
            "[model]",
            *(f"{word} = {quote(getattr(self.spec, word))}" for word in _WORDS),
            "",
            "[source]",
            f"id = {quote(self.spec.id)}",
            f"commit = {quote(self.commit)}",
            f"bytes = {self.size}",
        ]
        lines += [f"template_sha256 = {quote(self.template)}"] if self.template is not None else []
        lines += [f"tokenizer_sha256 = {quote(self.tokenizer)}"] if self.tokenizer is not None else []
        for file in sorted(self.files, key=lambda file: file.path):
            lines += ["", "[[files]]", f"path = {quote(file.path)}", f"size = {file.size}"]
            lines += [f"sha256 = {quote(file.digest.hex)}"]
        return "\n".join(lines) + "\n"


class _Unusable(Exception):
    pass


def _lock(tables: Mapping[str, Any]) -> Lock:
    from metalchat_manifest import ModelSpec

    model, source = tables["model"], tables["source"]
    words = {word: model[word] for word in _WORDS}
    template, tokenizer = source.get("template_sha256"), source.get("tokenizer_sha256")
    if not all(isinstance(text, str) for text in (*words.values(), source["commit"])):
        raise TypeError
    lock = Lock(
        spec=ModelSpec(**words),
        commit=check_commit(source["commit"]),
        files=tuple(_file(item) for item in tables["files"]),
        template=None if template is None else Digest(template).hex,
        tokenizer=None if tokenizer is None else Digest(tokenizer).hex,
    )
    check_names(file.path for file in lock.files)
    if not lock.files:
        raise _Unusable("it names no files")
    if source["id"] != lock.spec.id:
        raise _Unusable("its id is not that of its [model]")
    return lock


def _file(item: Mapping[str, Any]) -> LockedFile:
    if type(item["size"]) is not int or item["size"] < 0 or not isinstance(item["path"], str):
        raise TypeError
    return LockedFile(path=item["path"], size=item["size"], digest=Digest(item["sha256"]))
