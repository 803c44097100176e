"""Credentials in a home of their own, over a keychain that is watched."""

import pytest
from metalchat_credentials import Credentials
from metalchat_credentials.testing import MemoryBackend, SpyBackend


@pytest.fixture
def spy():
    return SpyBackend(MemoryBackend(name="keyring"))


@pytest.fixture
def make(tmp_path, spy):
    """Credentials of one home, as another process would open them."""

    def make(environ=None, **backends):
        return Credentials(
            tmp_path / "home",
            environ={"HOME": str(tmp_path), **(environ or {})},
            directory=tmp_path,
            backends={"keyring": spy, **backends},
        )

    return make
