"""`metalchat model describe` and `search`: what models there are, and what one would cost, before it is fetched."""

from typing import TYPE_CHECKING, Any

from metalchat_cli import access, errors, links, terminal
from metalchat_cli.commands.model import record
from metalchat_cli.home import store
from metalchat_cli.session import Whole

if TYPE_CHECKING:
    from metalchat_engine import Inspection


def describe(model: str, /, *, context: Whole = None, revision: str | None = None, json: bool = False) -> None:
    """Say what a model is and needs: one in the store, or one elsewhere from some kilobytes of its headers.

    Parameters
    ----------
    model
        A model in the store, or a repository's URL.
    context
        Predict the memory for this many tokens of context.
    revision
        A branch, tag or commit of the repository.
    json
        Print JSON.
    """
    if context is not None and context < 1:
        raise errors.Usage(f"--context is {context}, expected an integer from 1")
    remote = ":" in model
    if revision is not None and not remote:
        raise errors.Usage("--revision is for a repository's URL; a model in the store has one state")
    described = _describe_remote(model, context, revision) if remote else _describe_kept(model, context)
    longest = described.get("context_length")
    if context is not None and longest is not None and context > longest:
        raise errors.Usage(f"--context is {context}, this model has at most {longest}")
    if json:
        terminal.json_line(described)
        return
    width = max(len(key) for key in described)
    for key, value in described.items():
        if value is not None:
            terminal.row(key.replace("_", " ").ljust(width), _text(value))


def search(query: str, /, *, limit: Whole = None, hub: str | None = None, json: bool = False) -> None:
    """Find models on a hub: address, downloads, licence, whether it is gated, and when it was updated.

    Parameters
    ----------
    query
        A part of the name.
    limit
        At most this many, up to 100; 20 unless told otherwise.
    hub
        Another hub than $HF_ENDPOINT or https://huggingface.co.
    json
        Print JSON.
    """
    kept = store()
    with access.granted() as granted:
        hits = kept.search(query, limit=20 if limit is None else limit, hub=hub, authorize=granted.authorization)
    if json:
        terminal.json_line(
            [
                {
                    "repository": hit.repository,
                    "downloads": hit.downloads,
                    "licence": hit.license,
                    "gated": hit.gated,
                    "updated": hit.updated,
                }
                for hit in hits
            ]
        )
        return
    for hit in hits:
        downloads = "-" if hit.downloads is None else f"{hit.downloads:,}"
        gated = {True: "gated", False: "open", None: "-"}[hit.gated]
        terminal.row(hit.repository, downloads, hit.license or "-", gated, (hit.updated or "-")[:10])
    if not hits and terminal.shows_hints():
        terminal.note("No model has that in its name.", "dim")


def _describe_remote(repository: str, context: int | None, revision: str | None) -> dict[str, Any]:
    kept = store()
    entry = kept.lookup(repository)
    if entry is not None and revision is None:
        return _describe_kept(entry.id, context)
    if links.is_needed(repository):
        kept = store(links.read(repository, False, None, ask=True))
    with access.granted() as granted:
        found = kept.describe(repository, revision=revision, authorize=granted.authorization, context=context)
    return {
        "repository": found.repository,
        "commit": found.commit,
        "licence": found.license,
        "gated": found.gated,
        "accessible": found.accessible,
        "refusal": found.refusal,
        "architecture": found.architecture,
        "parameters": found.parameters,
        "dtype": found.dtype,
        "quantization": found.quantization,
        "context_length": found.context_length,
        "size_bytes": found.size,
        "download_bytes": found.download,
        "weights_bytes": found.weights,
        "cache_bytes_per_token": found.cache_per_token,
        "template_sha256": found.template,
        "context": found.context,
        "memory_bytes": found.memory,
        "machine_bytes": found.machine,
        "fits": found.fits,
        "fetched_bytes": found.fetched,
        "files": list(found.files),
    }


def _describe_kept(reference: str, context: int | None) -> dict[str, Any]:
    from dataclasses import replace

    from metalchat_engine import SupportsMemoryEstimate

    from metalchat_cli.session import Choices, engine_for, settings

    entry = store().find(reference)
    described = record(entry)
    if entry.damaged is not None:
        return described
    if entry.commit is not None:
        described["template_sha256"] = store().lock(entry.id).template
    engine, source, engine_settings = engine_for(settings(Choices(model=entry.id)))
    inspection: Inspection = engine.inspect(source)
    described |= {
        "loadable": inspection.loadable,
        "reason": inspection.reason,
        "parameters": inspection.parameters,
        "dtype": inspection.dtype,
        "quantization": inspection.quantization,
        "context_length": inspection.context_length,
        "weights_bytes": inspection.weights_bytes,
        "cache_bytes_per_token": inspection.cache_bytes_per_token,
    }
    if inspection.loadable and isinstance(engine, SupportsMemoryEstimate):
        if context is not None:
            longest = inspection.context_length
            engine_settings = replace(engine_settings, context_length=min(context, longest) if longest else context)
        found = engine.estimate(source, engine_settings)
        described |= {
            "weights_bytes": found.weights,
            "context": found.context_length,
            "memory_bytes": found.total,
            "machine_bytes": found.available,
            "fits": found.fits,
            "largest_context": found.largest_context,
            "weights": found.reason,
        }
    elif context is not None and inspection.weights_bytes is not None and inspection.cache_bytes_per_token is not None:
        memory = inspection.weights_bytes + context * inspection.cache_bytes_per_token
        described |= {"context": context, "memory_bytes": memory}
    return described


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
