"""What the settings of a package installer say about places of distributions, before they are understood."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metalchat_store.errors import InvalidRepository

_LIMIT = 1 << 20
_TRUE = ("1", "true", "t", "yes", "y", "on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An address as it is written, and where: a variable, or a key of a file.

    `base` is the folder that a relative path starts from, the working directory if None. `login` is `user:password`
    from elsewhere than the address. Either may be secret, so neither is shown.
    """

    text: str = field(repr=False)
    setting: str
    base: Path | None = None
    login: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`closed` is the setting that forbids indexes, None if none does."""

    default: Named | None = None
    extra: tuple[Named, ...] = ()
    links: tuple[Named, ...] = ()
    closed: str | None = None

    @property
    def any(self) -> bool:
        """Whether anything is set at all."""
        return self.default is not None or bool(self.extra or self.links) or self.closed is not None


def is_true(text: str) -> bool:
    """Whether a switch is on."""
    return text.strip().lower() in _TRUE


def read_settings(path: Path, *, must: bool = False) -> str | None:
    """The text of a file of settings; None if it does not exist, unless it `must`. Raises `InvalidRepository`."""
    try:
        if not path.is_file() and not must:
            return None
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise unreadable(path, "it is larger than 1 MiB")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise unreadable(path, (error.strerror or type(error).__name__).lower()) from error
    except UnicodeDecodeError as error:
        raise unreadable(path, "it is not UTF-8") from error


def unreadable(path: Path, reason: str) -> InvalidRepository:
    """The error for a file of settings that makes no sense. Its content may be secret and is not shown."""
    return InvalidRepository(f"the settings of package indexes in {path} cannot be read: {reason}")


def under_home(environ: Mapping[str, str], *parts: str) -> tuple[Path, ...]:
    """A path below the home directory, if there is one."""
    home = environ.get("HOME")
    return (Path(home, *parts),) if home else ()
