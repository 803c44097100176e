"""A model on disk, described by its headers alone: nothing here needs MLX, or reads a weight."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalchat_engine import InvalidModel, ModelSource, UnsupportedModel

from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.defaults import Defaults, read_defaults
from metalchat_engine_mlx.fallback.library import find_family
from metalchat_engine_mlx.fields import Options
from metalchat_engine_mlx.models import read_config
from metalchat_engine_mlx.quantization import Packing, Quantization
from metalchat_engine_mlx.schemes import Integers
from metalchat_engine_mlx.strict_json import CONFIG_LIMIT, read_object
from metalchat_engine_mlx.weights import Tensor, check_tensors, is_foreign, matrices, weight_files

if TYPE_CHECKING:
    from metalchat_engine_mlx.fallback.checkpoint import Fallback
    from metalchat_engine_mlx.gguf.header import GgufHeader

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Checked headers. `packings` names the packing of every quantised module.

    `path` is the model's directory, or its GGUF file, and then `gguf` is that file's header. `factors` says that a GGUF
    file spells out the factors of its rope.

    `plain` is the dtype, F32, F16 or BF16, that every other matrix has once it is loaded. `expanded` tells what the
    file has quantised and the model has not ("Q6_K as float16").

    A model with a `fallback` is run by mlx-lm: its `config` has no layers, and `plain` says nothing.
    """

    name: str
    path: Path
    config: ModelConfig
    defaults: Defaults
    dtype: str
    parameters: int
    packings: Mapping[str, Packing]
    plain: Mapping[str, str]
    has_template: bool | None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    gguf: "GgufHeader | None" = None
    factors: bool = False
    expanded: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    fallback: "Fallback | None" = None

    @property
    def ties_head(self) -> bool:
        """Whether the output layer is the embedding."""
        return self.config.tie_word_embeddings or (
            self.gguf is None and f"{self.config.head}.weight" not in self.tensors
        )

    @property
    def quantization(self) -> str | None:
        packed = Quantization(modules=self.packings).label
        return "; ".join(filter(None, (packed, *self.expanded))) or None


def read_checkpoint(source: ModelSource) -> Checkpoint:
    """Find out what `source` holds.

    Raises UnsupportedModel, InvalidModel, and UnsupportedRequest for an option out of its range.
    """
    path = source.path
    name = source.name or str(path)
    try:
        if path.is_dir():
            if (path / "config.json").exists():
                return _directory(path, name, source.options)
            files = sorted(file for file in path.iterdir() if file.name.endswith(".gguf") and file.is_file())
            if len(files) == 1:
                return _gguf(files[0], name, source.options)
            if files:
                raise UnsupportedModel(f"'{name}' has {len(files)} GGUF files; name the one to load")
            raise InvalidModel(f"'{name}' has neither a config.json nor a GGUF file")
        if not path.exists():
            raise InvalidModel(f"'{name}' does not exist")
        return _gguf(path, name, source.options)
    except OSError as error:
        raise InvalidModel(f"'{name}' could not be read: {error.strerror}") from error


def read_own(source: ModelSource, purpose: str) -> Checkpoint:
    """What `read_checkpoint` finds, if a decoder of this engine runs it; another model cannot serve the `purpose`."""
    checkpoint = read_checkpoint(source)
    if checkpoint.fallback is not None:
        raise UnsupportedModel(
            f"'{checkpoint.name}' is a {checkpoint.config.model_type} model, which mlx-lm runs; it cannot {purpose}"
        )
    return checkpoint


def _directory(path: Path, name: str, options: Options) -> Checkpoint:
    document = read_object(path / "config.json")
    family = find_family({**document, **options}.get("model_type"))
    if family is not None:
        from metalchat_engine_mlx.fallback.checkpoint import read_fallback

        return read_fallback(path, name, document, options, family)
    config = read_config(document, options=options)
    tensors = weight_files(path, name=name)
    config = config.named_as(tensors)
    check_tensors(config, tensors)
    if not (path / "tokenizer.json").is_file():
        raise UnsupportedModel(f"'{name}' has no tokenizer.json")
    scheme = config.quantization.scheme
    foreign: dict[str, tuple[int, ...]] = {}
    biases: set[str] = set()
    for module, shape, bias in matrices(config, tensors):
        if scheme is not None and is_foreign(scheme, tensors, module):
            foreign[module] = shape
            biases |= {f"{module}.bias"} if bias else set()
    packings = {}
    for module, shape in foreign.items():
        if isinstance(scheme, Integers) and (group_size := scheme.packed_group(shape[-1])) is not None:
            packings[module] = Packing(group_size=group_size, bits=scheme.bits)
    for tensor in tensors:
        module = tensor.removesuffix(".scales")
        packing = config.quantization.packing(module)
        if module != tensor and packing is not None:
            packings[module] = packing
    used = {
        key: tensor
        for key, tensor in tensors.items()
        if config.needs(key)
        and not (config.tie_word_embeddings and key.startswith(f"{config.head}."))
        and key.rpartition(".")[0] not in foreign
        and not (scheme and key.endswith(scheme.ignored))
    }
    used |= {key: tensors[key] for key in biases}
    embedding = used.get(f"{config.embedding}.scales", used[f"{config.embedding}.weight"])
    if embedding.dtype not in DTYPES:
        embedding = used[f"{config.norm.name}.weight"]
    return Checkpoint(
        name=name,
        path=path,
        config=config,
        defaults=generation_defaults(path, config),
        dtype=DTYPES[embedding.dtype],
        parameters=sum(_count(key, tensor, packings) for key, tensor in used.items())
        + sum(map(prod, foreign.values())),
        packings=packings,
        plain={
            module: "F16" if module in foreign else tensors[f"{module}.weight"].dtype
            for module, _, _ in matrices(config, tensors)
            if module not in packings
        },
        has_template=True if names_template(path) else None,
        tensors=tensors,
        expanded=(scheme.expanded,) if scheme is not None and scheme.expanded and foreign else (),
        foreign=tuple(foreign),
    )


def _gguf(path: Path, name: str, options: Options) -> Checkpoint:
    from metalchat_engine_mlx.gguf._types import EXPANDED
    from metalchat_engine_mlx.gguf.config import config_from_gguf
    from metalchat_engine_mlx.gguf.reader import read_header
    from metalchat_engine_mlx.gguf.tensors import parameters, quantization

    header = read_header(path)
    document = config_from_gguf(header)
    ends = document.pop("eos_token_id", None)
    kind = (document["rope_scaling"] or {}).get("rope_type")
    if kind == "gguf_factors":
        document["rope_scaling"] = None
    config = read_config(document | {"eos_token_id": ends or None}, what=header.file, options=options)
    packings = {
        module: Packing(bits=found[0], group_size=found[1]) for module, found in quantization(header).items() if found
    }
    tensors = header.tensors.values()
    expanded = [tensor for tensor in tensors if tensor.type in EXPANDED]
    return Checkpoint(
        name=name,
        path=path,
        config=config,
        defaults=Defaults(),
        dtype=DTYPES.get(header.tensors["token_embd.weight"].type, "float16"),
        parameters=sum(prod(tensor.shape) for tensor in tensors),
        packings=packings,
        plain={
            parameter.module: parameter.tensor.type if parameter.tensor.type in DTYPES else "F16"
            for parameter in parameters(header)
            if len(parameter.tensor.shape) > 1 and parameter.module not in packings
        },
        has_template=True if isinstance(header.metadata.get("tokenizer.chat_template"), str) else None,
        gguf=header,
        factors=kind in ("gguf_factors", "longrope"),
        expanded=tuple(f"{name} as float16" for name in sorted({tensor.type for tensor in expanded})),
    )


def generation_defaults(path: Path, config: ModelConfig) -> Defaults:
    """What the generation_config.json of a directory says. Raises InvalidModel."""
    file = path / "generation_config.json"
    return read_defaults(read_object(file), config.vocab_size) if file.exists() else Defaults()


def names_template(path: Path) -> bool:
    """Whether the files of a directory name a chat template."""
    if any((path / file).is_file() for file in _TEMPLATES):
        return True
    document: dict[str, Any] = {}
    with contextlib.suppress(InvalidModel):  # the prompt package says what is wrong with the file
        document = read_object(path / "tokenizer_config.json", limit=16 * CONFIG_LIMIT)
    return bool(document.get("chat_template"))


def _count(name: str, tensor: Tensor, packings: Mapping[str, Packing]) -> int:
    module, _, part = name.rpartition(".")
    packing = packings.get(module)
    if packing is None:
        return prod(tensor.shape)
    return prod(tensor.shape) * 32 // packing.bits if part == "weight" else 0
