"""Rotary position embeddings: the periods of every kind that checkpoints use, in plain Python.

The kinds are those of `rope_scaling` (or, from transformers 5 on, `rope_parameters`) in config.json: default, linear,
dynamic (NTK-aware), yarn (arXiv 2309.00071), longrope (arXiv 2402.13753) and llama3.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from metalchat_engine import UnsupportedModel

from metalchat_engine_mlx.fields import Fields

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


def read_rope(
    fields: Fields,
    *,
    head_dim: int,
    positions: int,
    theta: float = 10000.0,
    theta_key: str = "rope_theta",
    partial: float | None = None,
    partial_key: str = "partial_rotary_factor",
    layer_type: str | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Rope:
    """The rope of a config, in either of its two forms.

    `theta` is the family's own where the config does not say. With `partial`, its default, a share of each head may be
    rotated; else whole heads are. `layer_type` picks one of several ropes in `rope_parameters`. `aliases` are other
    names of kinds.

    Raises UnsupportedModel for a kind that this engine does not have, InvalidModel for values out of range.
    """
    name, table = _table(fields, layer_type)
    inner = Fields({f"{name}.{key}": value for key, value in table.items()}, fields.what)
    kind = table.get("rope_type", table.get("type", "default"))
    kind = (aliases or {}).get(str(kind), kind)
    if kind not in ("default", "linear", "dynamic", "yarn", "longrope", "llama3"):
        fields.unsupported(f"{name}.rope_type", kind, "default, linear, dynamic, yarn, longrope and llama3")
    share = inner.number(
        f"{name}.partial_rotary_factor", 1e-3, 1.0, fields.number(partial_key, 1e-3, 1.0, default=partial or 1.0)
    )
    if partial is None and share != 1.0:
        raise UnsupportedModel(f"'{fields.what}': 'partial_rotary_factor' is not 1; this family rotates whole heads")
    dims = int(head_dim * share)
    if dims < 2 or dims % 2:
        fields.refuse(partial_key, share, f"a share of {head_dim} that is even")

    def number(key: str, low: float, high: float, default: float | None = None) -> float:
        return inner.number(f"{name}.{key}", low, high, default)

    theta = fields.number(theta_key, 1.0, 1e12, default=theta)
    if theta_key not in fields.options:
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
            fields.refuse(theta_key, theta, "more than 1")
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
        rope["factors"] = tuple(_factors(inner, f"{name}.{key}", dims // 2) for key in ("short_factor", "long_factor"))
    return Rope(kind=cast(Kind, kind), dims=dims, theta=theta, original=original, positions=positions, **rope)


def _table(fields: Fields, layer_type: str | None) -> tuple[str, dict[str, Any]]:
    """The rope's table and its name: that of a kind of layer where there is one for each."""
    name = "rope_scaling" if fields.document.get("rope_parameters") is None else "rope_parameters"
    table: Any = fields.document.get(name)
    if isinstance(table, dict) and layer_type is not None and isinstance(table.get(layer_type), dict):
        name, table = f"{name}.{layer_type}", table[layer_type]
    if table is None:
        table = dict[str, Any]()
    if not isinstance(table, dict):
        fields.refuse(name, table, "an object")
    if any(isinstance(value, dict) for value in table.values()):
        fields.unsupported(name, table, "one rope for all layers of this family")
    return name, table


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _factors(inner: Fields, key: str, count: int) -> tuple[float, ...]:
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
