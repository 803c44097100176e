"""The tokens of one command: asked for per request, and never in the way of what needs none."""

from collections.abc import Iterator
from contextlib import contextmanager

from metalchat_cli import terminal
from metalchat_cli.home import credentials


class Access:
    """Hands the store the Authorization of each URL. A keychain that fails is a warning, since a public
    repository needs no token; it becomes the error once the server has said that one is needed."""

    def __init__(self, *, write: bool = False) -> None:
        self._credentials = credentials()
        self._write = write
        self._failure: Exception | None = None

    def authorization(self, url: str) -> str | None:
        """The value of the Authorization header for exactly `url`, or None."""
        from metalchat_credentials import KeychainError, Purpose, SecretMissing

        if self._failure is not None:
            return None
        try:
            return self._credentials.authorization(url, Purpose.WRITE if self._write else Purpose.READ)
        except (KeychainError, SecretMissing) as error:
            self._failure = error
            return None

    def explain(self) -> None:
        """Raise the keychain's failure, if there was one, in place of a server's refusal."""
        if self._failure is not None:
            raise self._failure

    def report(self) -> None:
        """Say on standard error what a person should know about their tokens."""
        if self._failure is not None:
            terminal.note(f"warning: no token was used: {self._failure}", "yellow")
        for notice in self._credentials.notices:
            terminal.note(f"warning: {notice}", "yellow")


@contextmanager
def granted(*, write: bool = False) -> Iterator[Access]:
    """Access for a block of requests, to `write` or to read.

    Its notices come at the end, or before a server's refusal.

    Raises:
        KeychainError: the server asked for a token, and the keychain that has it failed.
    """
    from metalchat_store import AccessDenied

    access = Access(write=write)
    try:
        yield access
    except AccessDenied:
        access.explain()
        access.report()
        raise
    access.report()
