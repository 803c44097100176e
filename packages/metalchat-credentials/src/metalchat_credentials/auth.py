"""The httpx side of credentials: an httpx.Auth that sends a token to the address it belongs to and nowhere else."""

from collections.abc import Generator

import httpx

from metalchat_credentials.backend import Purpose
from metalchat_credentials.credentials import Credentials

_DENIED = frozenset({401, 403, 404})
_MOST_REQUESTS = 10


class CredentialAuth(httpx.Auth):
    """Sets the Authorization header from the URL of each request, and removes any other.

    A redirect that httpx follows starts without the header, on the same origin too. Where the address that it led to
    denies access and has a credential of its own, the request is repeated there with that one. `WWW-Authenticate` is
    never looked at. The first request may wait for the keychain, also in an asynchronous client.
    """

    def __init__(self, credentials: Credentials, purpose: Purpose = Purpose.READ) -> None:
        self._credentials = credentials
        self._purpose = purpose

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:  # pyrefly: ignore[missing-override-decorator] - it needs Python 3.12
        """Raises what `Credentials.authorization` raises, before anything is sent."""
        self._authorize(request)
        for _ in range(_MOST_REQUESTS):
            response = yield request
            led_to = response.request
            # A body that is read from a stream can be sent only once.
            replayable = isinstance(led_to.stream, httpx.ByteStream)
            if response.status_code not in _DENIED or led_to.url == request.url or not replayable:
                return
            request = led_to
            if not self._authorize(request):
                return

    def _authorize(self, request: httpx.Request) -> bool:
        request.headers.pop("Authorization", None)
        value = self._credentials.authorization(str(request.url), self._purpose)
        if value is not None:
            request.headers = _OneHop(request.headers, value)
        return value is not None


class _OneHop(httpx.Headers):
    """Headers with an Authorization that is sent and looked up, and that a copy of them does not have.

    httpx builds the request of a redirect from a copy of the headers, and would keep the token on the way from http
    to https and to other paths of the same origin.
    """

    def __init__(self, headers: httpx.Headers, authorization: str) -> None:
        super().__init__(headers)
        self._authorization = authorization

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:  # pyrefly: ignore[missing-override-decorator] - the same
        return [*super().raw, (b"Authorization", self._authorization.encode("ascii"))]

    def __getitem__(self, key: str) -> str:  # pyrefly: ignore[missing-override-decorator] - the same
        return self._authorization if key.lower() == "authorization" else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:  # pyrefly: ignore[missing-override-decorator] - the same
        return (isinstance(key, str) and key.lower() == "authorization") or super().__contains__(key)
