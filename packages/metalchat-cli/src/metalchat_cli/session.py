"""From what is checked out and configured to a loaded model, and what to ask it with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from metalchat_cli import errors, frozen, home

if TYPE_CHECKING:
    from cyclopts import Token
    from metalchat_engine import (
        ContextTooLong,
        Engine,
        EngineSettings,
        GenerationRequest,
        Message,
        Model,
        ModelSource,
        Sampling,
    )
    from metalchat_manifest import Resolved, Value

_TOP_P = "inference.sampling.probability"
_LENGTH = "inference.max_sequence_length"
_NOTHING_LEFT = "is 0.0, expected a number above 0, up to 1"


def _whole(_type: object, tokens: "Sequence[Token]") -> int:
    # The conversion that comes with cyclopts rounds 1.5 to 2.
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'Invalid value for {tokens[0].keyword}: "{text}" is not an integer') from None


Whole = Annotated[int | None, Parameter(converter=_whole)]
"""An option that takes an integer and nothing that is nearly one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A loaded model with the settings in force. `system` is the text of the system prompt, if any."""

    model: "Model"
    sampling: "Sampling"
    system: str | None
    max_tokens: int | None
    resolved: "Resolved"
    adapter: str | None = None

    def too_long(self, error: "ContextTooLong") -> str:
        """What can be done about a prompt that is too long: the setting is named where it is what limits."""
        layers = self.resolved.explain(_LENGTH)
        own = [layer.value for layer in layers if layer.origin.scope == "config.json"]
        limit = self.model.info.context_length
        if not layers or layers[-1].value != limit or any(value == limit for value in own):
            return str(error)
        return f"{error}, or raise {_LENGTH}, which is {limit}"

    def request(self, messages: "tuple[Message, ...]", conversation: str | None = None) -> "GenerationRequest":
        """The request for the next answer to `messages`, the system prompt put in front unless they bring one."""
        from metalchat_engine import GenerationRequest, Message

        if self.system is not None and not any(message.role == "system" for message in messages):
            messages = (Message.system(self.system), *messages)
        return GenerationRequest(
            messages=messages,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            conversation=conversation,
            adapter=self.adapter,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the flags of `prompt` and `chat` override; None leaves a value to the manifests.

    Parameters
    ----------
    model
        Another model than the one checked out: an id, its beginning, or a part of its repository's name.
    engine
        The engine to run it with.
    system
        The system prompt, in place of the manifest's; an empty one is none.
    max_tokens
        At most this many tokens an answer.
    temperature
        0 takes the likeliest token each time.
    top_p
        Sample from the likeliest tokens that together have this probability.
    top_k
        Sample from this many likeliest tokens.
    seed
        The same seed gives the same answer.
    adapter
        A LoRA adapter: a name of the table [engine.adapters], or a folder.
    frozen
        Only the model and the content that metalchat.lock says.
    """

    model: str | None = None
    engine: str | None = None
    adapter: str | None = None
    system: str | None = None
    max_tokens: Whole = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole = None
    seed: Whole = None
    frozen: bool = False

    def flags(self) -> "dict[str, Value]":
        """The choices as manifest keys.

        Raises:
            Usage: an option with a value that it does not take.
        """
        from metalchat_manifest import KEYS

        keys: dict[str, Value] = {}
        for option, (key, value) in self._keys().items():
            if value is not None:
                problem = KEYS[key].problem(value)
                if key == _TOP_P and value == 0:
                    problem = _NOTHING_LEFT
                if problem is not None:
                    raise errors.Usage(f"--{option} {problem}")
                keys[key] = value
        if self.system is not None:
            check_text("--system", self.system)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise errors.Usage(f"--max-tokens is {self.max_tokens}, expected an integer from 1")
        if self.temperature is not None:
            keys["inference.sampling.type"] = "greedy" if self.temperature == 0 else "nucleus"
        return keys

    def _keys(self) -> "dict[str, tuple[str, Value | None]]":
        return {
            "engine": ("engine.name", self.engine),
            "temperature": ("inference.sampling.temperature", self.temperature),
            "top-p": (_TOP_P, self.top_p),
            "top-k": ("inference.sampling.k", self.top_k),
            "seed": ("inference.sampling.seed", self.seed),
        }


NO_CHOICES = Choices()


@contextmanager
def opened(choices: Choices) -> Iterator[Session]:
    """Load the effective model with its engine, and close it at the end.

    Raises:
        NotCheckedOut: no scope selects a model and `choices` names none.
    """
    resolved = settings(choices)
    if frozen.wanted(choices.frozen):
        home.store().check_lock(frozen.locked(resolved))
    system = (choices.system or None) if choices.system is not None else resolved.system_prompt()
    chosen = sampling(resolved)
    engine, source, engine_settings = engine_for(resolved)
    adapter = None
    if choices.adapter is not None:
        adapter, folder = adapter_folder(resolved, choices.adapter)
        engine_settings = replace(engine_settings, extra={**engine_settings.extra, "adapters": {adapter: str(folder)}})
    with load(engine, source, engine_settings) as model:
        yield Session(
            model=model,
            sampling=chosen,
            system=system,
            max_tokens=choices.max_tokens,
            resolved=resolved,
            adapter=adapter,
        )


def load(engine: "Engine", source: "ModelSource", engine_settings: "EngineSettings") -> "Model":
    """Load a model; where a shorter context would fit, the error names the setting. Raises EngineError."""
    from metalchat_engine import OutOfMemory

    try:
        return engine.load(source, engine_settings)
    except OutOfMemory as error:
        if error.largest_context is None:
            raise
        text = f"{error}; set {_LENGTH} to {error.largest_context} or less"
        raise OutOfMemory(text, largest_context=error.largest_context) from error


def settings(choices: Choices) -> "Resolved":
    """Every setting in force for the effective model."""
    flags = choices.flags()
    return home.settings(flags, None if choices.model is None else home.whole(choices.model))


def engine_for(resolved: "Resolved") -> "tuple[Engine, ModelSource, EngineSettings]":
    """The engine that the settings name, and what to hand it."""
    from metalchat_engine import EngineSettings, ModelSource, load_engine

    if resolved.model is None:
        raise errors.NotCheckedOut(
            "requested scope not checked out. Run 'metalchat checkout ID', or begin with 'metalchat quickstart'"
        )
    with home.naming_the_pull(resolved.model):
        path = home.store().path(resolved.model.id)
    name, table = engine_table(resolved)
    engine = load_engine(name)
    length = resolved.setting(_LENGTH)
    chosen = length is not None and length.origin.scope != "config.json"
    options = {name: setting.value for name, setting in resolved.options().items()}
    return (
        engine,
        ModelSource(path=path, name=resolved.model.repository, options=options),
        EngineSettings(
            context_length=int(length.value) if length is not None and chosen else None,
            extra=table,
            state_directory=home.home() / "cache",
        ),
    )


def engine_table(resolved: "Resolved") -> "tuple[str, dict[str, Value]]":
    """The name of the engine, and the keys of [engine] as it takes them. An adapter is loaded where it is asked for."""
    table = {key: value for key, value in resolved.section("engine").items() if not key.startswith("adapters.")}
    name = str(table.pop("name", "mlx"))
    return name, with_draft(table)


def adapter_folder(resolved: "Resolved", name: str) -> tuple[str, Path]:
    """The name of an adapter and its folder, which starts from the manifest that names it.

    Raises:
        Usage: `name` is neither in [engine.adapters] nor a folder.
    """
    setting = resolved.setting(f"engine.adapters.{name}")
    if setting is not None:
        origin = setting.origin.path
        return name, (Path.cwd() if origin is None else origin.parent.absolute()) / str(setting.value)
    if Path(name).is_dir():
        folder = Path(name).resolve()
        return folder.name or "adapter", folder
    known = ", ".join(sorted(resolved.section("engine.adapters"))) or "nothing"
    raise errors.Usage(f"--adapter '{name}' is neither a folder nor a name of [engine.adapters], which has {known}")


def with_draft(table: "Mapping[str, Value]") -> "dict[str, Value]":
    """The keys of [engine] as an engine takes them: a draft that is a model of the store by its path."""
    draft = table.get("draft")
    if not isinstance(draft, str) or Path(draft).is_absolute():
        return dict(table)
    return {**table, "draft": str(home.store().path(home.whole(draft).id))}


def sampling(resolved: "Resolved") -> "Sampling":
    """The [inference.sampling] in force as the engine's contract has it; what nothing sets is left to the engine.

    Raises:
        Usage: no token could be sampled.
    """
    from metalchat_engine import Sampling

    table: Mapping[str, Value] = resolved.section("inference.sampling")
    greedy = table.get("type") == "greedy"
    if not greedy and table.get("probability") == 0:
        raise errors.Usage(f"'{_TOP_P}' {_NOTHING_LEFT}")
    seed, top_k = table.get("seed"), table.get("k")
    return Sampling(
        temperature=0.0 if greedy else _number(table, "temperature"),
        top_p=None if greedy else _number(table, "probability"),
        top_k=None if greedy or top_k is None else int(top_k),
        min_p=None if greedy else _number(table, "min_p"),
        seed=None if seed is None else int(seed),
        repetition_penalty=_number(table, "repetition_penalty"),
        presence_penalty=_number(table, "presence_penalty"),
        frequency_penalty=_number(table, "frequency_penalty"),
    )


def check_text(option: str, text: str) -> None:
    """Refuse an argument with bytes that are no text, which Python hands on as halves of characters.

    Raises:
        Usage: it has some.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.Usage(f"{option} is not UTF-8 text (character {error.start})") from error


def _number(table: "Mapping[str, Value]", name: str) -> float | None:
    value = table.get(name)
    return None if value is None else float(value)
