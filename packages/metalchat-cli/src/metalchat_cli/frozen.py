"""`--frozen`: what `metalchat.lock` beside the selecting manifest says, and nothing else."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_cli import errors, home, terminal

if TYPE_CHECKING:
    from metalchat_manifest import Resolved
    from metalchat_store import Lock, Store

DEFAULT_HUB = "https://huggingface.co"

VARIABLE = "METALCHAT_FROZEN"
_VALUES = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def wanted(flag: bool) -> bool:
    """Whether the option or the variable asks for it.

    Raises:
        Usage: the variable has a value that means nothing.
    """
    text = os.environ.get(VARIABLE, "")
    if text.lower() not in _VALUES:
        raise errors.Usage(f"{VARIABLE} is neither 1 nor 0. Set it to one of them, or unset it")
    return flag or _VALUES[text.lower()]


def manifest(resolved: "Resolved") -> Path:
    """The manifest that selects the model; where a flag does, the one that would without it."""
    from metalchat_manifest import Scope

    origin = resolved.model_origin
    if origin is not None and origin.path is not None:
        return origin.path
    for scope in (Scope.LOCAL, Scope.GLOBAL):
        if scope in resolved.manifests and resolved.manifests[scope].model is not None:
            return resolved.manifests[scope].path
    return home.home() / "metalchat.toml"


def locked(resolved: "Resolved") -> "Lock":
    """The lock of the model that is in effect.

    Raises:
        NotCheckedOut: no scope selects a model.
        Refused: there is no lock, or it is that of another model.
    """
    from metalchat_store import Lock, Refused

    if resolved.model is None:
        raise errors.NotCheckedOut("requested scope not checked out. Run 'metalchat checkout ID'")
    path = manifest(resolved).with_name("metalchat.lock")
    lock = Lock.read(path)
    if lock is None:
        raise Refused(f"nothing is locked: there is no '{path}'. 'metalchat lock' writes it")
    if lock.spec.id not in resolved.model.ids:
        locked, here = lock.spec.repository, resolved.model.repository
        raise Refused(f"'{path}' locks '{locked}', not '{here}'. 'metalchat lock' writes it anew")
    return lock


def allow_host(lock: "Lock", kept: "Store") -> None:
    """Ask before a lock, which may be that of somebody else's project, leads to a host for the first time.

    A host is known if a model in the store, a credential, or the manifest of the home names it.

    Raises:
        Refused: it is not known, and the person says no, or there is none to ask.
    """
    from metalchat_store import Refused

    repository = lock.spec.repository
    origin = _origin(repository)
    if origin is None or origin in _known_origins(kept):
        return
    said = f"the lock names {terminal.safe_name(origin)}, from which nothing was pulled here before"
    if terminal.can_ask() and terminal.confirm(f"{said[0].upper()}{said[1:]}. Connect to it?"):
        return
    raise Refused(f"{said}. If you trust it: metalchat model pull --frozen {terminal.safe_name(repository)}")


def _known_origins(kept: "Store") -> set[str | None]:
    from metalchat_manifest import Manifest

    known = {DEFAULT_HUB, *(_origin(entry.spec.repository) for entry in kept.list() if entry.spec is not None)}
    known |= {_origin(str(credential.url)) for credential in home.credentials().list()}
    own = home.home() / "metalchat.toml"
    model = Manifest.read(own).model if own.is_file() else None
    return known if model is None else known | {_origin(model.repository)}


def _origin(address: str) -> str | None:
    """Scheme, host and port of an address; None for one that leads to no host of its own."""
    from urllib.parse import urlsplit

    parts = urlsplit(address.removeprefix("manifest:"))
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.netloc else None
