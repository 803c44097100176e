import subprocess
import sys
import textwrap

import pytest
from metalchat_credentials import Secret, SecretKey, parse_url
from metalchat_credentials.backends.dotenv import DotenvBackend
from metalchat_credentials.backends.environment import EnvironmentBackend
from metalchat_credentials.backends.huggingface import HuggingFaceBackend
from metalchat_credentials.backends.keyring import KeyringBackend
from metalchat_credentials.testing import MemoryBackend, SecretBackendContract, SpyBackend

HUB = SecretKey(url=parse_url("https://huggingface.co"), username="")


class Keyring:
    """The keyring library's interface over a dictionary."""

    name = "dictionary Keyring"

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], str] = {}

    def get_password(self, service, username):
        return self.items.get((service, username))

    def set_password(self, service, username, password):
        self.items[service, username] = password

    def delete_password(self, service, username):
        del self.items[service, username]


class TestMemory(SecretBackendContract):
    @pytest.fixture
    def backend(self):
        return MemoryBackend()


class TestSpy(SecretBackendContract):
    @pytest.fixture
    def backend(self):
        return SpyBackend()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
class TestKeyring(SecretBackendContract):
    @pytest.fixture
    def backend(self, platform):
        keyring = Keyring()
        yield KeyringBackend(keyring, platform=platform)
        assert keyring.items == {}, "the kit leaves nothing behind"


class TestEnvironment(SecretBackendContract):
    @pytest.fixture
    def backend(self):
        return EnvironmentBackend({"HF_TOKEN": "hf_environment"})

    @pytest.fixture
    def known(self):
        return HUB, Secret("hf_environment")


class TestDotenv(SecretBackendContract):
    @pytest.fixture
    def backend(self, tmp_path):
        (tmp_path / ".env").write_text("HUGGINGFACE_READ_API=hf_dotenv\n")
        return DotenvBackend(tmp_path, {})

    @pytest.fixture
    def known(self):
        return HUB, Secret("hf_dotenv")


class TestHuggingFace(SecretBackendContract):
    @pytest.fixture
    def backend(self, tmp_path):
        path = tmp_path / "token"
        path.write_text("hf_file\n")
        path.chmod(0o600)
        return HuggingFaceBackend({"HF_TOKEN_PATH": str(path)})

    @pytest.fixture
    def known(self):
        return HUB, Secret("hf_file")


def test_the_kit_fails_a_backend_that_mixes_the_purposes_up(tmp_path) -> None:
    (tmp_path / "test_kit.py").write_text(
        textwrap.dedent("""
        import pytest
        from metalchat_credentials.testing import MemoryBackend, SecretBackendContract

        class Careless(MemoryBackend):
            def _key(self, key):
                return key.url.origin, key.username

            def get(self, key):
                return self._secrets.get(self._key(key))

            def set(self, key, secret):
                self._secrets[self._key(key)] = secret

            def delete(self, key):
                return self._secrets.pop(self._key(key), None) is not None

        class TestCareless(SecretBackendContract):
            @pytest.fixture
            def backend(self):
                return Careless()

        class ReadsOnly:
            name = "reads"

            def get(self, key):
                return None

        class TestReadsOnly(SecretBackendContract):
            @pytest.fixture
            def backend(self):
                return ReadsOnly()
        """)
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-rfE", "test_kit.py"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout
    for failed in (
        "TestCareless::test_the_purposes_are_kept_apart",
        "TestCareless::test_every_address_has_its_own_secret",
        "TestCareless::test_deleting_one_leaves_the_others",
        "TestReadsOnly::test_it_returns_the_secret_of_a_key_every_time",
    ):
        assert failed in output
    assert "a backend that only reads needs a fixture `known`" in output
