"""Which files of a repository make the model; the rest is never fetched."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlsplit

from metalchat_store.errors import IntegrityError, InvalidRepository, NotAModel
from metalchat_store.remote import RemoteFile

INDEX = "model.safetensors.index.json"
WEIGHTS = (".safetensors", ".gguf")
_MIB = 1 << 20

_METADATA = {
    "config.json": 16 * _MIB,
    "generation_config.json": 16 * _MIB,
    "params.json": 16 * _MIB,
    INDEX: 16 * _MIB,
    "tokenizer.json": 100 * _MIB,
    "tokenizer.model": 100 * _MIB,
    "tokenizer_config.json": 16 * _MIB,
    "special_tokens_map.json": 16 * _MIB,
    "added_tokens.json": 16 * _MIB,
    "vocab.json": 100 * _MIB,
    "merges.txt": 100 * _MIB,
    "chat_template.jinja": _MIB,
    "chat_template.json": 2 * _MIB,
}
_PAPERS = re.compile(r"(?:readme|licen[cs]e|notice|use_policy|copying)(?:[._-][a-z0-9._-]*)?", re.IGNORECASE)
_PAPER_LIMIT = 16 * _MIB
_SHARD = re.compile(r".+-[0-9]{5}-of-[0-9]{5}\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_LOOKED_FOR = "looked for config.json with *.safetensors, or one *.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen names. `variant` is `huggingface`, `meta` or `gguf`."""

    variant: str
    weights: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All chosen names, the small ones first."""
        return self.others + self.weights


def limit_of(path: str) -> int | None:
    """The most bytes that a file may have; None for weights."""
    if path in _METADATA:
        return _METADATA[path]
    return None if path.endswith((".safetensors", ".gguf", ".whl", ".zip", ".gz")) else _PAPER_LIMIT


def split_file(repository: str) -> tuple[str, str | None]:
    """The address without `file=NAME` in its query, and that name: which GGUF file of the repository is meant."""
    parts = urlsplit(repository)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    names = [value for key, value in pairs if key == "file"]
    if not names:
        return repository, None
    if len(names) > 1 or not names[0].endswith(".gguf"):
        raise InvalidRepository("'file=' in the address of a repository names one .gguf file")
    rest = "&".join(f"{quote(key)}={quote(value)}" for key, value in pairs if key != "file")
    return parts._replace(query=rest).geturl(), names[0]


def short_name(repository: str) -> str:
    """How messages call a repository: `org/m` for an address of a hub, else the address."""
    parts = urlsplit(repository)
    path = parts.path.strip("/")
    return path if parts.scheme in ("http", "https") and path else repository


def select(repository: str, files: Iterable[RemoteFile], gguf: str | None = None) -> Selection:
    """Choose the files of the model. `gguf` names the one that is wanted.

    Raises `NotAModel`, saying what was found and what was looked for; `InvalidRepository` where one of several GGUF
    files has to be named; `IntegrityError` for a file above its limit of size.
    """
    found = {file.path: file for file in files}
    chosen = _choose(short_name(repository), found, gguf)
    for name in chosen.others:
        size, limit = found[name].size, limit_of(name)
        if size is not None and limit is not None and size > limit:
            raise IntegrityError(f"'{name}' is larger than the {limit // _MIB} MiB that are allowed for it")
    return chosen


def _choose(name: str, found: Mapping[str, RemoteFile], gguf: str | None) -> Selection:
    papers = tuple(path for path in found if _PAPERS.fullmatch(path))
    if gguf is not None:
        if gguf not in found:
            listed = _listed([path for path in found if path.endswith(".gguf")])
            raise InvalidRepository(f"'{name}' has no file '{gguf}' (found {listed})")
        return Selection(variant="gguf", weights=(gguf,), others=papers)
    metadata = tuple(path for path in found if path in _METADATA)
    tensors = _tensors(found)
    if tensors and ("config.json" in found or "params.json" in found):
        others = tuple(path for path in metadata if path != INDEX or len(tensors) > 1 or _SHARD.fullmatch(tensors[0]))
        own = name.startswith("meta:") and "params.json" in found
        variant = "huggingface" if "config.json" in found and not own else "meta"
        return Selection(variant=variant, weights=tensors, others=others + papers)
    models = [path for path in found if path.endswith(".gguf") and not path.rpartition("/")[2].startswith("mmproj")]
    if len(models) == 1:
        return Selection(variant="gguf", weights=(models[0],), others=papers)
    if models:
        raise InvalidRepository(
            f"'{name}' has {len(models)} GGUF files: add '?file=NAME' to the address, with one of {_listed(models)}"
        )
    pickles = [path for path in found if path.endswith(_PICKLES)]
    if pickles and not tensors:
        raise NotAModel(
            f"'{name}' has no safetensors weights (found {_listed(pickles)}, which can run code and is not read): "
            f"{_instead(name, pickles)}"
        )
    raise NotAModel(f"'{name}' is not a model: found {_listed(list(found))}; {_LOOKED_FOR}")


def _tensors(found: Mapping[str, RemoteFile]) -> tuple[str, ...]:
    """One file, or all shards; adapters and second copies are left out."""
    top = sorted(path for path in found if path.endswith(".safetensors") and "/" not in path and "adapter" not in path)
    if "model.safetensors" in top:
        return ("model.safetensors",)
    shards = [path for path in top if _SHARD.fullmatch(path)]
    ours = [path for path in shards if path.startswith("model-")] or shards
    if ours:
        return tuple(ours)
    return tuple(top) if len(top) == 1 else ()


def _instead(name: str, pickles: list[str]) -> str:
    """Where the same model may be had without code in it."""
    if any(path.rpartition("/")[2].startswith("consolidated.") for path in pickles):
        if name.startswith("file:"):
            return (
                "'metalchat model pull' converts the folder itself that they lie in, if it has the name of its release"
            )
        return "'metalchat model pull meta:NAME' converts what Meta itself gives out"
    return f"find it in safetensors or GGUF with 'metalchat model search {name.rpartition('/')[2]}'"


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
