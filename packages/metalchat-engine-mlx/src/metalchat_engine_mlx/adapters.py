"""LoRA adapters on disk, as PEFT and mlx-lm write them: checked by their headers, and refused by name beyond that."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from metalchat_engine import InvalidModel, UnsupportedModel, UnsupportedRequest

from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.fields import Fields, shown
from metalchat_engine_mlx.strict_json import read_object
from metalchat_engine_mlx.weights import Tensor, read_header
from metalchat_engine_mlx.weights.files import PICKLES
from metalchat_engine_mlx.weights.shapes import PLAIN

CONFIG = "adapter_config.json"
MAX_RANK = 4096
_PEFT_WEIGHTS, _MLX_WEIGHTS = "adapter_model.safetensors", "adapters.safetensors"
_PEFT_PREFIX = "base_model.model."
# What stands before "layers.0" in the names of the families; of those that see pictures only the text model adapts.
_STEMS = ("model.", "gpt_neox.", "model.language_model.", "language_model.model.", "language_model.")
# Keys of a PEFT config that say nothing about the arithmetic, or that the tensors tell as well.
_HARMLESS = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
_Scale = Callable[[int], float]
"""What the product is multiplied by, told from its rank."""

_Modules = Mapping[str, tuple[str, int, int]]
"""By the name that an adapter uses: the module's name in the model, rows and columns."""

# Ways to begin the training that change the weights of the model itself.
_CHANGES_MODEL = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """The names of A and B in the file. They lie as [rank, columns] and [rows, rank], or `transposed`."""

    a: str
    b: str
    scale: float
    transposed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """`terms` by the name of the module in the model."""

    name: str
    file: Path
    terms: Mapping[str, Term]
    parameters: int


def read_adapter(name: str, path: Path, config: ModelConfig, *, tied: bool) -> Adapter:
    """The adapter in a folder, for the model of that config; `tied` says that the output layer is the embedding.

    Raises UnsupportedRequest where there is none, UnsupportedModel for what is no plain LoRA of linear maps, and
    InvalidModel for damage, or for an adapter of another model.
    """
    if not (path / CONFIG).is_file():
        raise UnsupportedRequest(f"the adapter '{name}' is not there: '{path}' has no {CONFIG}", option="adapters")
    try:
        document = read_object(path / CONFIG)
        reader = _Reader(Fields(document, CONFIG))
        is_peft = "peft_type" in document
        file = path / (_PEFT_WEIGHTS if is_peft else _MLX_WEIGHTS)
        if not file.is_file():
            pickle = next((found for found in sorted(path.iterdir()) if found.name.endswith(PICKLES)), None)
            found = f" (found {shown(pickle.name)}, which can run code and is not read)" if pickle else ""
            raise UnsupportedModel(f"it has no {file.name}{found}")
        scale = reader.peft() if is_peft else reader.mlx()
        tensors = read_header(file)
        terms = dict(reader.terms(tensors, _modules(config, tied=tied), scale, is_peft=is_peft))
    except (InvalidModel, UnsupportedModel) as error:
        raise type(error)(f"the adapter '{name}': {error}") from error
    except OSError as error:
        raise InvalidModel(f"the adapter '{name}' could not be read: {error.strerror}") from error
    return Adapter(name=name, file=file, terms=terms, parameters=sum(prod(tensor.shape) for tensor in tensors.values()))


class _Reader:
    """Reads one adapter_config.json and the names of its tensors. Raises InvalidModel and UnsupportedModel."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def peft(self) -> _Scale:
        fields, document = self.fields, self.fields.document
        fields.only("peft_type", "LORA")
        fields.only("bias", "none")
        fields.integer("r", 1, MAX_RANK)
        start = document.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_CHANGES_MODEL):
            fields.unsupported("init_lora_weights", start, "adapters that leave the model's own weights as they are")
        if document.get("alpha_pattern"):
            fields.unsupported("alpha_pattern", document["alpha_pattern"], "one lora_alpha for all modules")
        for key, value in document.items():
            if key not in _HARMLESS and value not in (None, False, 0, "", [], {}):
                fields.unsupported(key, value, "plain LoRA of linear maps")
        alpha = fields.number("lora_alpha", -1e6, 1e6, default=8)
        power = 0.5 if fields.flag("use_rslora", False) else 1.0
        return lambda rank: alpha / float(rank**power)

    def mlx(self) -> _Scale:
        fields = self.fields
        if not {"fine_tune_type", "lora_parameters"} & fields.document.keys():
            raise InvalidModel(
                f"'{CONFIG}' is neither PEFT's, with a 'peft_type', nor mlx-lm's, with 'lora_parameters'"
            )
        fields.only("fine_tune_type", "lora")
        table = fields.document.get("lora_parameters")
        if not isinstance(table, dict):
            fields.refuse("lora_parameters", table, "an object")
        scale = Fields(table, f"{CONFIG}: lora_parameters").number("scale", -1e6, 1e6, default=20)
        return lambda _: scale

    def terms(
        self, tensors: Mapping[str, Tensor], modules: _Modules, scale: _Scale, *, is_peft: bool
    ) -> Iterator[tuple[str, Term]]:
        ends = (".lora_A.weight", ".lora_B.weight") if is_peft else (".lora_a", ".lora_b")
        if not tensors:
            raise InvalidModel("it has no tensors")
        seen: set[str] = set()
        for key in tensors:
            end = next((end for end in ends if key.endswith(end)), None)
            if end is None:
                raise UnsupportedModel(f"'{key[:200]}' ends in neither {ends[0]} nor {ends[1]}, and only these are run")
            stem = key.removesuffix(end)
            missing = next((end for end in ends if stem + end not in tensors), None)
            if missing is not None:
                raise InvalidModel(f"'{key[:200]}' is there without its {missing}")
            if end == ends[1]:
                continue
            found = modules.get(stem.removeprefix(_PEFT_PREFIX) if is_peft else stem)
            if found is None:
                raise UnsupportedModel(f"it adapts '{stem[:200]}', which is no linear map of this model")
            module, rows, columns = found
            if module in seen:
                raise InvalidModel(f"it adapts '{module}' twice, under two names")
            seen.add(module)
            a, b = tensors[stem + ends[0]], tensors[stem + ends[1]]
            shapes = [tensor.shape if is_peft else tensor.shape[::-1] for tensor in (a, b)]
            rank = shapes[0][0] if len(shapes[0]) == 2 else 0
            if not 1 <= rank <= MAX_RANK or shapes != [(rank, columns), (rows, rank)]:
                raise InvalidModel(
                    f"the halves of '{stem[:200]}' have the shapes {list(a.shape)} and {list(b.shape)}, and the model's"
                    f" '{module}' has {rows} rows and {columns} columns"
                )
            strange = next((tensor.dtype for tensor in (a, b) if tensor.dtype not in PLAIN), None)
            if strange is not None:
                raise UnsupportedModel(f"'{stem[:200]}' has the dtype {strange}, expected {', '.join(PLAIN)}")
            yield module, Term(a=stem + ends[0], b=stem + ends[1], scale=scale(rank), transposed=not is_peft)


def _modules(config: ModelConfig, *, tied: bool) -> _Modules:
    """Every linear map that can be adapted."""
    found: dict[str, tuple[str, int, int]] = {}
    for index, layer in enumerate(config.layers):
        for linear in layer.linears():
            own = f"{layer.name}.{linear.name}"
            for name in (own, *(f"{stem}layers.{index}.{linear.name}" for stem in _STEMS)):
                found[name] = (own, linear.rows, linear.columns)
    if not tied:
        found["lm_head"] = found[config.head] = (config.head, config.vocab_size, config.hidden_size)
    return found
