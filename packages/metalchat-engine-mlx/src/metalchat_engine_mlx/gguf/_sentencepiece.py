"""The merges of a SentencePiece BPE vocabulary, which knows only the scores of its pieces."""

from collections.abc import Sequence


def merges_from_scores(
    pieces: Sequence[str], scores: Sequence[float], mergeable: Sequence[bool]
) -> list[tuple[str, str]]:
    """Every way to make a mergeable piece out of two others, best first.

    SentencePiece joins the pair of neighbours whose piece has the highest score. Of pairs that make the same piece the
    one with the longer left half goes first, pieces of one score go in their own order: as in Hugging Face's converter,
    so that ids agree.
    """
    parts = {piece for piece, allowed in zip(pieces, mergeable, strict=True) if allowed}
    found: list[tuple[float, int, str, str]] = []
    for piece, score, allowed in zip(pieces, scores, mergeable, strict=True):
        if allowed:
            for cut in range(1, len(piece)):
                left = piece[:cut]
                if left in parts and piece[cut:] in parts:
                    found.append((-score, -cut, left, piece[cut:]))
    found.sort(key=lambda pair: pair[:2])
    return [(left, right) for _, _, left, right in found]
