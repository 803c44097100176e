"""Which BLAS there is for a CPU, and whether weights are turned to float32 for it; told without importing NumPy."""

import dataclasses
import re
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from metalchat_engine import EngineSettings, UnsupportedRequest

from metalchat_engine_mlx.memory import Demand, size

_FAST = ("openblas", "mkl", "accelerate", "blis", "armpl", "nvpl")
_BUILT = re.compile(r'"blas":\s*\{[^}]*?"name":\s*"([^"]*)"[^}]*?"version":\s*"([^"]*)"')


def installed_mkl() -> tuple[Path, str] | None:
    """The library of the distribution `mkl`, and what to call it."""
    try:
        distribution = metadata.distribution("mkl")
    except metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name.startswith("libmkl_rt.") and ".so" in file.name:
            path = Path(str(file.locate())).resolve()
            return (path, f"MKL {distribution.version}") if path.is_file() else None
    return None


@cache
def numpy_library() -> tuple[str, bool]:
    """What NumPy was built with, and whether that uses the widest registers."""
    spec = find_spec("numpy")
    try:
        text = Path(str(spec and spec.origin)).with_name("__config__.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = _BUILT.search(text)
    name, version = found.groups() if found else ("", "")
    said = name.removeprefix("scipy-").replace("openblas", "OpenBLAS") or "own products"
    return f"NumPy's {said} {version}".rstrip(), any(each in name.lower() for each in _FAST)


def fast_library(named: Path | None) -> str | None:
    """The name of what multiplies in float32, None where that is slow."""
    if named is not None:
        return str(named)
    found = installed_mkl()
    if found is not None:
        return found[1]
    name, is_fast = numpy_library()
    return name if is_fast else None


def with_weights(demand: Demand, settings: EngineSettings, available: int | None) -> tuple[Demand, str | None]:
    """The demand with the weights as they are best kept here, and why; None where there is nothing to choose.

    Float32 takes the place of packed numbers, and of those of 16 bits, where a library multiplies it fast, at most
    half of the available memory goes into it, and the context that is asked for fits besides.

    Raises UnsupportedRequest for settings that mean a CPU where there is a GPU.
    """
    own = demand.own
    if not demand.on_cpu:
        for key, value in (("weights", own.weights), ("blas", own.blas)):
            if value is not None:
                raise UnsupportedRequest(
                    f"engine setting '{key}' is for a CPU; unset it, or set device to cpu", option=key
                )
        return demand, None
    longest = demand.checkpoint.config.context_length
    draft = None if demand.draft is None else dataclasses.replace(demand.draft, wide=True)
    wide = dataclasses.replace(demand, wide=True, draft=draft)
    if wide.weights == demand.weights:
        return wide, None
    library = fast_library(own.blas)
    if own.weights == "packed" or (own.weights is None and own.dtype in ("float16", "bfloat16")):
        return demand, f"as in the files, as '{'dtype' if own.weights is None else 'weights'}' of the settings says"
    if own.weights == "float32":
        return wide, f"float32, as 'weights' of the settings says, multiplied by {library or numpy_library()[0]}"
    if library is None:
        why = "there is no fast BLAS; install metalchat-engine-mlx[mkl], or name one with 'blas'"
    elif available is None:
        why = "nothing says how much memory there is"
    elif wide.weights > available // 2:
        why = f"in float32 they would take {size(wide.weights)} of the {size(available)} available"
    elif wide.total(min(settings.context_length or longest, longest)) > available:
        why = "in float32 they would leave too little memory for the context"
    else:
        return wide, f"float32, {size(wide.weights)} of the {size(available)} available, multiplied by {library}"
    return demand, f"as in the files: {why}"
