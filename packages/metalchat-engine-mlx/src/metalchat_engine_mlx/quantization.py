"""Which matrices of a checkpoint are quantised, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metalchat_engine import UnsupportedModel

from metalchat_engine_mlx.schemes import READS, Scheme, read_scheme

if TYPE_CHECKING:
    from metalchat_engine_mlx.fields import Fields

GROUP_SIZES = (32, 64, 128)
BITS = (2, 3, 4, 5, 6, 8)
# Modes of small floats that share a scale of 8 bits and have no bias, with their one group size and number of bits.
FLOATS = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Quantisation where `group_size` neighbours in a row share a scale and, if affine, a bias; each takes `bits` bits.

    `mode` is MLX's, "affine" or one of FLOATS.
    """

    group_size: int
    bits: int
    mode: str = "affine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The packing of every module: `modules` by name, where None keeps one plain, and `default` for the others.

    `scheme` is that of another tool, whose matrices tell themselves by their tensors.
    """

    default: Packing | None = None
    modules: Mapping[str, Packing | None] = field(default_factory=dict)
    scheme: Scheme | None = None

    def packing(self, module: str) -> Packing | None:
        return self.modules.get(module, self.default)

    @property
    def label(self) -> str | None:
        """For example "4-bit, group 64"; None for a plain model."""
        packings = {packing for packing in (self.default, *self.modules.values()) if packing is not None}
        if not packings:
            return None
        affine = [packing for packing in packings if packing.mode == "affine"]
        bits = sorted({packing.bits for packing in affine})
        groups = sorted({packing.group_size for packing in affine})
        label = [f"{'/'.join(map(str, bits))}-bit, group {'/'.join(map(str, groups))}"] if affine else []
        return "; ".join([*label, *sorted({packing.mode for packing in packings} - {"affine"})])


def read_quantization(fields: "Fields") -> Quantization:
    """The `quantization` table of a config.json, as MLX writes it, or the `quantization_config` of another tool.

    Raises UnsupportedModel for another method's quantisation, InvalidModel for values out of range.
    """
    document = fields.document
    table = document.get("quantization")
    if table is None:
        table = document.get("quantization_config")
        if table is None:
            return Quantization()
        if not isinstance(table, dict):
            raise UnsupportedModel(f"'{fields.what}': the weights are quantised by {str(table)[:40]!a}, {READS}")
        if table.get("quant_method") is not None:
            return Quantization(scheme=read_scheme(fields.what, table))
    if not isinstance(table, dict):
        fields.refuse("quantization", table, "an object")
    default = _packing(fields, "quantization", table)
    modules: dict[str, Packing | None] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            modules[name] = _packing(fields, f"quantization.{name}", {**_common(table), **value})
        elif value is False:
            modules[name] = None
        elif value is True:
            modules[name] = default
    return Quantization(default=default, modules=modules)


def _common(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: table[key] for key in ("group_size", "bits", "mode") if key in table}


def _packing(fields: "Fields", where: str, table: Mapping[str, Any]) -> Packing:
    mode = table.get("mode", "affine")
    group_size, bits = table.get("group_size"), table.get("bits")
    if isinstance(mode, str) and mode in FLOATS:
        size, width = FLOATS[mode]
        if (group_size, bits) != (size, width):
            fields.refuse(f"{where[:80]}.bits", bits, f"{width} in groups of {size} for {mode}")
        return Packing(group_size=size, bits=width, mode=mode)
    if mode != "affine":
        runs = f"affine, {', '.join(FLOATS)}"
        fields.unsupported(f"{where[:80]}.mode", str(mode), runs)
    if isinstance(group_size, bool) or group_size not in GROUP_SIZES:
        fields.refuse(f"{where[:80]}.group_size", group_size, "32, 64 or 128")
    if isinstance(bits, bool) or bits not in BITS:
        fields.refuse(f"{where[:80]}.bits", bits, "2, 3, 4, 5, 6 or 8")
    return Packing(group_size=group_size, bits=bits)
