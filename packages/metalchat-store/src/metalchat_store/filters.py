"""Which files of a repository or a folder are meant: by name, or by patterns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from metalchat_store.errors import RepositoryNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """`files` are exact names; `include` and `exclude` patterns as of a shell, in which `*` matches `/` too.

    A folder stands for all that is below it. Without `files` and `include` everything is meant; what
    `exclude` matches is never meant, unless `files` names it.
    """

    files: Sequence[str] = ()
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.files or self.include or self.exclude)

    def accepts(self, name: str) -> bool:
        """Whether a file of that name is meant."""
        if name in self.files:
            return True
        if self.files and not self.include:
            return False
        return (not self.include or _matches(name, self.include)) and not _matches(name, self.exclude)

    def choose(self, names: Iterable[str], *, where: str) -> tuple[str, ...]:
        """Those of `names` that are meant; `RepositoryNotFound` if `files` names another one, or if there are none."""
        known = tuple(names)
        for name in self.files:
            if name not in known:
                raise RepositoryNotFound(f"'{where}' has no such file: {name[:200]!a}")
        chosen = tuple(name for name in known if self.accepts(name))
        if not chosen and self:
            raise RepositoryNotFound(f"'{where}' has no file that --include and --exclude leave")
        return chosen


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern.rstrip('/')}/*") for pattern in patterns)
