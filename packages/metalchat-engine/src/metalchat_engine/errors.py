"""Everything that this package raises.

    EngineError
    ├── EngineNotFound          no installed engine has that name
    ├── EngineConflict          two distributions offer the same name
    ├── IncompatibleEngine      the engine cannot be imported, or speaks another version of the contract
    ├── UnsupportedModel        a whole model, but not one this engine runs
    ├── InvalidModel            a damaged or dishonest model file
    ├── UnsupportedRequest      a setting or request that names what is not honoured
    │   └── ContextTooLong      the prompt leaves no room for an answer
    ├── OutOfMemory             the model or the request does not fit
    └── ModelClosed             the model was closed

Messages are one line and name what can be changed.
"""


class EngineError(Exception):
    """Base of all errors of the contract; engines raise these and nothing else on purpose."""


class EngineNotFound(EngineError):
    """No installed engine has that name."""


class EngineConflict(EngineError):
    """Two installed distributions offer an engine of the same name."""


class IncompatibleEngine(EngineError):
    """The engine's distribution does not import, or implements another version of the contract."""


class UnsupportedModel(EngineError):
    """A whole model that this engine cannot run."""


class InvalidModel(EngineError):
    """A model file that is damaged or does not hold what it claims."""


class UnsupportedRequest(EngineError):
    """Asked for something that was not declared. `option` names it."""

    def __init__(self, message: str, *, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class ContextTooLong(UnsupportedRequest):
    """The prompt's tokens do not fit the context length together with one answer token."""


class OutOfMemory(EngineError):
    """The model or the request does not fit in memory."""


class ModelClosed(EngineError):
    """The model was closed before or while it answered."""
