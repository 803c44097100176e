"""Answers that must have a form: what a request asks for, compiled, and the tokens that may come next."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from metalchat_engine import Constraint, Grammar, JsonSchema, Regex, UnsupportedRequest
from numpy.typing import NDArray

if TYPE_CHECKING:
    import llguidance
    from metalchat_prompt import Prompt

_MOST_TRIALS = 200
_LONGEST = 300
_PLACE = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: ")
_SHOWN = re.compile(r"\s*(\d+ \||\^)")
_NESTED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "contains", "if", "then", "else", "propertyNames")


class Guide:
    """Follows one answer through its grammar. Making one raises what `mask` does: before any token is computed."""

    def __init__(self, matcher: "llguidance.LLMatcher", vocab_size: int, option: str) -> None:
        self._matcher, self._vocab_size, self._option = matcher, vocab_size, option
        self._first: NDArray[np.bool_] | None = None
        self._first = self.mask()

    @property
    def done(self) -> bool:
        """Whether the answer is whole, and nothing can follow."""
        return self._matcher.is_stopped()

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next. The tokens that end an answer may where it is whole.

        Raises UnsupportedRequest where none may, or where finding out takes too long.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return first
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little").view(np.bool_)[: self._vocab_size]
        self._check()
        if not allowed.any():
            raise self._refused("no token of the model's vocabulary can continue the answer")
        if allowed.size < self._vocab_size:
            allowed = np.pad(allowed, (0, self._vocab_size - allowed.size))
        return allowed

    def accept(self, token: int) -> None:
        """Take the token that was drawn. Raises UnsupportedRequest where the grammar has become too complex."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._refused(_line(self._matcher.get_error()))

    def _refused(self, reason: str) -> UnsupportedRequest:
        return UnsupportedRequest(f"{self._option} could not be followed: {reason}", option=self._option)


class Compiler:
    """Compiles constraints for one model. The vocabulary is converted when the first is asked for, and kept.

    Safe to share between threads.
    """

    def __init__(self, prompt: "Prompt", *, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self._prompt, self._vocab_size = prompt, vocab_size
        self._stop_ids = sorted(token for token in stop_ids if token < vocab_size)
        self._lock = threading.Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None

    def constraint(self, constraint: Constraint, after: Sequence[int]) -> Guide:
        """A guide for the answer to the prompt `after`. Raises UnsupportedRequest for what cannot be compiled."""
        term = _term(constraint)
        grammar = self._prompt.answer_grammar(term, after=after)
        if isinstance(constraint, Grammar) and grammar == f"start: {term}\n":
            grammar = constraint.grammar
        matcher = self._matcher(grammar)
        if matcher.is_error():
            reason = _line(matcher.get_error(), place=isinstance(constraint, Grammar))
            where = ""
            if isinstance(constraint, JsonSchema):
                path, inner = self._culprit(constraint.schema)
                reason, where = inner or reason, f" at '{path}'" if path else ""
            raise UnsupportedRequest(f"the constraint cannot be compiled{where}: {reason}", option="constraint")
        return Guide(matcher, self._vocab_size, "constraint")

    def calls(self, grammar: str) -> Guide:
        """A guide for an answer that is calls of tools. Raises UnsupportedRequest for parameters it cannot compile."""
        matcher = self._matcher(grammar)
        if matcher.is_error():
            reason = _line(matcher.get_error())
            raise UnsupportedRequest(f"the parameters of the tools cannot be compiled: {reason}", option="tools")
        return Guide(matcher, self._vocab_size, "tool_choice")

    def _matcher(self, grammar: str) -> "llguidance.LLMatcher":
        import llguidance

        lark = llguidance.LLMatcher.grammar_from_lark(grammar)
        return llguidance.LLMatcher(self._vocabulary(), lark, log_level=0)

    def _vocabulary(self) -> "llguidance.LLTokenizer":
        import llguidance

        with self._lock:
            if self._tokenizer is None:
                size = max(self._vocab_size, self._prompt.tokenizer.vocab_size)
                try:
                    self._tokenizer = llguidance.LLTokenizer(
                        self._prompt.tokenizer.to_json(), n_vocab=size, eos_token=self._stop_ids or None
                    )
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    # A panic of the library is no Exception.
                    reason = _line(str(error)) or type(error).__name__
                    raise UnsupportedRequest(
                        f"the model's tokenizer cannot be used for constraints: {reason}", option="constraint"
                    ) from error
            return self._tokenizer

    def _culprit(self, schema: Mapping[str, Any]) -> tuple[str, str]:
        """The path of the smallest part of a schema that cannot be compiled, and why."""
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        path, reason, found = "", "", dict(schema)
        trials = 0
        while True:
            for step, part in _parts(found):
                trials += 1
                if trials > _MOST_TRIALS:
                    return path, reason
                matcher = self._matcher(f"start: {_term(JsonSchema(schema={**shared, **part}))}")
                if matcher.is_error() and not _refers(part):
                    path, reason, found = f"{path}/{step}", _line(matcher.get_error()), dict(part)
                    break
            else:
                return path, reason


def _term(constraint: Constraint) -> str:
    """A constraint as a term of a grammar."""
    if isinstance(constraint, JsonSchema):
        from metalchat_prompt import json_term

        try:
            return json_term(constraint.schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnsupportedRequest(f"the JSON Schema is no JSON: {error}", option="constraint") from error
    if isinstance(constraint, Regex):
        import llguidance

        return "/" + llguidance.regex_to_lark(constraint.pattern, "d") + "/"
    if isinstance(constraint, Grammar):
        if constraint.grammar.lstrip().startswith("{"):
            raise UnsupportedRequest("the constraint is not a grammar in Lark notation", option="constraint")
        return f"%lark {{\n{constraint.grammar}\n}}"
    raise UnsupportedRequest("the constraint is of an unknown kind", option="constraint")


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas inside a schema, with the end of their path."""
    for key in _NESTED:
        inner = schema.get(key)
        for name, part in inner.items() if isinstance(inner, Mapping) else ():
            if isinstance(part, Mapping):
                yield f"{key}/{name}", part
    for key in _LISTED:
        listed = schema.get(key)
        for place, part in enumerate(listed if isinstance(listed, Sequence) else ()):
            if isinstance(part, Mapping):
                yield f"{key}/{place}", part
    for key in _SINGLE:
        part = schema.get(key)
        if isinstance(part, Mapping):
            yield key, part


def _refers(schema: Mapping[str, Any]) -> bool:
    """Whether a reference would point elsewhere if this part stood alone."""
    reference = schema.get("$ref", "")
    shared = ("#/$defs/", "#/definitions/")
    return isinstance(reference, str) and reference.startswith("#") and not reference.startswith(shared)


def _line(text: str, *, place: bool = False) -> str:
    """What a message of the library says, in one line and kept short; `place` keeps the line and column."""
    # The library shows the place in its input too, in lines of their own.
    said = [
        line.strip()
        for line in text.partition("<state>")[0].splitlines()
        if re.search(r"\w", line) and not _SHOWN.match(line)
    ]
    line = " ".join(said) if place else _PLACE.sub("", " ".join(said))
    return "".join(character if character.isprintable() else " " for character in line)[:_LONGEST].strip()
