"""What others need to test a secret backend, or code that uses credentials: the conformance kit and two fakes.

The kit needs pytest, which is no dependency of this package.
"""

import pytest

pytest.register_assert_rewrite("metalchat_credentials.testing._contract")

from metalchat_credentials.testing._contract import SecretBackendContract  # noqa: E402 - after the registration
from metalchat_credentials.testing._fakes import MemoryBackend, SpyBackend  # noqa: E402 - the same

__all__ = ["MemoryBackend", "SecretBackendContract", "SpyBackend"]
