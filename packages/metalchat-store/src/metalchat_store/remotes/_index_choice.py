"""Which wheel of a project is pulled: the newest final release for any platform, or exactly the one that was asked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from metalchat_store.errors import InvalidRepository, NotAModel, RepositoryNotFound
from metalchat_store.remotes._index_page import Link

_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_WHEEL = re.compile(
    r"(?P<project>[\w.]+)-(?P<version>[\w.+!]+)(?:-(?P<build>[0-9]{1,18})(?P<rest>[\w.]*))?"
    r"-(?P<python>[\w.]+)-(?P<abi>[\w.]+)-(?P<platform>[\w.]+)\.whl",
    re.ASCII,
)
_MAX_NAME = 255
_PIN = re.compile(r"(?P<version>.+)-sha256-(?P<digest>[0-9a-f]{16})")
_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel that a model may be in. `universal`: it serves every platform; `plain`: it is marked `py3`."""

    link: Link
    version: Version
    build: tuple[int, str]
    universal: bool
    plain: bool

    @property
    def digest(self) -> str:
        """The sha256 as the index writes it, empty if it gives none."""
        return dict(self.link.hashes).get("sha256", "")

    @property
    def rank(self) -> tuple[object, ...]:
        """Sorts files of one release, the best last."""
        return (not self.link.yanked, self.plain, self.build, self.link.filename)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for: a project, a version, and the first digits of the sha256 where a pull was pinned."""

    project: str
    version: Version | None = None
    digest: str | None = None

    @property
    def shown(self) -> str:
        """How messages call it."""
        return f"'{self.project}'" if self.version is None else f"'{self.project}' {self.version}"


def parse_wanted(repository: str, revision: str | None) -> Wanted:
    """`pypi:NAME` or `pypi:NAME==VERSION`, and a version or commit beside it. Raises `InvalidRepository`."""
    name, mark, version = repository.partition(":")[2].partition("==")
    if _PROJECT.fullmatch(name) is None or (mark and not version):
        raise InvalidRepository("after 'pypi:' stands the name of a distribution, or NAME==VERSION")
    asked = [_version(text) for text in (version, revision) if text]
    if len(asked) > 1 and asked[0][0] != asked[1][0]:
        raise InvalidRepository(
            f"the address names version {asked[0][0]}, the revision {asked[1][0]}: give one of them"
        )
    found, digest = asked[-1] if asked else (None, None)
    return Wanted(project=canonicalize_name(name), version=found, digest=digest)


def commit_of(version: Version, sha256: str) -> str:
    """The name of one file of one release: `1.2.3-sha256-0123456789abcdef`. As a revision it asks for that file."""
    return f"{str(version).replace('!', '_')}-sha256-{sha256[:_DIGITS]}"


def project_of(filename: str) -> str | None:
    """The project that a wheel or source distribution belongs to, in the form of PEP 503; None if it is neither."""
    wheel = _WHEEL.fullmatch(filename) if len(filename) <= _MAX_NAME else None
    name = wheel["project"] if wheel is not None else filename.removesuffix(".tar.gz").rpartition("-")[0]
    return canonicalize_name(name) if _PROJECT.fullmatch(name) else None


def choose(wanted: Wanted, links: Sequence[Link], place: str) -> Wheel:
    """The wheel to pull. `place` is where the links are from.

    Pre-releases are chosen if there is nothing else, yanked releases only by their exact version. Raises
    `RepositoryNotFound`, `NotAModel`.
    """
    wheels = [wheel for wheel in map(_wheel, links) if wheel is not None]
    if not wheels:
        found = ", ".join(f"{link.filename!a}" for link in links[:3]) or "nothing"
        raise NotAModel(f"'{wanted.project}' at {place} is not a model: found {found}; looked for a wheel")
    if wanted.version is not None:
        wheels = [wheel for wheel in wheels if wheel.version == wanted.version]
        if not wheels:
            raise RepositoryNotFound(f"{place} has no wheel of {wanted.shown}")
    universal = [wheel for wheel in wheels if wheel.universal]
    if not universal:
        raise NotAModel(
            f"{wanted.shown} at {place} is not a model: found {wheels[-1].link.filename}; "
            "looked for a wheel for any platform (py3-none-any)"
        )
    if wanted.version is None:
        universal = [wheel for wheel in universal if not wheel.link.yanked]
        if not universal:
            raise RepositoryNotFound(
                f"every release of {wanted.shown} at {place} is withdrawn (yanked): name one as pypi:NAME==VERSION"
            )
        universal = [wheel for wheel in universal if not wheel.version.is_prerelease] or universal
        newest = max(wheel.version for wheel in universal)
        universal = [wheel for wheel in universal if wheel.version == newest]
    pinned = [wheel for wheel in universal if wanted.digest and wheel.digest.startswith(wanted.digest)]
    return max(pinned or universal, key=lambda wheel: wheel.rank)


def _wheel(link: Link) -> Wheel | None:
    """A file name taken apart (PEP 427); the tags are compared as they are, since their product may be huge."""
    found = _WHEEL.fullmatch(link.filename) if len(link.filename) <= _MAX_NAME else None
    if found is None:
        return None
    try:
        version = Version(found["version"])
    except InvalidVersion:
        return None
    return Wheel(
        link=link,
        version=version,
        build=(int(found["build"] or 0), found["rest"] or ""),
        universal="any" in found["platform"].split(".") and "none" in found["abi"].split("."),
        plain="py3" in found["python"].split("."),
    )


def _version(text: str) -> tuple[Version, str | None]:
    pinned = _PIN.fullmatch(text)
    try:
        if len(text) > _MAX_NAME:
            raise InvalidVersion
        if pinned is not None:
            return Version(pinned["version"].replace("_", "!", 1)), pinned["digest"]
        return Version(text), None
    except InvalidVersion as error:
        raise InvalidRepository(f"{text[:60]!a} is not the version of a distribution") from error
