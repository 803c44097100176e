"""The commands of `metalchat model` that bring models from one state to another."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalchat_cli import access, errors, progress, sizes, terminal
from metalchat_cli.home import store

if TYPE_CHECKING:
    from metalchat_store import Adoption, Pulled, UpdatePlan


def outdated(*models: str, json: bool = False) -> int:
    """Ask the sources of models what they have now, and list what is not the newest.

    Parameters
    ----------
    models
        Ids, unique beginnings of them, or unique parts of repositories' names; all models otherwise.
    json
        Print JSON, of all models.
    """
    with access.granted() as granted:
        found = store().outdated(models, authorize=granted.authorization)
    if json:
        terminal.json_line(
            [
                {
                    "id": each.entry.id,
                    "repository": each.entry.spec.repository if each.entry.spec else None,
                    "commit": each.entry.commit,
                    "available": each.commit,
                    "outdated": each.outdated,
                    "error": None if each.error is None else _reason(each.error),
                }
                for each in found
            ]
        )
    else:
        for each in found:
            repository = each.entry.spec.repository if each.entry.spec else ""
            if each.outdated:
                terminal.row(each.entry.id[:7], (each.entry.commit or "")[:12], (each.commit or "")[:12], repository)
            elif each.error is not None:
                text = terminal.safe_name(f"{repository}: {_reason(each.error)}")
                terminal.note(f"warning: {each.entry.id[:7]} {text}", "yellow")
    failed = [each.error for each in found if each.error is not None]
    return failed[0].exit_code if failed else 0


def update(model: str, /, *, dry_run: bool = False, yes: bool = False, json: bool = False) -> None:
    """Bring a model to what its source has now. 'metalchat model rollback' goes back, until 'metalchat store gc'.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    dry_run
        Only say what would change, and how many bytes that is.
    yes
        Update even what is pinned or locked.
    json
        Print JSON.
    """
    kept = store()
    if dry_run:
        with access.granted() as granted:
            plan = kept.plan_update(model, authorize=granted.authorization)
        _show_plan(plan, json)
        return
    with access.granted() as granted, progress.shown() as shown:
        updated = kept.update(model, authorize=granted.authorization, progress=shown, consent=yes)
    if json:
        terminal.json_line(
            {
                "id": updated.entry.id,
                "commit": updated.entry.commit,
                "already": updated.already,
                "fetched_bytes": updated.fetched_bytes,
                "notices": list(updated.notices),
            }
        )
    else:
        tell(updated)


def tell(pulled: "Pulled") -> None:
    """Print what a pull has to say, and the id."""
    for notice in pulled.notices:
        terminal.note(notice, "yellow")
    if pulled.adopted is not None and terminal.shows_hints():
        terminal.note(f"The files were taken in by {pulled.adopted}.", "dim")
    terminal.line(f"Digest: {pulled.entry.id}")


def rollback(model: str, commit: str | None = None, /) -> None:
    """Go back to the state before the last update; takes no network.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    commit
        Another state that the store still has, or the unique beginning of its commit.
    """
    entry = store().rollback(model, commit)
    terminal.row(entry.id, (entry.commit or "")[:12])


def adopt(*directories: Path, dry_run: bool = False, copy: bool = False, json: bool = False) -> int:
    """Take in models that other tools have, without a second copy and without a change to their files.

    Parameters
    ----------
    directories
        Caches or plain folders; otherwise those of Hugging Face libraries, Ollama and LM Studio.
    dry_run
        Only say what would be taken in, how, and what that saves.
    copy
        Copy what can be neither cloned nor linked.
    json
        Print JSON.
    """
    from metalchat_store import Refused

    kept = store()
    found = kept.adoptable(directories)
    done = found
    if not dry_run:
        with progress.shown() as shown:
            wanted = [each for each in found if each.how != "copy" or copy]
            taken = dict(zip(map(id, wanted), kept.adopt(wanted, copies=copy, progress=shown), strict=True))
        done = tuple(taken.get(id(each), each) for each in found)
    if json:
        terminal.json_line([_adoption(each, dry_run, copy) for each in done])
    else:
        for each in done:
            state, detail = _state(each, dry_run, copy)
            terminal.row(state, each.found.repository, detail)
        saved = sum(each.saved for each in done)
        if saved:
            terminal.line(f"{'would save' if dry_run else 'saved'} {sizes.size_text(saved)}")
    failed = [
        after.error
        for before, after in zip(found, done, strict=True)
        if before.error is None and after.error is not None
    ]
    if directories and not dry_run and not any(each.entry for each in done):
        return (failed[0] if failed else Refused).exit_code
    return failed[0].exit_code if failed else 0


def _state(adoption: "Adoption", dry_run: bool, copies: bool) -> tuple[str, str]:
    if adoption.error is not None:
        return "not taken", _reason(adoption.error)
    if adoption.already:
        return "already", "it is in the store"
    if adoption.how == "copy" and not copies:
        return "not taken", "it lies on another disk: --copy copies it"
    size = sizes.size_text(adoption.found.size)
    if dry_run:
        return "would take", f"{adoption.how}, {size}"
    return (adoption.entry.id[:7] if adoption.entry else ""), f"{adoption.how or 'nothing new'}, {size}"


def _adoption(adoption: "Adoption", dry_run: bool, copies: bool) -> dict[str, Any]:
    return {
        "tool": adoption.found.tool,
        "repository": adoption.found.repository,
        "place": str(adoption.found.place),
        "commit": adoption.found.commit,
        "bytes": adoption.found.size,
        "how": adoption.how,
        "saved": adoption.saved,
        "already": adoption.already,
        "id": adoption.entry.id if adoption.entry else None,
        "state": _state(adoption, dry_run, copies)[0],
        "error": None if adoption.error is None else _reason(adoption.error),
    }


def _reason(error: Exception) -> str:
    return errors.describe(error).removeprefix("metalchat: error: ")


def _show_plan(plan: "UpdatePlan", json: bool) -> None:
    if json:
        from dataclasses import asdict

        record = {
            "id": plan.entry.id,
            "before": plan.before,
            "after": plan.after,
            "up_to_date": plan.up_to_date,
            "changes": [asdict(change) for change in plan.changes],
            "download_bytes": plan.download_bytes,
            "template": plan.template,
            "held": plan.held,
        }
        terminal.json_line(record)
        return
    terminal.row(plan.entry.id, (plan.before or "")[:12], "up to date" if plan.up_to_date else plan.after[:12])
    for change in plan.changes:
        before, after = sizes.size_text(change.before), sizes.size_text(change.after)
        detail = {"added": after, "removed": before, "changed": f"{before} → {after}"}[change.what]
        terminal.row(change.kind.ljust(9), change.what.ljust(7), change.path, detail)
    if not plan.up_to_date:
        terminal.line(f"to fetch: {sizes.size_text(plan.download_bytes)}")
    if plan.template is not None:
        terminal.note(plan.template, "yellow")
    if plan.held is not None and not plan.up_to_date:
        terminal.note(f"the update needs --yes, since {plan.held}", "yellow")
