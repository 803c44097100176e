"""Addresses of servers: what may be asked at all, and when two addresses belong to one server."""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

_MAX_URL = 8192
_PLAIN = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_PORTS = {"http": 80, "https": 443}


class AddressError(ValueError):
    """Why an address may not be used; never leaves the package."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: a secret that belongs to one origin is sent to no other."""

    scheme: str
    host: str
    port: int

    @property
    def shown(self) -> str:
        """The host as a person knows it, with the port where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """`scheme://host[:port]`, without a path."""
        return f"{self.scheme}://{self.shown}"

    @property
    def loopback(self) -> bool:
        """Whether the server is this computer."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@lru_cache(maxsize=64)
def origin_of(url: str) -> Origin:
    """The origin of an absolute http or https address; `AddressError` for everything else.

    Refused are characters outside visible ASCII, backslashes, user names and passwords, hosts that are neither a
    plain name nor an IP address, and http to another computer.
    """
    if not url or len(url) > _MAX_URL:
        raise AddressError("it is empty or too long")
    if _PLAIN.fullmatch(url) is None or "\\" in url:
        raise AddressError("it holds a character that is not allowed")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressError("it is malformed") from error
    if parts.scheme not in _PORTS:
        raise AddressError(f"it is of type '{parts.scheme[:20]}'")
    if "@" in parts.netloc:
        raise AddressError("it holds a user name or a password")
    host = parts.hostname or ""
    if not _is_host(host, bracketed=parts.netloc.startswith("[")) or port == 0:
        raise AddressError("host contains a character that is not allowed" if host else "no host name")
    origin = Origin(parts.scheme, host, port or _PORTS[parts.scheme])
    if origin.scheme == "http" and not origin.loopback:
        raise AddressError("http is allowed on this computer only: use https")
    return origin


def redirected(url: str, location: str) -> str:
    """The absolute address that a redirect from `url` leads to; `AddressError` if it may not be followed."""
    if not location:
        raise AddressError("the address is empty")
    if len(location) > _MAX_URL or _PLAIN.fullmatch(location) is None:
        raise AddressError("the address is too long or holds a character that is not allowed")
    scheme = _SCHEME.match(location)
    if scheme is not None and scheme[0].lower() not in _PORTS:
        raise AddressError(f"the address is of type '{scheme[0].lower()[:20]}'")
    try:
        target = urljoin(url, location).partition("#")[0]
    except ValueError as error:
        raise AddressError("the address is malformed") from error
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise AddressError("it leads from https to http")
    origin_of(target)
    return target


def _is_host(host: str, *, bracketed: bool) -> bool:
    if bracketed:
        try:
            return ipaddress.ip_address(host).version == 6
        except ValueError:
            return False
    return len(host) <= 253 and ".." not in host and _NAME.fullmatch(host) is not None
