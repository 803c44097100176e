"""Rotary position embeddings: the periods of every kind that Llama checkpoints use, in plain Python.

The kinds are those of `rope_scaling` (or, from transformers 5 on, `rope_parameters`) in config.json: default, linear,
dynamic (NTK-aware), yarn (arXiv 2309.00071), longrope (arXiv 2402.13753) and llama3.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from metalchat_engine import UnsupportedModel

if TYPE_CHECKING:
    from metalchat_engine_mlx.config import Fields

Kind = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
Regime = int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """`dims` dimensions rotate in `dims / 2` pairs; pair i turns by `position / periods[i]` radians.

    `original` is the length of context before scaling, `factors` the divisor of each pair's frequency: those of a
    longrope for short and for long contexts, or one row for a file that spells its factors out (GGUF).
    """

    kind: Kind = "default"
    dims: int
    theta: float = 10000.0
    factor: float = 1.0
    original: int
    positions: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    factors: tuple[tuple[float, ...], ...] = ()

    def context_length(self, positions: int) -> int:
        if self.kind in ("linear", "dynamic"):
            return int(positions * self.factor)
        return max(positions, int(self.original * self.factor)) if self.kind == "yarn" else positions

    def regime(self, length: int) -> Regime:
        """Tokens rotated under different regimes do not mix: a prefix cached under one serves only that one.

        None for the kinds that rotate alike at every length; otherwise it says which periods `length` tokens get.
        """
        if self.kind == "dynamic":
            return max(length, self.positions)
        if self.kind == "longrope":
            return int(length > self.original)
        return None

    def periods(self, regime: Regime = None) -> list[float]:
        """The period of each pair, divided by 2 pi: the inverse of its frequency, in tokens per radian."""
        half = self.dims // 2
        theta = self.theta
        if self.kind == "dynamic":
            stretch = self.factor * (regime or self.positions) / self.positions - (self.factor - 1)
            theta *= stretch ** (self.dims / (self.dims - 2)) if self.dims > 2 else 1.0
        periods = [theta ** (2 * i / self.dims) for i in range(half)]
        if self.kind == "linear":
            return [period * self.factor for period in periods]
        if self.kind == "llama3":
            return [self._llama3(period) for period in periods]
        if self.kind == "yarn":
            low, high = self._yarn_range()
            return [self._yarn(period, i, low, high) for i, period in enumerate(periods)]
        if self.factors:
            row = self.factors[min(regime or 0, len(self.factors) - 1)]
            return [period * scale for period, scale in zip(periods, row, strict=True)]
        return periods

    def _llama3(self, period: float) -> float:
        wavelength = 2 * math.pi * period
        if wavelength < self.original / self.high_freq_factor:
            return period
        if wavelength > self.original / self.low_freq_factor:
            return period * self.factor
        smooth = (self.original / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return period / ((1 - smooth) / self.factor + smooth)

    def _yarn(self, period: float, pair: int, low: float, high: float) -> float:
        ramp = min(max((pair - low) / (high - low), 0.0), 1.0)
        return period / (ramp / self.factor + (1 - ramp))

    def _yarn_range(self) -> tuple[float, float]:
        def pair_of(rotations: float) -> float:
            return self.dims * math.log(self.original / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dims - 1)
        return low, high if high != low else high + 0.001


def read_rope(fields: "Fields", *, head_dim: int, positions: int) -> Rope:
    """The rope of a config, in either of its two forms.

    Raises UnsupportedModel for a kind that Llama does not use, InvalidModel for values out of range.
    """
    from metalchat_engine_mlx.config import Fields, shown

    name = "rope_scaling" if fields.document.get("rope_parameters") is None else "rope_parameters"
    table: Any = fields.document.get(name)
    if table is None:
        table = dict[str, Any]()
    if not isinstance(table, dict):
        fields.refuse(name, table, "an object")
    inner = Fields({f"{name}.{key}": value for key, value in table.items()}, fields.what)
    kind = table.get("rope_type", table.get("type", "default"))
    if kind not in ("default", "linear", "dynamic", "yarn", "longrope", "llama3"):
        raise UnsupportedModel(
            f"'{fields.what}': '{name}.rope_type' is {shown(kind)}, this engine runs default, linear, dynamic, yarn,"
            " longrope and llama3"
        )
    if table.get("partial_rotary_factor", fields.document.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise UnsupportedModel(f"'{fields.what}': 'partial_rotary_factor' is not 1; a Llama rotates whole heads")

    def number(key: str, low: float, high: float, default: float | None = None) -> float:
        return inner.number(f"{name}.{key}", low, high, default)

    theta = fields.number("rope_theta", 1.0, 1e12, default=10000.0)
    if "rope_theta" not in fields.options:
        theta = number("rope_theta", 1.0, 1e12, default=theta)
    original = positions
    if kind in ("yarn", "longrope", "llama3"):
        original = fields.integer(
            "original_max_position_embeddings",
            1,
            2**26,
            default=inner.integer(f"{name}.original_max_position_embeddings", 1, 2**26, default=positions),
        )
    stretched = max(positions / original, 1.0)
    rope: dict[str, Any] = {}
    if kind in ("linear", "dynamic", "llama3"):
        rope["factor"] = number("factor", 1.0, 1024.0)
    elif kind in ("yarn", "longrope"):
        rope["factor"] = number("factor", 1.0, 1024.0, default=stretched)
    if kind == "llama3":
        rope["low_freq_factor"] = number("low_freq_factor", 1e-3, 1e3)
        rope["high_freq_factor"] = number("high_freq_factor", 1e-3, 1e3)
        if rope["high_freq_factor"] <= rope["low_freq_factor"]:
            inner.refuse(f"{name}.high_freq_factor", rope["high_freq_factor"], "more than 'low_freq_factor'")
    elif kind == "yarn":
        if theta <= 1.0:
            fields.refuse("rope_theta", theta, "more than 1")
        rope["beta_fast"] = number("beta_fast", 1e-3, 1e6, default=32.0)
        rope["beta_slow"] = number("beta_slow", 1e-3, 1e6, default=1.0)
        rope["truncate"] = inner.flag(f"{name}.truncate", True)
        mscale, all_dim = number("mscale", 0.0, 100.0, default=0.0), number("mscale_all_dim", 0.0, 100.0, default=0.0)
        derived = _magnitude(rope["factor"], 1.0)
        if mscale and all_dim:
            derived = _magnitude(rope["factor"], mscale) / _magnitude(rope["factor"], all_dim)
        rope["attention_factor"] = number("attention_factor", 1e-3, 100.0, default=derived)
    elif kind == "longrope":
        derived = 1.0
        if rope["factor"] > 1.0 and original > 1:
            derived = math.sqrt(1 + math.log(rope["factor"]) / math.log(original))
        rope["attention_factor"] = number("attention_factor", 1e-3, 100.0, default=derived)
        rope["factors"] = tuple(
            _factors(inner, f"{name}.{key}", head_dim // 2) for key in ("short_factor", "long_factor")
        )
    return Rope(kind=cast(Kind, kind), dims=head_dim, theta=theta, original=original, positions=positions, **rope)


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _factors(inner: "Fields", key: str, count: int) -> tuple[float, ...]:
    value = inner.document.get(key)
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(
            isinstance(item, int | float) and not isinstance(item, bool) and 1e-6 <= item <= 1e6 for item in value
        )
    ):
        inner.refuse(key, value, f"a list of {count} numbers")
    return tuple(float(item) for item in value)
