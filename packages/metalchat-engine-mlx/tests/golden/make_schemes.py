"""Writes schemes.json: matrices as AutoGPTQ and AutoAWQ pack them, FP8 as torch has it, and the values of all.

    pip install torch transformers; pip install --no-deps auto-gptq==0.7.1 autoawq==0.2.9 && python make_schemes.py

Only the modules that pack are imported, since the packages as a whole need a GPU. Arrays are base64.
"""

import base64
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROWS, COLUMNS, GROUP = 32, 64, 32


def module(package: str, path: str) -> Any:
    """One file of an installed package, without the package's `__init__`."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    file = Path(next(iter(found.submodule_search_locations))) / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    result = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(result)
    return result


def stub(name: str, **members: Any) -> None:
    found = types.ModuleType(name)
    vars(found).update(members)
    sys.modules[name] = found


def array(values: Any) -> dict[str, Any]:
    held = np.ascontiguousarray(values)
    text = base64.b64encode(held.tobytes()).decode()
    return {"dtype": str(held.dtype), "shape": list(held.shape), "data": text}


def quantised(bits: int, *, reorders: bool = False) -> tuple[Any, ...]:
    """A linear map of exactly quantised values, scales and zeros [rows, groups], and each column's group."""
    groups = torch.arange(COLUMNS) // GROUP
    if reorders:
        groups = groups[torch.randperm(COLUMNS)]
    # Powers of two, so that the packers' own roundings cannot miss.
    scales = 2.0 ** torch.randint(-8, -4, (ROWS, COLUMNS // GROUP)).float()
    zeros = torch.randint(1, 2**bits, scales.shape).float()
    quants = torch.randint(0, 2**bits, (ROWS, COLUMNS)).float()
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = scales[:, groups] * (quants - zeros[:, groups])
    return linear, scales, zeros, groups.int()


def main() -> None:
    torch.manual_seed(3)
    golden: dict[str, dict[str, Any]] = {}
    gptq = module("auto_gptq", "nn_modules/qlinear/qlinear_cuda.py")
    for name, bits, reorders in (("gptq 4", 4, False), ("gptq 8", 8, False), ("gptq 4 reordered", 4, True)):
        linear, scales, zeros, groups = quantised(bits, reorders=reorders)
        packed = gptq.QuantLinear(bits, GROUP, COLUMNS, ROWS, bias=False, weight_dtype=torch.float16)
        packed.pack(linear, scales.clone(), zeros.clone(), groups)
        parts = {part: array(getattr(packed, part)) for part in ("qweight", "qzeros", "scales", "g_idx")}
        golden[name] = {"values": array(linear.weight.data.half()), **parts}
    stub("awq")
    stub("awq.utils")
    stub("awq.utils.module", try_import=lambda name: (None, name))
    stub("awq.utils.utils", get_best_device=lambda: "cpu")
    stub("awq.utils.packing_utils", dequantize_gemm=None)
    stub("awq.modules")
    path = sys.modules.pop("awq")
    gemm = module("awq", "modules/linear/gemm.py")
    sys.modules["awq"] = path
    linear, scales, zeros, _ = quantised(4)
    packed = gemm.WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=scales.T.contiguous(), zeros=zeros.T.contiguous())
    parts = {part: array(getattr(packed, part)) for part in ("qweight", "qzeros", "scales")}
    golden["awq"] = {"values": array(linear.weight.data.half()), **parts}
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    golden["fp8"] = {"values": array(every.float())}
    file = Path(__file__).parent / "schemes.json"
    file.write_text(json.dumps(golden, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
