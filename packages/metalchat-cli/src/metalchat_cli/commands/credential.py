"""`metalchat credential`: access tokens, each kept for one URL in the keychain."""

import os
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from metalchat_cli import errors, terminal
from metalchat_cli.home import credentials

app = cyclopts.App(name="credential", help="Keep access tokens in the system's keychain.", help_format="plaintext")

MAX_SECRET_BYTES = 65536

Host = Annotated[str | None, Parameter(name=["--host", "--hostname"])]


@app.command
def add(
    *,
    host: Host = None,
    username: str,
    write: bool = False,
    backend: Annotated[str, Parameter(show_default=True)] = "keyring",
    secret: str | None = None,
    secret_stdin: bool = False,
    secret_env: str | None = None,
) -> None:
    """Keep a token. Without a --secret option it is asked for, and not shown.

    Parameters
    ----------
    host
        A host such as huggingface.co, or a URL; a URL's path limits the token to what is below it.
    username
        The name the token belongs to.
    write
        Keep it for pushing; otherwise it is for reading.
    backend
        Where the token is, or is to be kept; 'metalchat plugins' lists the choices.
    secret
        The token itself. The process list and the shell's history show it: prefer the prompt.
    secret_stdin
        Read the token from standard input.
    secret_env
        Read the token from this environment variable; with a backend that only reads, its name is kept, not its value.
    """
    from metalchat_credentials import Purpose, Secret, SecretStore, load_backend, parse_host

    if host is None:
        raise errors.Usage("no host is named. Add --host, for example --host huggingface.co")
    if not username:
        raise errors.Usage("--username is empty. Give the name that the token belongs to")
    url, purpose = parse_host(host), Purpose.WRITE if write else Purpose.READ
    if not isinstance(load_backend(backend), SecretStore):
        if secret is not None or secret_stdin:
            raise errors.Usage(f"'{backend}' only reads tokens. Drop --secret or --secret-stdin, or change --backend")
        credentials().link(url, username=username, backend=backend, variable=secret_env, purpose=purpose)
        return
    token = Secret.parse(_read(secret, secret_stdin, secret_env, f"Access token for {username} at {url.origin}:"))
    stored = credentials().add(url, username=username, secret=token, purpose=purpose, backend=backend)
    if terminal.shows_hints():
        terminal.note(f"The token is kept by {stored.kept_by}.")


def _read(secret: str | None, from_stdin: bool, variable: str | None, question: str) -> str:
    given = [secret is not None, from_stdin, variable is not None]
    if sum(given) > 1:
        raise errors.Usage("give only one of --secret, --secret-stdin and --secret-env")
    if secret is not None:
        terminal.note("warning: --secret shows the token in the process list and the shell's history", "yellow")
        return secret
    if variable is not None:
        if variable not in os.environ:
            raise errors.Usage(f"the environment variable '{variable}' is not set. Set it, or drop --secret-env")
        return os.environ[variable]
    if from_stdin:
        # What is no ASCII is no token; `Secret` says so without repeating it.
        return terminal.read_stdin(MAX_SECRET_BYTES).decode("ascii", errors="replace")
    if not terminal.can_ask():
        raise errors.Usage("there is no terminal to ask for the token. Use --secret-stdin or --secret-env NAME")
    return terminal.read_secret(question)


@app.command(name="list")
def list_(*, json: bool = False) -> None:
    """List the credentials; tokens are never shown.

    Parameters
    ----------
    json
        Print JSON.
    """
    found = credentials().list()
    if json:
        terminal.json_line(
            [
                {
                    "url": str(credential.url),
                    "username": credential.username,
                    "provider": credential.provider,
                    "purpose": str(credential.purpose),
                }
                for credential in found
            ]
        )
        return
    for credential in found:
        terminal.row(str(credential.url), credential.username, credential.provider, separator="\t")


@app.command
def remove(*, host: Host = None, all: bool = False) -> None:
    """Forget the tokens of a host.

    Parameters
    ----------
    host
        The host or URL whose tokens to forget.
    all
        Forget every token of every host.
    """
    from metalchat_credentials import parse_host

    if host is None and not all:
        raise errors.Usage("nothing is named. Add --host HOST, or --all to forget every token")
    if host is not None and all:
        raise errors.Usage("give only one of --host and --all: --all forgets the tokens of every host")
    url = None if host is None else parse_host(host)
    if not credentials().remove(url, all=all) and terminal.shows_hints():
        terminal.note(f"no token was stored for {url}" if url else "no token was stored")
