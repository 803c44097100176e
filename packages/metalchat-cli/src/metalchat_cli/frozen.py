"""`--frozen`: what `metalchat.lock` beside the selecting manifest says, and nothing else."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_cli import errors, home

if TYPE_CHECKING:
    from metalchat_manifest import Resolved
    from metalchat_store import Lock

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
