"""The commands that datasets and spaces have in common."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from metalchat_cli import access, errors, progress, sizes, terminal, transfers
from metalchat_cli.home import home, store
from metalchat_cli.transfers import NO_PULL_CHOICES, NO_PUSH_CHOICES, PullChoices, PushChoices

if TYPE_CHECKING:
    from metalchat_store import Kept, KeptVerification, Repositories

SDKS = ("docker", "gradio", "static", "streamlit")


def build(kind: str) -> cyclopts.App:
    """The command `dataset` or `space`, with its sub-commands."""
    app = cyclopts.App(name=kind, help=f"Pull, list, verify, remove and push {kind}s.", help_format="plaintext")
    page = f"https://huggingface.co/{kind}s/ORGANISATION/NAME"

    def kept() -> "Repositories":
        from metalchat_store import Repositories

        return Repositories(home(), kind)

    @app.command(help=f"Fetch a {kind}, verify it, and keep it. A pull that was interrupted goes on where it stopped.")
    def pull(
        repository: Annotated[str, Parameter(help=page)],
        /,
        *,
        choices: Annotated[PullChoices, Parameter(name="*")] = NO_PULL_CHOICES,
    ) -> None:
        choices.check()
        if choices.to is not None:
            transfers.copy(kind, repository, choices.to, choices)
            return
        transfers.announce(repository)
        with access.granted() as granted, progress.shown() as shown:
            pulled = kept().pull(
                repository,
                files=choices.file,
                include=choices.include,
                exclude=choices.exclude,
                revision=choices.revision,
                authorize=granted.authorization,
                progress=shown,
            )
        terminal.line(f"Digest: {pulled.kept.id}")

    @app.command(name="list", help=f"List the {kind}s in the store.")
    def list_(
        *,
        abbrev: Annotated[bool, Parameter(help="Shorten ids to 7 characters, more where 7 are not unique.")] = False,
        json: Annotated[bool, Parameter(help="Print JSON.")] = False,
    ) -> None:
        found = kept().list()
        if json:
            terminal.json_line([_record(each) for each in found])
            return
        short = store().abbreviate([each.id for each in found]) if abbrev else {}
        for each in found:
            id = short.get(each.id, each.id)
            if each.damaged is not None:
                terminal.row(id, f"damaged: {each.damaged}")
            else:
                files = sizes.count_text(each.files, "file")
                terminal.row(id, files, sizes.size_text(each.size), each.repository or "", highlight=True)

    reference = Parameter(help=f"An id of a {kind}, a unique beginning of one, or a unique part of its name.")

    @app.command(help=f"Remove a {kind} from the store; works on damaged ones too.")
    def remove(name: Annotated[str, reference], /) -> None:
        removed = kept().remove(name)
        if terminal.shows_hints():
            terminal.note(f"Removed {removed.id[:7]}.", "dim")

    @app.command(help=f"Read every byte of a {kind} and compare it with the digests it was pulled with.")
    def verify(
        name: Annotated[str | None, reference] = None,
        /,
        *,
        every: Annotated[bool, Parameter(name="--all", help=f"Verify every {kind}.")] = False,
        repair: Annotated[bool, Parameter(help="Fetch what is damaged again, and nothing else.")] = False,
        json: Annotated[bool, Parameter(help="Print JSON.")] = False,
    ) -> int:
        if (name is None) != every:
            raise errors.Usage(f"name one {kind}, or --all")
        where = kept()
        names = [each.id for each in where.list()] if name is None else [name]
        mended: dict[str, tuple[str, ...]] = {}
        with progress.shown() as shown:
            if repair:
                with access.granted() as granted:
                    repairs = [where.repair(each, authorize=granted.authorization, progress=shown) for each in names]
                results = [done.verification for done in repairs]
                mended = {done.verification.kept.id: done.files for done in repairs}
            else:
                results = [where.verify(each, shown) for each in names]
        if json:
            terminal.json_line([_checked(each, mended.get(each.kept.id, ()) if repair else None) for each in results])
            return 0 if all(result.ok for result in results) else 6
        for result in results:
            for path in mended.get(result.kept.id, ()):
                terminal.row(result.kept.id[:7], path, "repaired")
            for file in result.files:
                if not file.ok:
                    terminal.row(result.kept.id[:7], file.path, file.reason or "damaged")
            terminal.row(result.kept.id, "ok" if result.ok else "damaged")
        return 0 if all(result.ok for result in results) else 6

    @app.command(help=f"Print the directory of a {kind}, once its files are known to be whole.")
    def path(name: Annotated[str, reference], /) -> None:
        terminal.line(str(kept().path(name)))

    source = Parameter(help="A file or a directory.")
    target = Parameter(help=page)

    if kind == "space":

        @app.command(name="push", help="Send files to a space and make one commit of them.")
        def push_space(
            path: Annotated[Path, source],
            repository: Annotated[str, target],
            /,
            *,
            choices: Annotated[PushChoices, Parameter(name="*")] = NO_PUSH_CHOICES,
            sdk: Annotated[str | None, Parameter(help=f"What a new space runs on: {', '.join(SDKS)}.")] = None,
        ) -> None:
            transfers.push(kind, path, repository, choices, sdk)

    else:

        @app.command(name="push", help=f"Send files to a {kind} and make one commit of them.")
        def push_files(
            path: Annotated[Path, source],
            repository: Annotated[str, target],
            /,
            *,
            choices: Annotated[PushChoices, Parameter(name="*")] = NO_PUSH_CHOICES,
        ) -> None:
            transfers.push(kind, path, repository, choices)

    return app


def _checked(result: "KeptVerification", repaired: tuple[str, ...] | None) -> dict[str, Any]:
    return {
        "id": result.kept.id,
        "ok": result.ok,
        **({} if repaired is None else {"repaired": list(repaired)}),
        "files": [{"path": file.path, "ok": file.ok, "reason": file.reason} for file in result.files],
    }


def _record(each: "Kept") -> dict[str, Any]:
    return {
        "id": each.id,
        "repository": each.repository,
        "path": str(each.path),
        "commit": each.commit,
        "files": each.files,
        "size": each.size,
        "damaged": each.damaged,
    }
