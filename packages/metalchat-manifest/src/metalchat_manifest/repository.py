"""The name of a model: the SHA-1 of its repository's address, variant, architecture and partitioning."""

import re

from metalchat_manifest._text import is_printable, quoted
from metalchat_manifest.errors import InvalidRepository, InvalidSpec

MAX_REPOSITORY_CHARACTERS = 4096

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_PORT_ONLY = re.compile(r"\d{1,5}(?:[/?#]|\Z)")
_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


def normalise_repository(repository: str) -> str:
    """The one spelling of an address that identifiers are made of.

    The scheme becomes lower case, `/a/../b` becomes `/b`, and the empty path after a host becomes `/`. Host
    case, port, a trailing slash, query and fragment stay as they are. The name in `pypi:name` takes the form
    of PEP 503, since the package index knows all its spellings as one project.

    Raises InvalidRepository without a scheme, without a host where the scheme needs one, with white space or
    a control character, or with a login before the host.
    """
    base, query, fragment = _split(repository)
    return base + query + fragment


def identifier(repository: str, *, variant: str, architecture: str, partitioning: str) -> str:
    """40 lower-case hexadecimal digits that name one specification of a model.

    Raises InvalidRepository, or InvalidSpec where one of the three words is not a plain word.
    """
    import hashlib

    base, query, fragment = _split(repository)
    words = {"variant": variant, "architecture": architecture, "partitioning": partitioning}
    for name, word in words.items():
        check_word(name, word)
    ours = "&".join(f"{name}={word}" for name, word in words.items())
    joined = f"{query}&{ours}" if len(query) > 1 else f"?{ours}"
    return hashlib.sha1(f"{base}{joined}{fragment}".encode(), usedforsecurity=False).hexdigest()


def legacy_identifier(repository: str) -> str:
    """The SHA-1 of the normalised address alone: an older form of the id of a `file://` repository."""
    import hashlib

    return hashlib.sha1(normalise_repository(repository).encode(), usedforsecurity=False).hexdigest()


def check_word(name: str, word: str) -> None:
    """Raises InvalidSpec unless `word` is letters, digits and `._+-`, starts with a letter or digit, up to 128."""
    if not _COMPONENT.fullmatch(word):
        raise InvalidSpec(
            f"the {name} of a model is a word of letters, digits and '._+-'; this one is not: {quoted(word)}", key=name
        )


def _split(repository: str) -> tuple[str, str, str]:
    """Normalised address up to the path, `?query` or nothing, `#fragment` or nothing."""
    if len(repository) > MAX_REPOSITORY_CHARACTERS:
        raise _invalid(f"it is longer than {MAX_REPOSITORY_CHARACTERS} characters")
    if not is_printable(repository) or any(character.isspace() for character in repository):
        raise _invalid("it contains a space or a control character")
    parts = _SCHEME.fullmatch(repository)
    if parts is None:
        raise _invalid("it has no scheme such as https://")
    scheme, rest = parts[1].lower(), parts[2]
    if scheme != "pypi" and _PORT_ONLY.match(rest):
        raise _invalid("it has no scheme such as https:// (a host and a port are not enough)")
    rest, hash_mark, fragment = rest.partition("#")
    rest, question_mark, query = rest.partition("?")
    return f"{scheme}:{_place(scheme, rest)}", question_mark + query, hash_mark + fragment


def _place(scheme: str, rest: str) -> str:
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        if "@" in authority:
            raise _invalid("it contains a login. Remove it and run 'metalchat credential add'")
        if "\\" in authority:
            raise _invalid("the host contains a character that is not allowed")
        host = authority if authority.startswith("[") else authority.partition(":")[0]
        if not host and scheme != "file":
            raise _invalid("no host name")
        return f"//{authority}{_without_dots(slash + path)}"
    if scheme in {"http", "https"}:
        raise _invalid("no host name")
    if scheme == "pypi":
        if not _PROJECT.fullmatch(rest):
            raise _invalid("after 'pypi:' stands the name of a distribution")
        return re.sub(r"[-_.]+", "-", rest).lower()
    if not rest:
        raise _invalid("nothing follows the scheme")
    return _without_dots(rest) if rest.startswith("/") else rest


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4, for a path that is empty or begins with `/`."""
    kept: list[str] = []
    segments = path.split("/")[1:] or [""]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _invalid(why: str) -> InvalidRepository:
    return InvalidRepository(f"this is not the address of a repository: {why}")
