"""Which installed distribution serves which URL scheme, known from metadata before anything is imported."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metalchat_store.errors import IncompatibleRemote, RemoteConflict, RemoteNotFound

if TYPE_CHECKING:
    from metalchat_store.remote import Remote

GROUP = "metalchat.remotes"

# The distributions of the metalchat project: METALCHAT_PLUGINS never restricts these.
_BUILT_IN = frozenset(
    {
        "metalchat-cli",
        "metalchat-credentials",
        "metalchat-engine",
        "metalchat-engine-mlx",
        "metalchat-manifest",
        "metalchat-prompt",
        "metalchat-store",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePoint:
    """A registered remote: the URL scheme it serves, and who offers it."""

    scheme: str
    distribution: str
    version: str
    value: str

    @property
    def builtin(self) -> bool:
        """Whether a distribution of the metalchat project itself offers it."""
        return re.sub(r"[-_.]+", "-", self.distribution).lower() in _BUILT_IN


def installed_remotes() -> tuple[RemotePoint, ...]:
    """Every registered remote, by scheme. Imports none of them."""
    from importlib.metadata import entry_points

    found = {
        RemotePoint(
            scheme=point.name.lower(),
            distribution=point.dist.metadata["Name"] if point.dist else "",
            version=point.dist.version if point.dist else "",
            value=point.value,
        )
        for point in entry_points(group=GROUP)
    }
    return tuple(sorted(found, key=lambda point: (point.scheme, point.distribution)))


def load_remote(scheme: str, environ: Mapping[str, str]) -> "Remote":
    """A new remote for addresses of that scheme.

    `METALCHAT_PLUGINS` in `environ`, a comma-separated list of entry-point names, restricts which remotes of other
    projects may load; set but empty, none may. Raises `RemoteNotFound`, `RemoteConflict`, `IncompatibleRemote`.
    """
    scheme = scheme.lower()
    allowed = environ.get("METALCHAT_PLUGINS")
    known = installed_remotes()
    points = [point for point in known if point.scheme == scheme]
    if allowed is not None and scheme not in {name.strip().lower() for name in allowed.split(",")}:
        if points and not any(point.builtin for point in points):
            raise RemoteNotFound(
                f"the remote '{scheme}' of {points[0].distribution} may not load: METALCHAT_PLUGINS does not name it"
            )
        points = [point for point in points if point.builtin]
    if not points:
        listed = ", ".join(dict.fromkeys(point.scheme for point in known)) or "none"
        raise RemoteNotFound(f"nothing installed can pull from '{scheme}:' addresses (installed: {listed})")
    if len(points) > 1:
        owners = " and ".join(point.distribution for point in points)
        raise RemoteConflict(f"'{scheme}:' addresses are served by both {owners}: uninstall one of them")
    return _load(points[0])


def _load(point: RemotePoint) -> "Remote":
    from importlib.metadata import EntryPoint

    try:
        remote = EntryPoint(name=point.scheme, value=point.value, group=GROUP).load()()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise IncompatibleRemote(
            f"the remote '{point.scheme}' of {point.distribution} does not load: {reason}"
        ) from error
    if not callable(getattr(remote, "list", None)) or not callable(getattr(remote, "read", None)):
        raise IncompatibleRemote(f"the remote '{point.scheme}' of {point.distribution} has no 'list' or no 'read'")
    return remote
