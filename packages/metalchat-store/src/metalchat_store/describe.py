"""What a model is and needs, told from its headers before it is fetched."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from metalchat_store import _peek_gguf
from metalchat_store._answers import AnswerError, parse_json
from metalchat_store._download import remote_errors
from metalchat_store._fetching import Fetching
from metalchat_store._model_shape import Shape, gguf_config, shape_of
from metalchat_store._peek import Peek
from metalchat_store._template import TEMPLATE_FILES, template_in
from metalchat_store._tensor_header import TensorFacts, header_length, read_header
from metalchat_store.detect import family
from metalchat_store.errors import AccessDenied, NotAModel
from metalchat_store.gguf import FILE_TYPES
from metalchat_store.remote import Listing, Previews, RemoteFile, Unpacks
from metalchat_store.selection import select
from metalchat_store.types import Plan

CONTEXT = 8192
"""Tokens that memory is computed for unless told otherwise, or the model's own length if that is less."""

_BUDGET = 64 << 20
_CONFIG = 1 << 20
_FIRST = 16 << 10
_TEMPLATE = 1 << 20
_SHARDS = 64
_TOGETHER = 8
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3"}
_DTYPES |= {"F8_E5M2": "float8_e5m2", "U8": "uint8", "I8": "int8", "U32": "uint32", "I32": "int32"}
_SCALES = (".scales", ".biases")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is known of a model without fetching it; None where nothing tells.

    `gated`: its licence has to be accepted first. `accessible`: its files can be read with the credential that there
    is, or without one; if not, `refusal` says why in one line, and what only files tell is None.
    Sizes are bytes. `size` is that of all files of the model, `download` of those that the store does not have,
    `fetched` what this look itself cost. `memory` is the prediction for `context` tokens: the weights as they are in
    the files, keys and values in two bytes (four for a model in float32), and what is needed while computing. `machine`
    is the memory of this computer. `template` is the SHA-256 of the chat template's text, the one of `Lock.template`.
    """

    repository: str
    commit: str
    license: str | None
    gated: bool | None
    accessible: bool
    refusal: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    files: tuple[str, ...] = ()
    size: int | None = None
    download: int | None = None
    weights: int | None = None
    cache_per_token: int | None = None
    context: int | None = None
    memory: int | None = None
    template: str | None = None
    machine: int | None = None
    fetched: int = 0

    @property
    def fits(self) -> bool | None:
        """Whether this computer has as much memory as the prediction; None if one of them is not known."""
        return None if self.memory is None or self.machine is None else self.memory <= self.machine


def describe(fetching: Fetching, listing: Listing, plan: Plan, context: int | None = None) -> Description:
    """Look at the headers of what `plan` would fetch. Nothing is written.

    Raises what reading the files raises, except that a refusal of access is part of the description.
    """
    sizes = [file.size for file in plan.files]
    known = Description(
        repository=plan.repository,
        commit=plan.commit,
        license=plan.license,
        gated=listing.gated,
        accessible=True,
        files=tuple(file.path for file in plan.files),
        size=None if None in sizes else sum(size for size in sizes if size is not None),
        download=plan.download_bytes,
        machine=machine_memory(),
    )
    cost = 0

    def looked(fetching: Fetching, listing: Listing, spent: Callable[[], int] | None = None) -> Description:
        nonlocal cost
        peek = Peek(fetching, listing, budget=_BUDGET)
        try:
            return _looked(fetching, peek, listing, known, context)
        finally:
            cost = peek.fetched if spent is None else spent()

    try:
        if not isinstance(fetching.remote, Unpacks):
            found = looked(fetching, listing)
        elif isinstance(fetching.remote, Previews):
            with remote_errors(listing.repository), fetching.remote.preview(listing, context=fetching.context) as shown:
                found = known
                if shown is not None:
                    found = looked(replace(fetching, remote=shown.remote), shown.listing, shown.cost)
        else:
            found = known
    except AccessDenied as error:
        found = replace(known, accessible=False, refusal=str(error))
    return replace(found, fetched=cost)


def machine_memory() -> int | None:
    """Bytes of memory of this computer."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _looked(fetching: Fetching, peek: Peek, listing: Listing, known: Description, context: int | None) -> Description:
    selection = select(fetching.source.repository, listing.files, fetching.source.gguf)
    files = {file.path: file for file in listing.files}
    weights = [files[name] for name in selection.weights]
    if selection.variant == "gguf":
        return _gguf(peek, weights[0], known, context)
    if "config.json" not in files:
        return known
    try:
        config = parse_json(peek.whole(files["config.json"], _CONFIG))
    except AnswerError as error:
        raise NotAModel("'config.json' is not valid JSON") from error
    if not isinstance(config, dict):
        raise NotAModel("'config.json' is not a JSON object")
    architecture = family(config.get("model_type"), source="'model_type' in 'config.json'")
    table = config.get("quantization") or config.get("quantization_config")
    quantization = table if isinstance(table, dict) else None
    shape = shape_of(config)
    total = None if any(file.size is None for file in weights) else sum(file.size or 0 for file in weights)
    if total is None or len(weights) > _SHARDS:
        tensors: list[TensorFacts] = []
    else:
        with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="metalchat-describe") as pool:
            tensors = [fact for facts in pool.map(partial(_header, peek), weights) for fact in facts]
        total = sum(fact.length for fact in tensors)
    bits = quantization.get("bits") if quantization is not None else None
    mlx = quantization is not None and "quant_method" not in quantization
    return _predicted(
        replace(
            known,
            architecture=architecture,
            parameters=_parameters(tensors, bits if mlx else None) if mlx or quantization is None else None,
            dtype=_dtype(tensors) or _plain(config.get("torch_dtype") or config.get("dtype")),
            quantization=None if quantization is None else _scheme(quantization),
            weights=total,
            template=_template(peek, files),
        ),
        shape,
        context,
    )


def _template(peek: Peek, files: Mapping[str, RemoteFile]) -> str | None:
    """The SHA-256 of the chat template's text; None for one that is larger than any."""
    for file in (files[name] for name in TEMPLATE_FILES if name in files):
        if file.size is None or file.size > _TEMPLATE:
            return None
        found = template_in(file.path, peek.whole(file, _TEMPLATE))
        if found is not None:
            return found
    return None


def _header(peek: Peek, file: RemoteFile) -> Sequence[TensorFacts]:
    size = file.size or 0
    first = peek.part(file, 0, _FIRST)
    length = header_length(first, size, file.path)
    data = first[8 : 8 + length]
    if len(data) < length:
        data += peek.part(file, len(first), 8 + length)
    return read_header(data, size, file.path)


def _gguf(peek: Peek, file: RemoteFile, known: Description, context: int | None) -> Description:
    header = _peek_gguf.look(peek, file)
    facts = header.facts
    name, kind, count = (facts.get(f"general.{key}") for key in ("architecture", "file_type", "parameter_count"))
    if header.parameters is not None and file.size is not None and header.parameters > 8 * file.size:
        raise NotAModel(f"'{file.path}' is not a GGUF model: it is too short for its {header.parameters:,} parameters")
    scheme = FILE_TYPES.get(kind) if isinstance(kind, int) else None
    plain = scheme in ("F32", "F16", "BF16")
    found = replace(
        known,
        architecture=family(name, source=f"'general.architecture' in '{file.path}'"),
        parameters=count if isinstance(count, int) else header.parameters,
        dtype=_DTYPES[scheme] if plain and scheme is not None else None,
        quantization=None if plain else scheme,
        weights=file.size,
        template=header.template,
    )
    return _predicted(found, shape_of(gguf_config(facts), file.path), context)


def _predicted(known: Description, shape: Shape, context: int | None) -> Description:
    """The same with what the numbers of the shape tell about memory."""
    values = shape.cache_values
    each = None if values is None else values * (4 if known.dtype == "float32" else 2)
    tokens = min(CONTEXT, shape.context or CONTEXT) if context is None else context
    memory = None if each is None or known.weights is None else known.weights + each * tokens + shape.working_bytes
    return replace(known, context_length=shape.context, cache_per_token=each, context=tokens, memory=memory)


def _parameters(tensors: Iterable[TensorFacts], bits: object) -> int | None:
    """Numbers that were trained: those packed into 32-bit words count as what is in them."""
    tensors = list(tensors)
    if not tensors:
        return None
    packed = {fact.name.removesuffix(".scales") for fact in tensors if fact.name.endswith(".scales")}
    total = 0
    for fact in tensors:
        module = fact.name.rpartition(".")[0]
        if module in packed and fact.name.endswith(_SCALES):
            continue
        inside = module in packed and fact.dtype == "U32" and type(bits) is int and 1 <= bits <= 32
        total += fact.count * 32 // bits if inside and isinstance(bits, int) else fact.count
    return total


def _dtype(tensors: Iterable[TensorFacts]) -> str | None:
    """What most numbers that are not packed are."""
    counts: Counter[str] = Counter()
    for fact in tensors:
        if fact.dtype in ("BF16", "F16", "F32", "F64"):
            counts[fact.dtype] += fact.count
    most = counts.most_common(1)
    return _DTYPES[most[0][0]] if most else None


def _plain(value: object) -> str | None:
    return value if isinstance(value, str) and value in _DTYPES.values() else None


def _scheme(table: Mapping[str, object]) -> str:
    """`4-bit, groups of 64`, or the name that the method has."""
    method, bits, group = table.get("quant_method"), table.get("bits"), table.get("group_size")
    words = [method[:32]] if isinstance(method, str) and method.isprintable() else []
    words += [f"{bits}-bit"] if type(bits) is int else []
    words += [f"groups of {group}"] if type(group) is int and group > 0 else []
    return ", ".join(words) or "unknown"
