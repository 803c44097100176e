"""The installed mlx-lm, of which only the modules of its models are used: one a family.

Which families it knows is read from its source, without running it. A module is imported under a name of this package:
whoever imports `mlx_lm` itself also imports transformers, and lets the process open no more than 2048 files.
"""

import ast
import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from metalchat_engine_mlx.models import FAMILIES

DISTRIBUTION = "mlx-lm"
_PACKAGE = f"{__package__}.models_of_mlx_lm"
_GUARD = threading.Lock()
_CACHES = ("KVCache", "ArraysCache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model of mlx-lm: its `module`, and the keys of a config.json that it reads, with their Python types.

    `required` keys have no default. One that `attends` keeps keys and values of each token, one that `recurs` a state.
    """

    model_type: str
    module: str
    version: str
    fields: Mapping[str, str] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    attends: bool = True
    recurs: bool = False


def installed_version() -> str | None:
    """That of mlx-lm, None where it is not installed."""
    found = _installed()
    return None if found is None else found[1]


def find_family(model_type: object) -> Family | None:
    """The model of mlx-lm for a `model_type` that this engine has no decoder for; None where there is none."""
    if not isinstance(model_type, str) or model_type in FAMILIES:
        return None
    found = _installed()
    return None if found is None else _family(*found, model_type)


def known_families() -> list[str]:
    """Every `model_type` that mlx-lm alone knows by its own name; none where it is not installed."""
    found = _installed()
    if found is None:
        return []
    return sorted(name for name in _modules(found[0]) if name not in FAMILIES and _family(*found, name) is not None)


def import_model(module: str) -> ModuleType:
    """A module of mlx-lm's models. Raises whatever that raises."""
    found = _installed()
    if found is None:
        raise ModuleNotFoundError(f"{DISTRIBUTION} is not installed")
    with _GUARD:
        if _PACKAGE not in sys.modules:
            package = ModuleType(_PACKAGE)
            package.__path__ = [str(found[0])]
            sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{module}")


def _installed() -> tuple[Path, str] | None:
    """The folder of the models, and the version."""
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    spec = find_spec("mlx_lm")
    places = (spec.submodule_search_locations if spec is not None else None) or ()
    return next(((folder, version) for place in places if (folder := Path(place) / "models").is_dir()), None)


@cache
def _modules(folder: Path) -> frozenset[str]:
    return frozenset(path.stem for path in folder.glob("*.py"))


@cache
def _family(folder: Path, version: str, model_type: str) -> Family | None:
    module = _other_names(folder).get(model_type, model_type)
    # What a config says is compared with the names of files, and never becomes part of a path otherwise.
    if module not in _modules(folder):
        return None
    try:
        source = (folder / f"{module}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        return None
    names = {name for node in tree.body for name in _bound(node)}
    if not {"Model", "ModelArgs"} <= names or any(map(_reaches_out, ast.walk(tree))):
        return None
    fields, required = _arguments(tree)
    makes_cache = "def make_cache" in source
    attends, recurs = (name in source for name in _CACHES)
    return Family(
        model_type=model_type,
        module=module,
        version=version,
        fields=fields,
        required=required,
        # Without a word about its cache it gets the usual one.
        attends=attends or not makes_cache or not recurs,
        recurs=recurs,
    )


@cache
def _other_names(folder: Path) -> Mapping[str, str]:
    """Other values of `model_type` that a module of mlx-lm serves, as its table says."""
    try:
        tree = ast.parse((folder.parent / "utils.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_REMAPPING":
                return {str(name): str(module) for name, module in ast.literal_eval(node.value).items()}
    except (OSError, ValueError, SyntaxError, AttributeError):
        pass
    return {}


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)


def _reaches_out(node: ast.AST) -> bool:
    """Whether something imports more of mlx-lm than its models."""
    if isinstance(node, ast.ImportFrom):
        return node.level > 1 or (node.level == 0 and str(node.module).partition(".")[0] == "mlx_lm")
    return isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "mlx_lm" for alias in node.names)


def _arguments(tree: ast.Module) -> tuple[dict[str, str], frozenset[str]]:
    """The fields of ModelArgs with their annotations, and those without a default."""
    found = [
        item
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "ModelArgs"
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    fields = {ast.unparse(item.target): ast.unparse(item.annotation) for item in found}
    return fields, frozenset(ast.unparse(item.target) for item in found if item.value is None)
