"""Writes gguf_blocks.json: blocks of every quantised type, and the values that llama.cpp and its Python package give.

    pip install gguf==0.19.0 xllamacpp==2026.10.11549 && python make_gguf_blocks.py

The blocks hold random bits, so every scale, quant and spare bit takes all its values; their float16 scales are random
numbers of every size below 64, of both signs. Values are float32, base64.
"""

import base64
import ctypes
import json
from pathlib import Path

import numpy as np
import xllamacpp.xllamacpp
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

BLOCKS = 3
# Where the float16 numbers of a block lie.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}


def main() -> None:
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    random = np.random.default_rng(11)
    golden: dict[str, dict[str, str]] = {}
    for name, places in HALVES.items():
        values, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        count = BLOCKS if values == 256 else 4 * BLOCKS
        blocks = random.integers(0, 256, (count, nbytes), np.uint8)
        for place in places:
            scales = (2.0 ** random.uniform(-20, 6, count) * random.choice([-1, 1], count)).astype("<f2")
            blocks[:, place : place + 2] = scales[:, None].view(np.uint8)
        found = np.ascontiguousarray(dequantize(blocks, GGMLQuantizationType[name]), np.float32).reshape(-1)
        theirs = np.empty_like(found)
        row = getattr(library, f"dequantize_row_{name.lower() if '_K' not in name else name[:2].lower() + '_K'}")
        row(ctypes.c_void_p(blocks.ctypes.data), ctypes.c_void_p(theirs.ctypes.data), ctypes.c_int64(found.size))
        np.testing.assert_array_equal(found, theirs, err_msg=name)
        golden[name] = {
            "blocks": base64.b64encode(blocks.tobytes()).decode(),
            "values": base64.b64encode(theirs.astype("<f4").tobytes()).decode(),
        }
    path = Path(__file__).parent / "gguf_blocks.json"
    path.write_text(json.dumps(golden, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
