"""The secret backends that are installed, found by their entry points and loaded by name."""

from __future__ import annotations

import os

from metalchat_credentials.errors import BackendConflict, BackendNotFound, BackendUnusable

TYPE_CHECKING = False  # as typing has it; importing typing takes longer than all the rest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

    from metalchat_credentials.backend import BackendPoint, SecretBackend

GROUP = "metalchat.credentials"
# The distribution whose backends METALCHAT_PLUGINS never restricts.
BUILT_IN = "metalchat-credentials"


def backends(*, environ: Mapping[str, str] | None = None) -> tuple[BackendPoint, ...]:
    """Every backend that may be loaded, by name; metadata only, nothing is imported.

    `METALCHAT_PLUGINS` (names, separated by commas) restricts what other projects offer: where it is set, only the
    named ones are listed, and none where it is empty.
    """
    from metalchat_credentials.backend import BackendPoint

    return tuple(
        BackendPoint(name=point.name, distribution=distribution, version=version, value=point.value)
        for point, distribution, version in _points(os.environ if environ is None else environ)
    )


def load_backend(name: str, *, environ: Mapping[str, str] | None = None) -> SecretBackend:
    """A new backend of that name.

    Raises BackendNotFound (lists what is installed), BackendConflict (names both distributions) and BackendUnusable.
    """
    from metalchat_credentials.backend import SecretBackend

    points = _points(os.environ if environ is None else environ)
    found = [(point, distribution) for point, distribution, _ in points if point.name == name]
    if not found:
        installed = ", ".join(sorted({point.name for point, _, _ in points})) or "none"
        raise BackendNotFound(f"no secret backend is named {name!a}. Installed: {installed}")
    if len(found) > 1:
        both = " and ".join(sorted(distribution for _, distribution in found))
        raise BackendConflict(f"the secret backend '{name}' is offered by {both}. Uninstall all but one")
    point, distribution = found[0]
    try:
        backend = point.load()()
    except Exception as error:
        # A plug-in may raise anything while it is imported.
        raise BackendUnusable(
            f"the secret backend '{name}' of {distribution} does not load ({type(error).__name__}). "
            f"Update or uninstall {distribution}"
        ) from error
    if not isinstance(backend, SecretBackend):
        raise BackendUnusable(f"'{name}' of {distribution} is not a secret backend. Update or uninstall {distribution}")
    return backend


def _points(environ: Mapping[str, str]) -> list[tuple[EntryPoint, str, str]]:
    from importlib.metadata import entry_points

    listed = environ.get("METALCHAT_PLUGINS")
    allowed = None if listed is None else {name.strip() for name in listed.split(",")}
    found: dict[tuple[str, str], tuple[EntryPoint, str, str]] = {}
    for point in entry_points(group=GROUP):
        distribution = "" if point.dist is None else point.dist.name
        version = "" if point.dist is None else point.dist.version
        if allowed is None or point.name in allowed or _normalised(distribution) == BUILT_IN:
            # One distribution seen twice on the path is still one.
            found.setdefault((point.name, distribution), (point, distribution, version))
    return [found[key] for key in sorted(found)]


def _normalised(distribution: str) -> str:
    return "-".join(part for part in distribution.lower().replace("_", "-").replace(".", "-").split("-") if part)
