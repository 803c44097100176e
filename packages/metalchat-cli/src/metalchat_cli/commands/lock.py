"""`metalchat lock`: the exact content of the selected model, written beside the manifest that selects it."""

from metalchat_cli import errors, frozen, home, terminal


def lock(*, json: bool = False) -> None:
    """Pin the model that is checked out to its commit and the SHA-256 of every file, in metalchat.lock.

    Parameters
    ----------
    json
        Print JSON.
    """
    resolved = home.settings()
    if resolved.model is None:
        raise errors.NotCheckedOut("requested scope not checked out. Run 'metalchat checkout ID'")
    kept = home.store()
    with home.naming_the_pull(resolved.model):
        made = kept.lock(kept.find(resolved.model.id).id)
    manifest = frozen.manifest(resolved)
    path = manifest.with_name("metalchat.lock")
    changed = made.write(path)
    kept.register(manifest, made.spec.id)
    if json:
        terminal.json_line(
            {
                "path": str(path),
                "changed": changed,
                "id": made.spec.id,
                "repository": made.spec.repository,
                "commit": made.commit,
                "files": len(made.files),
                "bytes": made.size,
                "template_sha256": made.template,
                "tokenizer_sha256": made.tokenizer,
            }
        )
    else:
        terminal.row(made.spec.id[:7], made.spec.repository, made.commit[:12], "locked" if changed else "unchanged")
