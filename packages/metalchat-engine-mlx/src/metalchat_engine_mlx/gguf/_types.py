"""The tensor and metadata types of GGUF: number, name, and size of a block."""

from typing import Final, NamedTuple


class GgmlType(NamedTuple):
    """One way ggml stores a tensor: `values` numbers in `nbytes` bytes."""

    name: str
    values: int
    nbytes: int


# ggml.h, enum ggml_type. The numbers left out are types that ggml removed.
GGML_TYPES: Final[dict[int, GgmlType]] = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 36),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: GgmlType("I8", 1, 1),
    25: GgmlType("I16", 1, 2),
    26: GgmlType("I32", 1, 4),
    27: GgmlType("I64", 1, 8),
    28: GgmlType("F64", 1, 8),
    29: GgmlType("IQ1_M", 256, 56),
    30: GgmlType("BF16", 1, 2),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
    41: GgmlType("Q1_0", 128, 18),
}

# What is kept packed: the bits of a value in MLX's affine layout, in groups of 32.
AFFINE_BITS: Final = {
    "Q4_0": 4,
    "Q4_1": 4,
    "Q5_0": 5,
    "Q5_1": 5,
    "Q8_0": 8,
    "IQ4_NL": 8,
    "IQ4_XS": 8,
    "Q4_K": 4,
    "Q5_K": 5,
}
# What is not: these have a scale for 16 values, which no affine layout of MLX has.
EXPANDED: Final = frozenset({"Q2_K", "Q3_K", "Q6_K"})
BLOCKS: Final = {kind.name: kind for kind in GGML_TYPES.values()}

STRING: Final = 8
ARRAY: Final = 9
BOOL: Final = 7

# gguf.h, enum gguf_type: the struct code of every number, little-endian.
NUMBER_CODES: Final[dict[int, str]] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    BOOL: "?",
    10: "Q",
    11: "q",
    12: "d",
}
