"""What adapters add to linear maps: low-rank products, of which each text has its own adapter's or none."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
from metalchat_engine import InvalidModel

from metalchat_engine_mlx.adapters import Adapter

if TYPE_CHECKING:
    from metalchat_engine_mlx.device import Part


class Choice:
    """The adapter of the texts that are being computed, None for the model as it is."""

    def __init__(self) -> None:
        self.name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """y + (x A^T) B^T (arXiv 2106.09685), by adapter: A [rank, columns] and B [rows, rank], the scale in it."""

    choice: Choice
    terms: Mapping[str, tuple[mx.array, mx.array]]

    def of_rows(self, select: Callable[[mx.array], mx.array]) -> "Addition":
        """That of some of the outputs."""
        return dataclasses.replace(self, terms={name: (a, select(b)) for name, (a, b) in self.terms.items()})

    def of_columns(self, start: int, stop: int) -> "Addition":
        """That of some of the inputs."""
        return dataclasses.replace(self, terms={name: (a[:, start:stop], b) for name, (a, b) in self.terms.items()})


def joined(additions: Sequence[Addition | None], rows: Sequence[int]) -> Addition | None:
    """The addition to maps of the same inputs, one below the other, with so many `rows` each."""
    found = [addition for addition in additions if addition is not None]
    if not found:
        return None
    terms: dict[str, tuple[mx.array, mx.array]] = {}
    for name in sorted({name for addition in found for name in addition.terms}):
        pairs = [None if addition is None else addition.terms.get(name) for addition in additions]
        present = [pair for pair in pairs if pair is not None]
        rank = sum(a.shape[0] for a, _ in present)
        blocks: list[mx.array] = []
        before = 0
        for pair, count in zip(pairs, rows, strict=True):
            own = 0 if pair is None else pair[1].shape[1]
            middle = [] if pair is None else [pair[1]]
            dtype = present[0][1].dtype
            sides = mx.zeros((count, before), dtype), mx.zeros((count, rank - before - own), dtype)
            blocks.append(mx.concatenate([sides[0], *middle, sides[1]], axis=1))
            before += own
        terms[name] = (mx.concatenate([a for a, _ in present]), mx.concatenate(blocks))
    return Addition(choice=found[0].choice, terms=terms)


def load_additions(adapters: Sequence[Adapter]) -> tuple[dict[str, Addition], Choice]:
    """By module what the adapters add to it, in float32, and what chooses among them. Raises InvalidModel."""
    choice = Choice()
    terms: dict[str, dict[str, tuple[mx.array, mx.array]]] = {}
    for adapter in adapters:
        arrays = mx.load(str(adapter.file), format="safetensors")
        if not isinstance(arrays, dict) or not all(
            key in arrays for term in adapter.terms.values() for key in (term.a, term.b)
        ):
            raise InvalidModel(f"the adapter '{adapter.name}' was changed while it was being loaded")
        for module, term in adapter.terms.items():
            a, b = arrays[term.a].astype(mx.float32), arrays[term.b].astype(mx.float32) * term.scale
            terms.setdefault(module, {})[adapter.name] = (a.T, b.T) if term.transposed else (a, b)
    return {module: Addition(choice=choice, terms=found) for module, found in terms.items()}, choice


class Adapted:
    """A map with what the adapter of the text adds to it; `make` turns a matrix into a map."""

    def __init__(self, part: "Part", addition: Addition, make: "Callable[[mx.array], Part]") -> None:
        self._part, self._choice = part, addition.choice
        self._terms = {name: (make(a), make(b)) for name, (a, b) in addition.terms.items()}

    def __call__(self, x: mx.array) -> mx.array:
        y = self._part(x)
        name = self._choice.name
        if name is None or name not in self._terms:
            return y
        narrow, wide = self._terms[name]
        return y + wide(narrow(x))

    def arrays(self) -> list[mx.array]:
        return [
            *self._part.arrays(),
            *(array for pair in self._terms.values() for part in pair for array in part.arrays()),
        ]
