"""What holds here: every layer of settings merged, and where each value comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from metalchat_manifest._files import TooLarge, read_bounded
from metalchat_manifest._secrets import token_offset
from metalchat_manifest._toml import FILE_NAME
from metalchat_manifest.environment import read_environment, variable
from metalchat_manifest.errors import InvalidPrompt, InvalidSetting, ManifestNotFound, ManifestUnreadable
from metalchat_manifest.manifest import Manifest
from metalchat_manifest.model_files import ModelFile, read_config, read_generation_config
from metalchat_manifest.schema import check_setting
from metalchat_manifest.scopes import Origin, Scope, Setting, find_local, global_path, model_path
from metalchat_manifest.spec import ModelSpec
from metalchat_manifest.values import Value

DEFAULTS: Mapping[str, Value] = MappingProxyType(
    {
        "engine.name": "mlx",
        "inference.sampling.k": 40,
        "inference.sampling.min_p": 0.05,
        "inference.sampling.probability": 0.95,
        "inference.sampling.temperature": 0.8,
    }
)
"""The weakest layer. Its sampling, which is that of llama.cpp, is for models that do not say how to be sampled: drawing
from the whole vocabulary at temperature 1, the neutral value, small models write nonsense."""

MAX_PROMPT_BYTES = 2**20

_OTHERS = "is said by the global manifest or a variable; this file may come from others"
_KEPT_BACK: Mapping[str, str] = MappingProxyType(
    {
        "engine.state_directory": f"where files are written {_OTHERS}",  # an engine also deletes what it finds there
        "engine.blas": f"which library is loaded {_OTHERS}",  # its code runs
    }
)
"""Keys of an engine that only a person's own files set, and why."""

_TYPE = "inference.sampling.type"
_SHAPING = tuple(f"inference.sampling.{name}" for name in ("temperature", "probability", "k", "min_p"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A setting that a file makes and that has no effect, and why."""

    setting: Setting
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One source of values; lines are looked up when an origin is asked for, since few are."""

    scope: str
    values: Mapping[str, Value]
    ignored: Mapping[str, str] = field(default_factory=dict)  # key: reason
    file: Manifest | ModelFile | None = None

    def setting(self, key: str) -> Setting:
        path = self.file.path if self.file is not None else None
        line = self.file.line(key) if self.file is not None else None
        name = variable(key) if self.scope == "environment" else None
        return Setting(
            key=key, value=self.values[key], origin=Origin(scope=self.scope, path=path, line=line, variable=name)
        )


class Resolved:
    """The settings in effect. Made by `resolve`; files are read then, not later, but for the system prompt.

    `model` is the selected model, None where no scope selects one; `model_origin` says who did.
    `manifests` has the manifest of each scope that has a file.
    """

    def __init__(
        self,
        *,
        layers: tuple[_Layer, ...],
        model: ModelSpec | None,
        model_origin: Origin | None,
        manifests: Mapping[Scope, Manifest],
        directory: Path,
    ) -> None:
        self.model = model
        self.model_origin = model_origin
        self.manifests = manifests
        self._layers = layers
        self._directory = directory
        self._winners: dict[str, int] = {
            key: index for index, layer in enumerate(layers) for key in layer.values if key not in layer.ignored
        }

    def get(self, key: str, default: Value | None = None) -> Value | None:
        """The value in effect, or `default` where no layer has one."""
        index = self._winners.get(key)
        return default if index is None else self._layers[index].values[key]

    def setting(self, key: str) -> Setting | None:
        """The value in effect with its origin; None where no layer has one."""
        index = self._winners.get(key)
        return None if index is None else self._layers[index].setting(key)

    def settings(self) -> tuple[Setting, ...]:
        """Every setting in effect, sorted by key."""
        return tuple(self._layers[index].setting(key) for key, index in sorted(self._winners.items()))

    def explain(self, key: str) -> tuple[Setting, ...]:
        """The setting of every layer that has one, weakest first: the last one is in effect."""
        return tuple(layer.setting(key) for layer in self._layers if key in layer.values and key not in layer.ignored)

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Settings without effect: options of a scope that selects another model, tools and an engine's
        `state_directory` and `blas` in a file that may come from others, and greedy sampling where a stronger layer
        sets a temperature, probability, k or min_p."""
        return tuple(
            Ignored(setting=layer.setting(key), reason=reason)
            for layer in self._layers
            for key, reason in layer.ignored.items()
        )

    def options(self) -> Mapping[str, Setting]:
        """What overrides the model's config.json, by option name: the strongest of all layers but that file."""
        start = "options."
        found: dict[str, Setting] = {}
        for key, index in self._winners.items():
            layer = self._layers[index]
            if key.startswith(start) and layer.scope != "config.json":
                found[key.removeprefix(start)] = layer.setting(key)
        return found

    def section(self, table: str) -> Mapping[str, Value]:
        """The values in effect whose keys begin with `table`, without that beginning."""
        start = f"{table}."
        return {
            key.removeprefix(start): self._layers[index].values[key]
            for key, index in self._winners.items()
            if key.startswith(start)
        }

    def system_prompt(self) -> str | None:
        """The text of the file that `prompt.system` names; None where nobody names one, or the name is empty.

        A relative name starts from the manifest's folder, or from the working directory for a flag or a
        variable. Raises InvalidPrompt for what is not a UTF-8 text file of at most MAX_PROMPT_BYTES, or holds a token.
        """
        setting = self.setting("prompt.system")
        if setting is None or not setting.value:
            return None
        origin = setting.origin
        folder = origin.path.parent if origin.path is not None else self._directory
        path = folder / str(setting.value)
        cause: Exception | None = None
        try:
            text = read_bounded(path, MAX_PROMPT_BYTES).decode().removeprefix("\ufeff")
            if token_offset(text) is None:
                return text
            # A manifest that came with a project can name any file, /proc/self/environ included.
            why = "it holds an access token"
        except FileNotFoundError as error:
            why, cause = "there is no such file", error
        except TooLarge as error:
            why, cause = f"it is larger than {MAX_PROMPT_BYTES // 2**20} MiB", error
        except UnicodeDecodeError as error:
            why, cause = "it is not UTF-8 text", error
        except ManifestUnreadable as error:
            why, cause = "it is not a file that can be read", error
        message = f"the file of 'prompt.system', {path}, cannot be used: {why}"
        raise InvalidPrompt(message, path=origin.path, line=origin.line, key="prompt.system") from cause


def resolve(
    *,
    home: Path,
    directory: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, Value] = MappingProxyType({}),
    model: ModelSpec | None = None,
) -> Resolved:
    """Merges the layers, weakest first: default, the model's config.json and generation_config.json, its manifest,
    the global manifest, the local one, the environment, flags.

    `home` is metalchat's own folder ($METALCHAT_HOME), `directory` the working directory. The search for the
    local manifest ends at `HOME` of `environ`, if set. `model` stands for a flag that selects a model; else the
    local manifest selects it, else the global one. Nothing is created. Raises InvalidManifest, InvalidModelFile,
    ManifestUnreadable, and InvalidSetting for a flag or variable.
    """
    for key, value in flags.items():
        check_setting(key, value)
        if key.startswith("model."):
            raise InvalidSetting(f"'{key}' is not a flag; 'metalchat checkout' selects a model", key=key)
    environment = read_environment(environ)
    user = Path(environ["HOME"]) if environ.get("HOME") else home.parent
    manifests: dict[Scope, Manifest] = {}
    _read(manifests, Scope.GLOBAL, global_path(home))
    local = find_local(directory, home=user)
    if local is not None and not _is_same(local, global_path(home)):
        _read(manifests, Scope.LOCAL, local)
    chosen, origin = _choose(manifests, model)
    layers = [_Layer(scope="default", values=DEFAULTS)]
    if chosen is not None:
        folder = _model_folder(home, chosen)
        files = [file for file in (read_config(folder), read_generation_config(folder)) if file is not None]
        if any(key in file.values for file in files for key in (_TYPE, *_SHAPING)):
            layers = [_Layer(scope="default", values={key: DEFAULTS[key] for key in DEFAULTS if key not in _SHAPING})]
        layers += [_Layer(scope=file.path.name, values=file.values, file=file) for file in files]
        _read(manifests, Scope.MODEL, folder / FILE_NAME)
    for scope in (Scope.MODEL, Scope.GLOBAL, Scope.LOCAL):
        manifest = manifests.get(scope)
        if manifest is not None:
            ignored = _ignored(scope, manifest, chosen)
            layers.append(_Layer(scope=scope.value, values=manifest.values, ignored=ignored, file=manifest))
    layers.append(_Layer(scope="environment", values=environment))
    layers.append(_Layer(scope="flag", values=dict(flags) | _model_values(model)))
    return Resolved(
        layers=_without_overruled_greedy(layers),
        model=chosen,
        model_origin=origin,
        manifests=MappingProxyType(manifests),
        directory=directory,
    )


def _without_overruled_greedy(layers: list[_Layer]) -> tuple[_Layer, ...]:
    """Who sets a temperature wants it used, also over a model whose generation_config.json says `do_sample: false`."""
    shaped = max((index for index, layer in enumerate(layers) if layer.values.keys() & set(_SHAPING)), default=-1)
    reason = "a stronger layer sets how to sample"
    return tuple(
        replace(layer, ignored={**layer.ignored, _TYPE: reason})
        if index < shaped and layer.values.get(_TYPE) == "greedy"
        else layer
        for index, layer in enumerate(layers)
    )


def _read(manifests: dict[Scope, Manifest], scope: Scope, path: Path) -> None:
    try:
        manifests[scope] = Manifest.read(path)
    except ManifestNotFound:
        return


def _is_same(left: Path, right: Path) -> bool:
    try:
        return left.samefile(right)
    except OSError:
        return False


def _choose(manifests: Mapping[Scope, Manifest], flag: ModelSpec | None) -> tuple[ModelSpec | None, Origin | None]:
    if flag is not None:
        return flag, Origin(scope="flag")
    for scope in (Scope.LOCAL, Scope.GLOBAL):
        manifest = manifests.get(scope)
        if manifest is not None and manifest.model is not None:
            return manifest.model, Origin(scope=scope.value, path=manifest.path, line=manifest.line("model"))
    return None, None


def _model_folder(home: Path, model: ModelSpec) -> Path:
    folders = [model_path(home, each).parent for each in model.ids]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _model_values(model: ModelSpec | None) -> dict[str, Value]:
    if model is None:
        return {}
    return {
        "model.repository": model.repository,
        "model.architecture": model.architecture,
        "model.partitioning": model.partitioning,
        "model.variant": model.variant,
    }


def _ignored(scope: Scope, manifest: Manifest, chosen: ModelSpec | None) -> dict[str, str]:
    ignored: dict[str, str] = {}
    if manifest.model is not None and (chosen is None or manifest.model.id != chosen.id):
        reason = f"the {scope} manifest selects another model"
        ignored |= {key: reason for key in manifest.values if key.startswith("options.")}
    if scope is not Scope.GLOBAL:
        reason = "tools are enabled by the global manifest, a variable or a flag; this file may come from others"
        ignored |= {key: reason for key in manifest.values if key.startswith("tools.")}
        ignored |= {key: reason for key, reason in _KEPT_BACK.items() if key in manifest.values}
    return ignored
