import subprocess
import sys
import threading
import tomllib

import pytest
from keyring.errors import (
    InitError,
    KeyringError,
    KeyringLocked,
    NoKeyringError,
    PasswordDeleteError,
    PasswordSetError,
)
from metalchat_credentials import (
    Credentials,
    CredentialsError,
    KeychainError,
    KeychainLocked,
    KeychainTimeout,
    KeychainUnavailable,
    Purpose,
    Secret,
    SecretKey,
    SecretNotSaved,
    parse_url,
)
from metalchat_credentials.backend import BackendContext
from metalchat_credentials.backends._deadline import Deadline, Expired
from metalchat_credentials.backends.keyring import KeyringBackend

HUB = parse_url("https://huggingface.co")
KEY = SecretKey(url=HUB, username="alice")
TOKEN = Secret("hf_CANARYcanaryCANARYcanary12345")


class Keyring:
    name = "dictionary Keyring"

    def __init__(self, items=()) -> None:
        self.items = dict(items)
        self.fails: dict[str, list[Exception]] = {}

    def get_password(self, service, username):
        self._fail("get")
        return self.items.get((service, username))

    def set_password(self, service, username, password):
        self._fail("set")
        self.items[service, username] = password

    def delete_password(self, service, username):
        self._fail("delete")
        del self.items[service, username]

    def _fail(self, operation: str) -> None:
        if self.fails.get(operation):
            raise self.fails[operation].pop(0)


@pytest.mark.parametrize(
    ("platform", "url", "purpose", "service"),
    [
        ("linux", "https://huggingface.co", Purpose.READ, "https://huggingface.co"),
        ("darwin", "https://huggingface.co", Purpose.READ, "org.metalchat.runtime.https://huggingface.co"),
        ("linux", "https://h:8443/org", Purpose.READ, "https://h:8443/org"),
        ("linux", "https://huggingface.co", Purpose.WRITE, "https://huggingface.co#write"),
        ("darwin", "https://huggingface.co", Purpose.WRITE, "org.metalchat.runtime.https://huggingface.co#write"),
    ],
)
def test_an_item_has_the_name_that_the_older_program_gives_it(platform, url, purpose, service) -> None:
    keyring = Keyring()
    key = SecretKey(url=parse_url(url), username="alice", purpose=purpose)
    KeyringBackend(keyring, platform=platform).set(key, TOKEN)
    assert keyring.items == {(service, "alice"): TOKEN.reveal()}


def test_an_item_of_the_older_program_for_an_address_with_a_slash_at_the_end_is_found() -> None:
    keyring = Keyring({("https://huggingface.co/", "alice"): "hf_old"})
    backend = KeyringBackend(keyring, platform="linux")
    assert backend.get(KEY) == Secret("hf_old")
    backend.set(KEY, TOKEN)
    assert backend.get(KEY) == TOKEN
    assert backend.delete(KEY) is True
    assert keyring.items == {}


def test_what_is_no_token_is_not_handed_out_and_not_shown() -> None:
    with pytest.raises(KeychainError, match="is not an access token") as caught:
        KeyringBackend(Keyring({("https://huggingface.co", "alice"): "hf_x\nhost=evil"}), platform="linux").get(KEY)
    assert "hf_x" not in str(caught.value)


FAILURES = [
    KeyringLocked("locked"),
    PasswordSetError("set"),
    PasswordDeleteError("delete"),
    InitError("init"),
    KeyringError("error\nin two lines\x1b[31m"),
    OSError(5, "Input/output error"),
    ModuleNotFoundError("No module named 'dbus'"),
    RuntimeError(f"could not keep {TOKEN.reveal()}"),
]


@pytest.mark.parametrize("operation", ["get", "set", "delete"])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_c9_every_failure_of_a_keychain_is_one_line(tmp_path, operation: str, failure: Exception) -> None:
    keyring = Keyring()
    credentials = Credentials(tmp_path, environ={}, directory=tmp_path, backends={"keyring": KeyringBackend(keyring)})
    if operation != "set":
        credentials.add(HUB, username="alice", secret=TOKEN)
        credentials = Credentials(
            tmp_path, environ={}, directory=tmp_path, backends={"keyring": KeyringBackend(keyring)}
        )
    keyring.fails[operation] = [failure]
    attempt = {
        "get": lambda: credentials.authorization("https://huggingface.co/x"),
        "set": lambda: credentials.add(HUB, username="alice", secret=TOKEN),
        "delete": lambda: credentials.remove(HUB),
    }[operation]
    with pytest.raises(KeychainError) as caught:
        attempt()
    assert caught.value.exit_code == 3
    assert str(caught.value).isprintable()
    assert TOKEN.reveal() not in str(caught.value)
    assert caught.value.__cause__ is failure
    assert isinstance(caught.value, KeychainLocked) is isinstance(failure, KeyringLocked)
    assert len(credentials.list()) == (0 if operation == "set" else 1), "the index says what the keychain holds"


def test_c9_deleting_what_is_not_there_is_no_error() -> None:
    keyring = Keyring()
    keyring.fails["delete"] = [PasswordDeleteError("no such password")]
    assert KeyringBackend(keyring).delete(KEY) is False


def test_c9_the_old_token_survives_a_new_one_that_cannot_be_stored() -> None:
    class DeletesFirst(Keyring):
        def set_password(self, service, username, password):
            del self.items[service, username]
            super().set_password(service, username, password)

    keyring = DeletesFirst({("https://huggingface.co", "alice"): "hf_old"})
    backend = KeyringBackend(keyring, platform="linux")
    keyring.fails["set"] = [PasswordSetError("disk full")]
    keyring.set_password = lambda *args: (keyring.items.pop(args[:2], None), Keyring.set_password(keyring, *args))
    with pytest.raises(KeychainError):
        backend.set(KEY, TOKEN)
    assert backend.get(KEY) == Secret("hf_old")


def test_c9_the_old_token_survives_a_keychain_that_cuts_the_new_one() -> None:
    class Cuts(Keyring):
        def set_password(self, service, username, password):
            super().set_password(service, username, password[:8])

    backend = KeyringBackend(Cuts({("https://huggingface.co", "alice"): "hf_old"}), platform="linux")
    with pytest.raises(SecretNotSaved):
        backend.set(KEY, TOKEN)
    assert backend.get(KEY) == Secret("hf_old")


def _child(code: str, tmp_path, **environ: str) -> subprocess.CompletedProcess:
    program = (
        "from pathlib import Path\n"
        "from metalchat_credentials import *\n"
        f"here = Path({str(tmp_path)!r})\n"
        "credentials = Credentials(here / 'home', environ={}, directory=here)\n"
        f"try:\n    {code}\n"
        "except CredentialsError as error:\n    print(error.exit_code, error)\n"
    )
    path = ":".join([str(tmp_path), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


ADD = f"credentials.add(parse_url('https://huggingface.co'), username='alice', secret=Secret({TOKEN.reveal()!r}))"


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (
            "keyring.backends.null.Keyring",
            "3 the token was not saved: the keychain 'null Keyring' did not return what was stored",
        ),
        (
            "keyring.backends.fail.Keyring",
            "3 no keychain is available on this system. Set HF_TOKEN for this session, or install one "
            "(on Linux gnome-keyring, KWallet or KeePassXC)",
        ),
        (
            "no.such.Backend",
            "3 the keychain could not be opened: No module named 'no'. "
            "Check PYTHON_KEYRING_BACKEND and keyringrc.cfg, or set HF_TOKEN",
        ),
        (
            "keyring.backends.chainer.NoSuchClass",
            "3 the keychain could not be opened: module 'keyring.backends.chainer' has no attribute 'NoSuchClass'. "
            "Check PYTHON_KEYRING_BACKEND and keyringrc.cfg, or set HF_TOKEN",
        ),
    ],
)
def test_c7_a_token_that_was_not_kept_is_an_error(tmp_path, backend: str, message: str) -> None:
    child = _child(ADD, tmp_path, PYTHON_KEYRING_BACKEND=backend)
    assert (child.stdout.splitlines(), child.stderr, child.returncode) == ([message], "", 0)
    assert not (tmp_path / "home").exists(), "the index names no token that is not there"


SLEEPING = """
import time
from keyring.backend import KeyringBackend

class Sleeping(KeyringBackend):
    priority = 1
    def get_password(self, service, username):
        time.sleep(60)
    set_password = delete_password = get_password
"""


def test_c8_a_keychain_that_hangs_is_given_up_within_6_seconds(tmp_path) -> None:
    (tmp_path / "sleeping.py").write_text(SLEEPING)
    timed = f"import atexit, time; atexit.register(lambda t=time.monotonic(): print(time.monotonic() - t)); {ADD}"
    child = _child(timed, tmp_path, PYTHON_KEYRING_BACKEND="sleeping.Sleeping")
    message, elapsed = child.stdout.splitlines()
    assert message == "3 the keychain did not answer within 5 s (is it locked?). Unlock it, or set HF_TOKEN"
    assert (child.stderr, child.returncode) == ("", 0)
    assert 5 <= float(elapsed) < 6


def test_c8_the_deadline_of_a_hanging_call_is_not_waited_for_again() -> None:
    release = threading.Event()
    deadline = Deadline(0.05)
    calls = []

    def hang() -> None:
        calls.append("hang")
        release.wait(30)

    with pytest.raises(Expired):
        deadline.run(hang)
    with pytest.raises(Expired):
        deadline.run(lambda: calls.append("while it hangs"))
    assert calls == ["hang"]
    release.set()
    deadline._hanging.join(30)
    assert deadline.run(lambda: "works again") == "works again"


def test_c8_a_hanging_keychain_is_named_with_its_deadline() -> None:
    release = threading.Event()

    class Hangs(Keyring):
        def get_password(self, service, username):
            release.wait(30)

    with pytest.raises(KeychainTimeout, match=r"^the keychain did not answer within 0\.05 s"):
        KeyringBackend(Hangs(), seconds=0.05).get(KEY)
    release.set()


def test_c8_a_person_has_a_minute_to_answer_the_prompt_of_the_keychain(tmp_path) -> None:
    backend = KeyringBackend(Keyring())
    context = BackendContext(home=tmp_path, environ={}, directory=tmp_path)
    assert backend.bind(context) is backend
    patient = backend.bind(BackendContext(home=tmp_path, environ={}, directory=tmp_path, interactive=True))
    assert patient._deadline.seconds == 60


def test_a_chain_of_keychains_is_searched_and_cleaned_and_written_to_in_order(monkeypatch) -> None:
    from keyring.backends import chainer

    first, second = Keyring(), Keyring({("https://huggingface.co", "alice"): "hf_second"})
    chain = chainer.ChainerBackend()
    monkeypatch.setattr(chainer.ChainerBackend, "backends", [first, second])
    backend = KeyringBackend(chain, platform="linux")
    assert backend.get(KEY) == Secret("hf_second")
    backend.set(KEY, TOKEN)
    assert backend.get(KEY) == TOKEN
    assert backend.delete(KEY) is True
    assert first.items == second.items == {}


def test_c7_an_empty_chain_of_keychains_keeps_nothing_and_says_so(monkeypatch) -> None:
    from keyring.backends import chainer

    monkeypatch.setattr(chainer.ChainerBackend, "backends", [])
    with pytest.raises(SecretNotSaved, match="chainer ChainerBackend"):
        KeyringBackend(chainer.ChainerBackend()).set(KEY, TOKEN)


def test_the_keychain_can_be_named(tmp_path) -> None:
    credentials = Credentials(tmp_path, environ={}, directory=tmp_path, backends={"keyring": KeyringBackend(Keyring())})
    assert credentials.add(HUB, username="alice", secret=TOKEN).kept_by == "dictionary Keyring"
    index = tomllib.loads((tmp_path / "config.toml").read_text())
    assert index == {"credential": {"https://huggingface.co": {"username": "alice", "provider": "@keychain"}}}


def test_a_missing_keychain_is_told_from_one_that_fails() -> None:
    keyring = Keyring()
    keyring.fails["get"] = [NoKeyringError("none")]
    with pytest.raises(KeychainUnavailable) as caught:
        KeyringBackend(keyring).get(KEY)
    assert isinstance(caught.value, CredentialsError)
