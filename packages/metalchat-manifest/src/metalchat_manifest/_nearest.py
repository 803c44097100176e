"""Which known name a misspelt one was meant to be."""

from collections.abc import Iterable, Mapping

# What other programs call our keys; no spelling distance would find these.
_OTHER_NAMES: Mapping[str, str] = {
    "top_p": "probability",
    "top_k": "k",
    "temp": "temperature",
    "repeat_penalty": "repetition_penalty",
    "max_tokens": "max_sequence_length",
    "context_length": "max_sequence_length",
    "max_position_embeddings": "max_sequence_length",
    "system_prompt": "system",
    "system_message": "system",
}
_CLOSE = 0.75  # of difflib's ratio: one wrong letter in four
_LONGEST = 80


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is another program's name for it, or close in spelling; None when all are far."""
    import difflib

    names = tuple(known)
    folded = name[:_LONGEST].casefold().replace("-", "_")
    if folded in names:
        return folded
    other = _OTHER_NAMES.get(folded)
    if other in names:
        return other
    close = difflib.get_close_matches(folded, names, n=1, cutoff=_CLOSE)
    return close[0] if close else None
