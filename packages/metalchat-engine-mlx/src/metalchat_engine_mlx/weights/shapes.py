"""Whether the tensors of a checkpoint are those of the model that its config describes."""

from collections.abc import Iterator, Mapping

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.config import ExpertSpec, ExpertsSpec, LayerSpec, LinearSpec, ModelConfig
from metalchat_engine_mlx.quantization import FLOATS, Packing
from metalchat_engine_mlx.schemes import Scheme
from metalchat_engine_mlx.weights.header import Tensor

PLAIN = ("F32", "F16", "BF16")


def tied(config: ModelConfig, tensors: Mapping[str, object]) -> bool:
    """Whether the output layer is the embedding: said by the config, or by the absence of its weights."""
    return config.tie_word_embeddings or f"{config.head}.weight" not in tensors


def check_tensors(config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Compare every tensor's name, shape and dtype with the config; nothing has been allocated for them yet.

    Raises:
        InvalidModel: one is missing, or has another shape than the config says.
        UnsupportedModel: one that such a model does not have, or of a dtype that this engine does not compute in.
    """
    known: set[str] = set()
    scheme = config.quantization.scheme
    for module, shape, bias in matrices(config, tensors):
        known.add(f"{module}.weight")
        if scheme is not None and is_foreign(scheme, tensors, module):
            known |= _check_foreign(scheme, tensors, module, shape)
        elif f"{module}.scales" in tensors:
            packing = config.quantization.packing(module)
            known |= (
                {f"{module}.scales"} if packing and packing.mode in FLOATS else {f"{module}.scales", f"{module}.biases"}
            )
            _check_packed(packing, tensors, module, shape)
        else:
            _check(tensors, f"{module}.weight", shape, PLAIN)
        if bias:
            known.add(f"{module}.bias")
            _check(tensors, f"{module}.bias", shape[:1], PLAIN)
    for name, size in vectors(config):
        known.add(name)
        _check(tensors, name, (size,), PLAIN)
    for layer in config.layers:
        _check_alike(config, layer, tensors)
    if config.tie_word_embeddings:
        known |= {f"{config.head}.{part}" for part in ("weight", "scales", "biases")}
    for name in tensors:
        if name not in known and config.needs(name) and not (scheme and name.endswith(scheme.ignored)):
            raise UnsupportedModel(
                f"the weights have the tensor '{name[:80]}', which this {config.model_type} model does not have"
            )


def is_foreign(scheme: Scheme, tensors: Mapping[str, Tensor], module: str) -> bool:
    """Whether a module is quantised by the scheme; others are plain."""
    tensor = tensors.get(f"{module}.{scheme.marker}")
    return tensor is not None and (scheme.marker != "weight" or tensor.dtype not in PLAIN)


def matrices(
    config: ModelConfig, tensors: Mapping[str, object] | None = None
) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Module, shape (rows and columns, behind the number of experts where they are stacked) and whether it has a bias.

    `tensors` tell how the experts are stored, and whether there is an output layer; without them each expert is by
    itself, and the config alone ties the output layer.
    """
    yield config.embedding, (config.vocab_size, config.hidden_size), False
    for layer in config.layers:
        for linear in layer.linears():
            yield f"{layer.name}.{linear.name}", (linear.rows, linear.columns), linear.bias
        if isinstance(layer.feed_forward, ExpertsSpec):
            block = layer.feed_forward
            for part in (block.gate, block.up, block.down):
                yield from _experts(layer.name, part, block.count, tensors)
    if not (config.tie_word_embeddings if tensors is None else tied(config, tensors)):
        yield config.head, (config.vocab_size, config.hidden_size), False


def vectors(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """The weights and biases of the norms, with their sizes."""
    norms = [(f"{layer.name}.", norm) for layer in config.layers for norm in layer.norms()]
    for prefix, norm in [*norms, ("", config.norm)]:
        yield f"{prefix}{norm.name}.weight", norm.size
        if norm.bias:
            yield f"{prefix}{norm.name}.bias", norm.size


def _experts(
    layer: str, part: ExpertSpec, count: int, tensors: Mapping[str, object] | None
) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    shape: LinearSpec = part.shape
    stacked = f"{layer}.{shape.name}"
    if tensors is not None and f"{stacked}.weight" in tensors:
        yield stacked, (count, shape.rows, shape.columns), False
        return
    for expert in range(count):
        yield f"{layer}.{part.single.format(expert)}", (shape.rows, shape.columns), False


def _check_alike(config: ModelConfig, layer: LayerSpec, tensors: Mapping[str, Tensor]) -> None:
    """Experts that are stored one by one are stacked, so all of them must be packed in one way."""
    block = layer.feed_forward
    if not isinstance(block, ExpertsSpec):
        return
    for part in (block.gate, block.up, block.down):
        modules = [f"{layer.name}.{part.single.format(expert)}" for expert in range(block.count)]
        scheme = config.quantization.scheme
        packings: set[object] = {
            is_foreign(scheme, tensors, name)
            if scheme is not None
            else config.quantization.packing(name)
            if f"{name}.scales" in tensors
            else None
            for name in modules
        }
        if len(packings) > 1:
            raise InvalidModel(f"the experts of '{modules[0]}' are quantised in different ways")


def _check_packed(packing: Packing | None, tensors: Mapping[str, Tensor], module: str, shape: tuple[int, ...]) -> None:
    if packing is None:
        raise InvalidModel(f"'{module}.scales' is there, but 'quantization' in 'config.json' leaves '{module}' plain")
    *outer, columns = shape
    if columns % packing.group_size:
        raise InvalidModel(f"'{module}' has {columns} columns, not a multiple of the group size {packing.group_size}")
    groups = (*outer, columns // packing.group_size)
    _check(tensors, f"{module}.weight", (*outer, columns * packing.bits // 32), ("U32",))
    if packing.mode in FLOATS:
        _check(tensors, f"{module}.scales", groups, ("U8",))
        return
    _check(tensors, f"{module}.scales", groups, PLAIN)
    _check(tensors, f"{module}.biases", groups, PLAIN)


def _check_foreign(
    scheme: Scheme, tensors: Mapping[str, Tensor], module: str, shape: tuple[int, ...]
) -> frozenset[str]:
    """The names of a module's tensors, checked."""
    if len(shape) != 2:
        raise UnsupportedModel(f"'{module}' is a stack of matrices that MLX has not quantised")
    stored = scheme.tensors(module, *shape, tensors)
    for part, expected in stored.items():
        name = f"{module}.{part}"
        found = tensors.get(name)
        _check(
            tensors,
            name,
            found.shape if found and found.shape in expected.shapes else expected.shapes[-1],
            expected.dtypes,
        )
    names = {f"{module}.{part}" for part in stored}
    if f"{module}.bias" in tensors:
        _check(tensors, f"{module}.bias", shape[:1], PLAIN)  # some writers add one of zeros
        names.add(f"{module}.bias")
    return frozenset(names)


def _check(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise InvalidModel(f"the tensor '{name}' is missing")
    if tensor.dtype not in dtypes:
        wanted = f"{', '.join(dtypes[:-1])} or {dtypes[-1]}" if len(dtypes) > 1 else dtypes[0]
        raise UnsupportedModel(
            f"the tensor '{name}' in '{tensor.file}' has the dtype {tensor.dtype}, expected {wanted}"
        )
    if tensor.shape != shape:
        raise InvalidModel(
            f"the tensor '{name}' in '{tensor.file}' has the shape {list(tensor.shape)}, expected {list(shape)}"
        )
