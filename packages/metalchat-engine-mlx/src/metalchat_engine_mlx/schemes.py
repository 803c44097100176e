"""Other tools' quantisation of safetensors weights: what their configs say, and which tensors a matrix is stored as."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.fields import Fields

GROUP_SIZES: Final = (128, 64, 32)
NUMBERS: Final = ("F16", "BF16", "F32")
READS: Final = "this engine reads those of MLX, GGUF, GPTQ, AWQ and FP8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor of a quantised matrix: the shapes and dtypes that it may have."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """GPTQ, and AWQ's GEMM layout (`is_awq`): value = scale * (quant - zero), in groups of the inputs.

    `group_size` None is one group for all inputs. `offset` is what the stored zeros lack. With `reorders`, a tensor
    `g_idx` gives each input its group; such a matrix is not kept packed.
    """

    marker: ClassVar[str] = "qweight"
    ignored: ClassVar[tuple[str, ...]] = ()
    bits: int
    group_size: int | None
    offset: int = 0
    reorders: bool = False
    is_awq: bool = False

    @property
    def expanded(self) -> str | None:
        return "GPTQ as float16" if self.reorders else None

    def group(self, columns: int) -> int:
        return self.group_size or columns

    def packed_group(self, columns: int) -> int | None:
        """MLX's group size for so many inputs, None where the matrix is not kept packed."""
        if self.reorders:
            return None
        return next((size for size in GROUP_SIZES if self.group(columns) % size == 0), None)

    def tensors(self, module: str, rows: int, columns: int, present: Collection[str]) -> dict[str, Stored]:
        """Raises InvalidModel for a shape that cannot be quantised so."""
        words, group = 32 // self.bits, self.group(columns)
        if columns % group or columns % 32 or rows % words:
            raise InvalidModel(f"'{module}' of {rows} x {columns} cannot be quantised in {self.bits} bits by {group}")
        if not self.reorders and self.packed_group(columns) is None:
            raise UnsupportedModel(f"'{module}' is quantised in groups of {group}, expected a multiple of 32")
        groups = columns // group
        weight = (columns, rows // words) if self.is_awq else (columns // words, rows)
        found = {
            "qweight": Stored(shapes=(weight,), dtypes=("I32",)),
            "qzeros": Stored(shapes=((groups, rows // words),), dtypes=("I32",)),
            "scales": Stored(shapes=((groups, rows),), dtypes=NUMBERS),
        }
        if not self.is_awq and (self.reorders or f"{module}.g_idx" in present):
            found["g_idx"] = Stored(shapes=((columns,),), dtypes=("I32",))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Floats:
    """FP8, e4m3: value = weight * scale, with a scale for the matrix or each of its rows, or for each `block`.

    `name` is that of the scales. Scales of activations and of a cache are passed over: neither is quantised here.
    """

    marker: ClassVar[str] = "weight"
    ignored: ClassVar[tuple[str, ...]] = (".input_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".q_scale")
    name: str
    block: tuple[int, int] | None = None

    @property
    def expanded(self) -> str:
        return "FP8 as bfloat16"

    def packed_group(self, columns: int) -> None:
        return None

    def tensors(self, module: str, rows: int, columns: int, present: Collection[str]) -> dict[str, Stored]:
        shapes: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1), (rows,), (rows, 1))
        if self.block is not None:
            shapes = ((-(-rows // self.block[0]), -(-columns // self.block[1])),)
        return {
            "weight": Stored(shapes=((rows, columns),), dtypes=("F8_E4M3",)),
            self.name: Stored(shapes=shapes, dtypes=NUMBERS),
        }


Scheme = Integers | Floats


def read_scheme(what: str, table: Mapping[str, Any]) -> Scheme:
    """The scheme of a `quantization_config` that names a `quant_method`.

    Raises UnsupportedModel for a method that is not read, InvalidModel for values out of range.
    """
    method, fields = table["quant_method"], Fields(table, what)
    if method == "gptq":
        return _gptq(fields)
    if method == "awq":
        return _awq(fields)
    if method == "fp8":
        fields.choice("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
        block = _block(fields, "weight_block_size", table.get("weight_block_size"))
        return Floats(name="weight_scale" if block is None else "weight_scale_inv", block=block)
    if method == "fbgemm_fp8":
        return Floats(name="weight_scale")
    if method == "compressed-tensors":
        return _compressed(fields)
    raise UnsupportedModel(f"'{what}': the weights are quantised by {str(method)[:40]!a}, {READS}")


def _gptq(fields: Fields) -> Integers:
    form = fields.choice("checkpoint_format", ("gptq", "gptq_v2"), "gptq")
    fields.only("is_marlin_format", False)
    if fields.document.get("dynamic"):
        fields.unsupported("dynamic", fields.document["dynamic"], "one way of quantising for all layers")
    bits = fields.document.get("bits")
    if isinstance(bits, bool) or bits not in (2, 4, 8):
        fields.unsupported("bits", bits, "2, 4 and 8 bits of GPTQ")
    group_size = _group_size(fields)
    reorders = fields.flag("desc_act", False) and group_size is not None
    return Integers(bits=bits, group_size=group_size, offset=int(form == "gptq"), reorders=reorders)


def _awq(fields: Fields) -> Integers:
    version = fields.document.get("version", "gemm")
    if str(version).lower() != "gemm":
        fields.unsupported("version", version, "the version gemm of AWQ")
    fields.only("bits", 4)
    fields.only("zero_point", True)
    return Integers(bits=4, group_size=_group_size(fields), is_awq=True)


def _group_size(fields: Fields) -> int | None:
    value = fields.document.get("group_size")
    return None if value == -1 and not isinstance(value, bool) else fields.integer("group_size", 1, 2**20)


def _compressed(fields: Fields) -> Floats:
    fields.choice("format", ("float-quantized",), "float-quantized")
    sparsity = fields.document.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        fields.unsupported("sparsity_config", sparsity, "dense weights")
    if fields.document.get("transform_config"):
        fields.unsupported("transform_config", fields.document["transform_config"], "weights without transforms")
    groups = fields.document.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        fields.unsupported("config_groups", groups, "one group of layers")
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        fields.refuse("config_groups", groups, "one with 'weights'")
    inner = Fields(weights, fields.what)
    inner.only("num_bits", 8)
    inner.only("type", "float")
    strategy = inner.choice("strategy", ("tensor", "channel", "block"), "tensor")
    block = _block(inner, "block_structure", weights.get("block_structure")) if strategy == "block" else None
    if strategy == "block" and block is None:
        inner.refuse("block_structure", None, "two whole numbers")
    return Floats(name="weight_scale", block=block)


def _block(fields: Fields, key: str, value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 2**16 for size in value)
    ):
        fields.refuse(key, value, "two whole numbers")
    return value[0], value[1]
