"""What a release tag stands for: `release.py TAG` prints what to test and publish, or says why not to.

A tag is `metalchat-<part>-vX.Y.Z`. It may be released if that part's pyproject.toml has this version and its
CHANGELOG.md begins with a section about it.
"""

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TAG = re.compile(r"metalchat-(?P<part>[a-z]+(?:-[a-z]+)*)-v(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)", re.ASCII)
_SECTION = re.compile(r"^## (\S+)", re.MULTILINE)


class CannotRelease(Exception):
    """The tag and the tree do not fit; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """`part` is the package's name without `metalchat-`; `files` matches what `hatch run wheels` built of it."""

    part: str
    version: str
    files: str


def release(tag: str, root: Path = ROOT) -> Release:
    """What `tag` releases.

    Raises:
        CannotRelease: the tag has another form, names no package, or does not fit pyproject.toml and CHANGELOG.md.
    """
    match = _TAG.fullmatch(tag)
    if match is None:
        raise CannotRelease(f"'{tag}' is not of the form metalchat-<part>-vX.Y.Z")
    part, version = match["part"], match["version"]
    folder = root / "packages" / f"metalchat-{part}"
    if not (folder / "pyproject.toml").is_file():
        known = ", ".join(sorted(path.parent.name for path in root.glob("packages/*/pyproject.toml")))
        raise CannotRelease(f"'{tag}' names no package. There are: {known}")
    declared = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if declared != version:
        raise CannotRelease(f"packages/{folder.name}/pyproject.toml has version {declared}, the tag has {version}")
    changes = _SECTION.search((folder / "CHANGELOG.md").read_text(encoding="utf-8"))
    if changes is None or changes[1] != version:
        found = "no section" if changes is None else f"a section about {changes[1]}"
        raise CannotRelease(f"packages/{folder.name}/CHANGELOG.md begins with {found}, not with '## {version}'")
    return Release(part=part, version=version, files=f"dist/{folder.name.replace('-', '_')}-{version}*")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: release.py TAG\n")
        return 2
    try:
        found = release(arguments[0])
    except CannotRelease as error:
        sys.stderr.write(f"release.py: {error}\n")
        return 1
    sys.stdout.write(f"part={found.part}\nversion={found.version}\nfiles={found.files}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
