"""The address that owns a credential: parsed once, strictly, and compared by scheme, host, port and path prefix."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from metalchat_credentials.errors import InvalidURL

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST = 16_384
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_OTHER_DOTS = frozenset("\u3002\uff0e\uff61")
_PORT = re.compile(r"[0-9]{1,5}")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NOT_ALLOWED = "contains a character that is not allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """An http or https address: host in lower case or punycode, no default port, no slash at the end."""

    scheme: str
    host: str
    port: int | None = None
    path: str = ""

    def __post_init__(self) -> None:
        """There is no wildcard: an address without a host or of another scheme cannot be made."""
        if self.scheme not in _DEFAULT_PORTS or not self.host:
            raise _invalid("no host name")

    def __str__(self) -> str:
        return self.origin + self.path

    @property
    def origin(self) -> str:
        """Scheme, host and port, as `https://huggingface.co` or `http://[::1]:8080`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port is None else f":{self.port}")

    @property
    def is_confidential(self) -> bool:
        """What is sent there is encrypted or does not leave this computer."""
        if self.scheme == "https" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host) in _LOOPBACK[":" in self.host]
        except ValueError:
            return False

    def covers(self, other: "Url") -> bool:
        """`other` has the same origin, and this path is equal to its path or a prefix of it that ends at a `/`."""
        return self.origin == other.origin and (other.path + "/").startswith(self.path + "/")


_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def parse_url(text: str) -> Url:
    """The address in `text`, which must begin with `https://` or `http://` and end with the path.

    Raises InvalidURL; nothing of the text is repeated in its message, since a token may have been typed into it.
    """
    return _parse(text, whole=False)


def parse_host(text: str) -> Url:
    """As `parse_url`; a bare host, such as `huggingface.co` or `hub.example:8443`, is an https address."""
    return parse_url(text if "://" in text or not text else f"https://{text}")


def parse_target(text: str) -> Url:
    """The address that a request goes to: as `parse_url`, and a query and a fragment are checked and left out."""
    return _parse(text, whole=True)


def _parse(text: str, *, whole: bool) -> Url:
    if len(text) > _LONGEST:
        raise _invalid(f"it is longer than {_LONGEST} characters")
    match = _PARTS.fullmatch(text)
    if match is None:
        raise _invalid("no host name" if text[:1] in ("", "/") else "it must begin with https:// or http://")
    scheme, authority, path, query, fragment = (part or "" for part in match.groups())
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise _invalid("it must begin with https:// or http://")
    host, port = _authority(authority)
    if (query or fragment) and not whole:
        raise _invalid("it must end with the path, without '?' or '#'")
    _decoded(query + fragment, "query")
    return Url(scheme=scheme, host=host, port=None if port == _DEFAULT_PORTS[scheme] else port, path=_path(path))


def _authority(text: str) -> tuple[str, int | None]:
    if any(character <= " " or character in '\\"<>^`{|}\x7f' for character in text):
        raise _invalid(f"host {_NOT_ALLOWED}")
    if "@" in text:
        raise _invalid("a user name or an access token must not be written in it")
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        separator, port = rest[:1], rest[1:]
        if not closed or separator not in ("", ":"):
            raise _invalid("host is not a valid IPv6 address")
        host = _ipv6(host)
    else:
        host, separator, port = text.partition(":")
        host = _name(host)
    if not separator:
        return host, None
    if _PORT.fullmatch(port) is None or not 1 <= int(port) <= 65_535:
        raise _invalid("port is not a number from 1 to 65535")
    return host, int(port)


def _ipv6(text: str) -> str:
    if "%" in text:
        raise _invalid(f"host {_NOT_ALLOWED}")
    try:
        return ipaddress.IPv6Address(text).compressed
    except ValueError:
        raise _invalid("host is not a valid IPv6 address") from None


def _name(text: str) -> str:
    if not text:
        raise _invalid("no host name")
    host = text.lower()
    if not host.isascii():
        import idna

        try:
            # The idna package takes the full stops of other scripts for dots; here there is one dot.
            if not _OTHER_DOTS.isdisjoint(host):
                raise UnicodeError
            host = idna.encode(host).decode("ascii")
        except UnicodeError:
            raise _invalid(f"host {_NOT_ALLOWED}") from None
    if _HOST.fullmatch(host) is None:
        raise _invalid(f"host {_NOT_ALLOWED}")
    labels = host.split(".")
    if len(host) > 253 or not all(0 < len(label) <= 63 for label in labels):
        raise _invalid("host has a part that is empty or too long")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        # "127.1", "0x7f.1" and "2130706433" are spellings of 127.0.0.1 to a resolver, and none is accepted.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise _invalid("host is not a valid IPv4 address") from None
    return host


def _path(text: str) -> str:
    decoded = _decoded(text, "path")
    if any(segment in (".", "..") for segment in re.split(r"[/\\]", decoded)):
        raise _invalid("path contains '.' or '..'")
    pieces = []
    position = 0
    for match in _PERCENT.finditer(text):
        pieces.append(quote(text[position : match.start()], safe="/:@!$&'()*+,;=~"))
        byte = int(match[1], 16)
        pieces.append(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}")
        position = match.end()
    pieces.append(quote(text[position:], safe="/:@!$&'()*+,;=~"))
    return "".join(pieces).rstrip("/")


def _decoded(text: str, part: str) -> str:
    """Percent-decoded text; what is no UTF-8 or a control character, before or after decoding, is refused."""
    if any(match[1] is None for match in _PERCENT.finditer(text)) and part == "path":
        raise _invalid(f"{part} {_NOT_ALLOWED}")
    try:
        decoded = unquote_to_bytes(text).decode("utf-8", errors="strict" if part == "path" else "replace")
    except UnicodeError:
        raise _invalid(f"{part} {_NOT_ALLOWED}") from None
    if any(c < " " or "\x7f" <= c <= "\x9f" for c in decoded) or any(c in " \\" for c in text):
        raise _invalid(f"{part} {_NOT_ALLOWED}")
    return decoded


def _invalid(reason: str) -> InvalidURL:
    return InvalidURL(f"hub address is not valid: {reason}")
