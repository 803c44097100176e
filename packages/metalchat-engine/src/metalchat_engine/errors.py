"""Everything that this package raises.

    EngineError                 1
    ├── EngineNotFound          2   no installed engine has that name
    ├── EngineConflict          2   two distributions offer the same name
    ├── IncompatibleEngine      1   the engine cannot be imported, or speaks another version of the contract
    ├── UnsupportedModel        6   a whole model, but not one this engine runs
    ├── InvalidModel            6   a damaged or dishonest model file
    ├── UnsupportedRequest      2   a setting or request that names what is not honoured
    │   └── ContextTooLong      2   the prompt leaves no room for an answer
    ├── OutOfMemory             1   the model or the request does not fit
    └── ModelClosed             1   the model was closed

Messages are one line and name what can be changed. The numbers are `exit_code`: what a command that
fails with the error exits with.
"""

from typing import ClassVar


class EngineError(Exception):
    """Base of all errors of the contract; engines raise these and nothing else on purpose."""

    exit_code: ClassVar[int] = 1


class EngineNotFound(EngineError):
    """No installed engine, or plug-in of another group, has that name."""

    exit_code: ClassVar[int] = 2


class EngineConflict(EngineError):
    """Two installed distributions offer an engine, or plug-in of another group, of the same name."""

    exit_code: ClassVar[int] = 2


class IncompatibleEngine(EngineError):
    """The plug-in's distribution does not import, or implements another version of the contract."""


class UnsupportedModel(EngineError):
    """A whole model that this engine cannot run."""

    exit_code: ClassVar[int] = 6


class InvalidModel(EngineError):
    """A model file that is damaged or does not hold what it claims."""

    exit_code: ClassVar[int] = 6


class UnsupportedRequest(EngineError):
    """Asked for something that was not declared. `option` names it."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class ContextTooLong(UnsupportedRequest):
    """The prompt's tokens do not fit the context length together with one answer token."""


class OutOfMemory(EngineError):
    """The model or the request does not fit in memory. `largest_context` would fit, where that is known and not 0."""

    def __init__(self, message: str, *, largest_context: int | None = None) -> None:
        super().__init__(message)
        self.largest_context = largest_context


class ModelClosed(EngineError):
    """The model was closed before or while it answered."""
