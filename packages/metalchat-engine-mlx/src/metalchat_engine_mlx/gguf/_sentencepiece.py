"""The merges of a SentencePiece BPE vocabulary, which knows only the scores of its pieces."""

from collections.abc import Sequence
from itertools import groupby


def merges_from_scores(pieces: Sequence[str], scores: Sequence[float], mergeable: Sequence[bool]) -> list[str]:
    """Every way to make a mergeable piece out of two others, "left right", best first.

    SentencePiece joins the pair of neighbours whose piece has the highest score. Of one piece, or of pieces of one
    score, the pair with the longer left half goes first, then that with the longer right half: as in Hugging Face's
    converter, so that ids agree. A piece with a space in it cannot come about, since the text has none left.
    """
    usable = [index for index, allowed in enumerate(mergeable) if allowed and " " not in pieces[index]]
    parts = {pieces[index] for index in usable}
    usable.sort(key=lambda index: -scores[index])
    merges: list[str] = []
    for _, tied in groupby(usable, key=scores.__getitem__):
        before, count = len(merges), 0
        for index in tied:
            piece = pieces[index]
            count += 1
            for cut in range(len(piece) - 1, 0, -1):
                if (left := piece[:cut]) in parts and (right := piece[cut:]) in parts:
                    merges.append(f"{left} {right}")
        if count > 1:
            merges[before:] = sorted(merges[before:], key=_halves)
    return merges


def _halves(merge: str) -> tuple[int, int]:
    left, _, right = merge.partition(" ")
    return -len(left), -len(right)
