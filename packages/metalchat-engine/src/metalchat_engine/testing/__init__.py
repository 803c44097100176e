"""What tests of an engine, and of whoever talks to one, are made of."""

from metalchat_engine.testing._answer import Answer, collect
from metalchat_engine.testing._distribution import write_distribution
from metalchat_engine.testing._echo import EchoEngine, EchoModel, Reply

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from metalchat_engine.testing._contract import EngineContract

__all__ = ["Answer", "EchoEngine", "EchoModel", "EngineContract", "Reply", "collect", "write_distribution"]


def __getattr__(name: str) -> object:
    # The contract is the only part that needs pytest.
    if name != "EngineContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite("metalchat_engine.testing._capabilities", "metalchat_engine.testing._contract")
    from metalchat_engine.testing._contract import EngineContract

    return EngineContract
