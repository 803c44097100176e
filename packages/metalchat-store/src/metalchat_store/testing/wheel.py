"""Wheels made in memory: a distribution that carries a model, with the RECORD that installers check."""

import base64
import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Mapping

_EPOCH = (2025, 1, 1, 0, 0, 0)


def wheel_name(project: str, version: str, tag: str = "py3-none-any") -> str:
    """The file name of a wheel."""
    return f"{_escaped(project)}-{version}-{tag}.whl"


def wheel_metadata(project: str, version: str, *, license: str | None = "Apache-2.0") -> bytes:
    """The METADATA of a wheel."""
    lines = ["Metadata-Version: 2.4", f"Name: {project}", f"Version: {version}"]
    lines += [] if license is None else [f"License-Expression: {license}"]
    return ("\n".join(lines) + "\n\nA model.\n").encode()


def tiny_gguf(size: int = 150_000, seed: int = 1) -> bytes:
    """A GGUF file that says of itself that it is a Llama model, and `size` bytes of noise."""
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    return head + hashlib.shake_128(str(seed).encode()).digest(size)


def tiny_package(content: bytes | None = None) -> dict[str, bytes]:
    """The files of a wheel that carries a GGUF file, a tiny one by default."""
    return {"llm_tiny/__init__.py": b"raise SystemExit", "llm_tiny/tiny.Q4_1.gguf": content or tiny_gguf()}


def make_wheel(
    project: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    license: str | None = "Apache-2.0",
    record: Mapping[str, bytes | None] | None = None,
    stored: bool = False,
) -> bytes:
    """A wheel that holds `files`, named by their paths in it, and what the format demands.

    `record` replaces what RECORD says about single files: another content to hash, or None for no line at all.
    `stored`: nothing is compressed.
    """
    info = f"{_escaped(project)}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": wheel_metadata(project, version, license=license),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    claimed = {**content, **(record or {})}
    lines = [f"{name},sha256={_hash(data)},{len(data)}" for name, data in claimed.items() if data is not None]
    content[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,\n"]).encode()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, compress_type=archive.compression)
    return whole.getvalue()


def _escaped(project: str) -> str:
    return re.sub(r"[-_.]+", "_", project).lower()


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
