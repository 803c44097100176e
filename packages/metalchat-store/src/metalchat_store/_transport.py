"""How a server is reached: proxies of the environment, the certificates of the system, and why it cannot be."""

from typing import TYPE_CHECKING

from metalchat_store._address import Origin

if TYPE_CHECKING:
    import httpx

_KEPT = 20  # idle connections: more than as many files as come together


def proxy_to(origin: Origin) -> str | None:
    """The proxy that the environment names for a server, as every other program would use it."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    found = proxies.get(origin.scheme) or proxies.get("all")
    if not found or proxy_bypass(origin.host):
        return None
    return found if "://" in found else f"http://{found}"


def new_transport(scheme: str, proxy: str | None, given: object | None) -> "httpx.BaseTransport":
    import httpx

    if given is not None:
        if not isinstance(given, httpx.BaseTransport):
            raise TypeError("transport is not one of httpx")
        return given
    import ssl

    limits = httpx.Limits(max_keepalive_connections=_KEPT)
    if scheme == "http":  # to this computer only, so there are no certificates to read
        return httpx.HTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust_env=False, limits=limits)
    import truststore

    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.HTTPTransport(verify=context, trust_env=False, proxy=proxy, limits=limits)


def why(error: BaseException) -> tuple[str, bool]:
    """Why a connection failed, and whether trying again is of no use."""
    import socket
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted", True
        if isinstance(cause, ssl.SSLError):
            return "no secure connection is possible", True
        if isinstance(cause, socket.gaierror):
            return "its name is not known: check the network or the address of the model", False
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower(), False
        cause = cause.__cause__ or cause.__context__
    return "the connection failed", False
