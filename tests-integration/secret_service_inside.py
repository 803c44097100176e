"""What test_secret_service.py runs on a D-Bus session of its own: as a program it starts the daemon, then the tests."""

import ctypes
import ctypes.util
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import secretstorage
from metalchat_credentials import Credentials, KeychainError, Purpose, Secret, SecretKey, parse_url
from metalchat_credentials.backends.keyring import KeyringBackend
from metalchat_credentials.testing import SecretBackendContract

HUB = parse_url("https://huggingface.co")
TOKEN = Secret("hf_CANARYcanaryCANARYcanary12345")
OTHER = Secret("hf_CANARYotherCANARYother1234567")
SCHEMA = "org.metalchat.runtime"


class TestSecretService(SecretBackendContract):
    @pytest.fixture
    def backend(self):
        return KeyringBackend()


def items(service: str) -> list[dict[str, str]]:
    with closing(secretstorage.dbus_init()) as connection:
        return [item.get_attributes() for item in secretstorage.search_items(connection, {"service": service})]


def make(home: Path) -> Credentials:
    return Credentials(home, environ={}, directory=home)


def test_a_credential_is_added_used_and_removed(tmp_path) -> None:
    stored = make(tmp_path).add(HUB, username="alice", secret=TOKEN)
    make(tmp_path).add(HUB, username="alice", secret=OTHER, purpose=Purpose.WRITE)
    assert stored.kept_by == "SecretService Keyring"
    assert make(tmp_path).authorization("https://huggingface.co/x") == f"Bearer {TOKEN.reveal()}"
    assert make(tmp_path).authorization("https://huggingface.co/x", Purpose.WRITE) == f"Bearer {OTHER.reveal()}"
    assert items("https://huggingface.co") == [
        {"service": "https://huggingface.co", "username": "alice", "xdg:schema": SCHEMA}
    ]
    assert len(make(tmp_path).remove(HUB)) == 2
    assert make(tmp_path).authorization("https://huggingface.co/x") is None
    assert items("https://huggingface.co") == items("https://huggingface.co#write") == []


class _Attribute(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("type", ctypes.c_int))


class _Schema(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("flags", ctypes.c_int),
        ("attributes", _Attribute * 32),
        ("reserved", ctypes.c_int),
        ("more", ctypes.c_void_p * 7),
    )


class OlderProgram:
    """The older program as the keychain sees it: a libsecret program with the schema org.metalchat.runtime."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("secret-1")
        if name is None:
            pytest.skip("libsecret is not installed")
        self._library = ctypes.CDLL(name)
        self._schema = _Schema(name=SCHEMA.encode())
        self._schema.attributes[0] = _Attribute(b"service", 0)
        self._schema.attributes[1] = _Attribute(b"username", 0)

    @staticmethod
    def _attributes(service: str, username: str) -> list[ctypes.c_char_p]:
        pairs = [b"service", service.encode(), b"username", username.encode(), None]
        return [ctypes.c_char_p(text) for text in pairs]

    def set(self, service: str, username: str, password: str) -> bool:
        fixed = [ctypes.c_char_p(text) for text in (b"default", f"{service} ({username})".encode(), password.encode())]
        return bool(
            self._library.secret_password_store_sync(
                ctypes.byref(self._schema), *fixed, None, None, *self._attributes(service, username)
            )
        )

    def get(self, service: str, username: str) -> str | None:
        look_up = self._library.secret_password_lookup_sync
        look_up.restype = ctypes.c_char_p
        found = look_up(ctypes.byref(self._schema), None, None, *self._attributes(service, username))
        return None if found is None else found.decode()

    def clear(self, service: str, username: str) -> bool:
        return bool(
            self._library.secret_password_clear_sync(
                ctypes.byref(self._schema), None, None, *self._attributes(service, username)
            )
        )


def test_the_older_program_finds_what_was_added(tmp_path) -> None:
    older = OlderProgram()
    make(tmp_path).add(HUB, username="alice", secret=TOKEN)
    assert older.get("https://huggingface.co", "alice") == TOKEN.reveal()
    assert older.get("https://huggingface.co", "bob") is None
    assert older.clear("https://huggingface.co", "alice")
    assert len(make(tmp_path).remove(HUB)) == 1


def test_what_the_older_program_added_is_found_replaced_and_removed(tmp_path) -> None:
    older = OlderProgram()
    assert older.set("https://huggingface.co", "alice", TOKEN.reveal())
    (tmp_path / "config.toml").write_text(
        '[credential."https://huggingface.co"]\nusername = "alice"\nprovider = "@keychain"\n'
    )
    assert make(tmp_path).authorization("https://huggingface.co/x") == f"Bearer {TOKEN.reveal()}"
    make(tmp_path).add(HUB, username="alice", secret=OTHER)
    assert older.get("https://huggingface.co", "alice") == OTHER.reveal()
    assert len(items("https://huggingface.co")) == 1
    make(tmp_path).remove(HUB)
    assert older.get("https://huggingface.co", "alice") is None


def test_what_the_keyring_library_added_is_found_and_does_not_hide_a_new_token(tmp_path) -> None:
    import keyring

    keyring.set_password("https://huggingface.co", "alice", TOKEN.reveal())
    backend = KeyringBackend()
    key = SecretKey(url=HUB, username="alice")
    assert backend.get(key) == TOKEN
    backend.set(key, OTHER)
    assert backend.get(key) == OTHER
    assert backend.delete(key) is True
    assert items("https://huggingface.co") == []


def test_c8_a_locked_keychain_without_a_prompt_is_an_error_in_time(tmp_path) -> None:
    make(tmp_path).add(HUB, username="alice", secret=TOKEN)
    with closing(secretstorage.dbus_init()) as connection:
        secretstorage.get_default_collection(connection).lock()
    started = time.monotonic()
    with pytest.raises(KeychainError) as caught:
        make(tmp_path).authorization("https://huggingface.co/x")
    assert time.monotonic() - started < 6
    assert "\n" not in str(caught.value)
    print("a locked keychain:", caught.value)
    assert make(tmp_path).authorization("https://other.example/x") is None


def _main() -> int:
    # It goes to the background when it is ready, and ends with the D-Bus session.
    command = ["gnome-keyring-daemon", "--unlock", "--components=secrets"]
    subprocess.run(command, input=b"a password", stdout=subprocess.DEVNULL, check=True, timeout=20)
    plugins = ["-p", "no:cacheprovider", "-p", "no:randomly"]
    return pytest.main([__file__, "-q", "-rP", *plugins, "--import-mode=importlib"])


if __name__ == "__main__":
    sys.exit(_main())
