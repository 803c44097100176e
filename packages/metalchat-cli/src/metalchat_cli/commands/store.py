"""`metalchat store`: what the models take, what can go, and what keeps it."""

from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from metalchat_cli import sizes, terminal
from metalchat_cli.home import store

if TYPE_CHECKING:
    from metalchat_store import Keeper

app = cyclopts.App(name="store", help="See and free the space that models take.", help_format="plaintext")


@app.command
def df(*, json: bool = False) -> None:
    """Say where the bytes are, and how many of them 'metalchat store gc' would free.

    Parameters
    ----------
    json
        Print JSON.
    """
    usage = store().usage()
    if json:
        from dataclasses import asdict

        terminal.json_line(asdict(usage) | {"total": usage.total})
        return
    rows = [
        ("models", usage.models, f"{sizes.count_text(usage.entry_count, 'model')}, as if nothing were shared"),
        ("shared", usage.shared, "saved, since models share content"),
        ("blobs", usage.blobs, f"{sizes.count_text(usage.blob_count, 'content')} on the disk"),
        ("elsewhere", usage.elsewhere, "of them also under a name outside of the store"),
        ("entries", usage.entries, "what model folders have besides"),
        ("partials", usage.partials, "on its way"),
        ("quarantine", usage.quarantine, "damaged content, set aside"),
        ("cache", usage.cache, "what engines keep between runs"),
        ("datasets", usage.datasets, f"{sizes.count_text(usage.dataset_count, 'dataset')}, what no model has"),
        ("spaces", usage.spaces, f"{sizes.count_text(usage.space_count, 'space')}, what no model has"),
        ("total", usage.total, "on the disk, everything in the home included"),
        ("reclaimable", usage.reclaimable, "freed by 'metalchat store gc'"),
    ]
    for name, count, words in rows:
        terminal.row(name.ljust(11), sizes.size_text(count).rjust(9), words)


@app.command
def gc(
    *,
    dry_run: bool = False,
    max_size: str | None = None,
    grace: Annotated[str, Parameter(show_default=True)] = "1h",
    partials: bool = False,
    json: bool = False,
) -> None:
    """Delete what nothing refers to: earlier states of models, content without a model, what pulls left behind.

    The same of datasets and spaces.

    Parameters
    ----------
    dry_run
        Only say what would be deleted.
    max_size
        Evict models, the longest unused ones first, until the rest has at most this size, such as 20GB. Models that
        are pinned, locked, or selected by a known metalchat.toml stay, and so do datasets and spaces.
    grace
        Leave alone what is younger than this, since a pull may be on its way.
    partials
        Delete what interrupted pulls would go on from, which stays for a week otherwise.
    json
        Print JSON.
    """
    limit = None if max_size is None else sizes.parse_size("--max-size", max_size)
    age = sizes.parse_duration("--grace", grace)
    done = store().gc(max_size=limit, grace=age, partials=partials, dry_run=dry_run)
    if json:
        terminal.json_line(
            {
                "dry_run": dry_run,
                "models": [entry.id for entry in done.models],
                "snapshots": done.snapshots,
                "blobs": done.blobs,
                "bytes": done.bytes,
                "too_large": done.too_large,
            }
        )
        return
    for entry in done.models:
        terminal.row("evict" if dry_run else "evicted", entry.id[:7], entry.spec.repository if entry.spec else "")
    verb = "would free" if dry_run else "freed"
    what = f"{sizes.count_text(done.blobs, 'content')}, {sizes.count_text(done.snapshots, 'earlier state')}"
    terminal.line(f"{verb} {sizes.size_text(done.bytes)}: {what}")
    if done.too_large:
        terminal.note(
            f"{sizes.size_text(done.too_large)} above the limit are in use: pinned, locked, selected or used just now",
            "yellow",
        )


@app.command
def why(content: str, /, *, json: bool = False) -> None:
    """Say what keeps a content: the models and earlier states that have it, and the manifests, locks and pins of these.

    Datasets and spaces are asked too.

    Parameters
    ----------
    content
        A SHA-256 or its unique beginning, or the path of a file.
    json
        Print JSON.
    """
    found = store().why(content)
    if json:
        terminal.json_line([_record(keeper) for keeper in found])
        return
    if not found:
        terminal.line("nothing: 'metalchat store gc' deletes it")
    for keeper in found:
        state = "now" if keeper.current else "earlier"
        terminal.row(keeper.id[:7], keeper.commit[:12], state, keeper.path, keeper.repository)
        for root in keeper.roots:
            terminal.row("", str(root))


@app.command
def pin(model: str, /) -> None:
    """Keep a model as it is: it is never evicted, and updated only with --yes.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    """
    entry = store().pin(model)
    if terminal.shows_hints():
        terminal.note(f"Pinned {entry.id[:7]}.", "dim")


@app.command
def unpin(model: str, /) -> None:
    """Take a pin away.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    """
    if not store().unpin(model) and terminal.shows_hints():
        terminal.note("It was not pinned.", "dim")


def _record(keeper: "Keeper") -> dict[str, Any]:
    return {
        "sha256": keeper.digest.hex,
        "size": keeper.size,
        "kind": keeper.kind,
        "id": keeper.id,
        "repository": keeper.repository,
        "commit": keeper.commit,
        "path": keeper.path,
        "current": keeper.current,
        "roots": [{"kind": root.kind, "path": None if root.path is None else str(root.path)} for root in keeper.roots],
    }
