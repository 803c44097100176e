"""The conformance kit: what every secret backend promises, as a pytest class to be subclassed."""

from collections.abc import Callable, Iterator

import pytest

from metalchat_credentials.backend import Purpose, SecretBackend, SecretKey, SecretStore
from metalchat_credentials.secret import Secret
from metalchat_credentials.url import parse_url

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_SECRETS = {
    "every allowed character": _PRINTABLE,
    "one character": "a",
    "the longest": (_PRINTABLE * 11)[:1024],
    "escapes": "\\n\\\\%0a%%{}$(x)`",
    "quotes": "'\"'\"\"\"'''",
    "an option": "--delete",
    "a comment": "#;//",
}
_USERNAMES = ("alice@hub.example", "two words", "jürgen ☃ 日本", "a:b/c#d?e=f&g%20", "'\"\\", "-", "u" * 256)
_ADDRESSES = (
    "https://kit.example",
    "https://kit.example:8443",
    "http://localhost:8443",
    "http://[::1]:8443",
    "https://kit.example/org",
    "https://kit.example/org/model",
    "https://kit.example/%5B%20%5D/%C3%A4",
)

Keep = Callable[[SecretKey, Secret], None]


def _key(username: str = "kit-alice", url: str = "https://kit.example", purpose: Purpose = Purpose.READ) -> SecretKey:
    return SecretKey(url=parse_url(url), username=username, purpose=purpose)


class SecretBackendContract:
    """Subclass it and define the fixture `backend`. A backend that only reads also defines `known`.

    What the backend can do is seen by `isinstance`: the tests of a store are skipped for one that only reads. All that
    the kit stores is under the host `kit.example` or a loopback address, and is deleted afterwards.
    """

    @pytest.fixture
    def known(self, backend: SecretBackend, request: pytest.FixtureRequest) -> tuple[SecretKey, Secret]:
        """A key that the backend can answer, and the answer."""
        if not isinstance(backend, SecretStore):
            pytest.fail("a backend that only reads needs a fixture `known`: a key, and the secret it has for it")
        key, secret = _key(), Secret("hf_known")
        request.getfixturevalue("keep")(key, secret)
        return key, secret

    @pytest.fixture
    def keep(self, store: SecretStore) -> Iterator[Keep]:
        """Stores a secret until the end of the test."""
        kept: list[SecretKey] = []

        def keep(key: SecretKey, secret: Secret) -> None:
            kept.append(key)
            store.set(key, secret)

        yield keep
        for key in kept:
            store.delete(key)

    @pytest.fixture
    def store(self, backend: SecretBackend) -> SecretStore:
        """The backend, where it can store."""
        if not isinstance(backend, SecretStore):
            pytest.skip(f"{backend.name} only reads")
        return backend

    def test_it_is_a_backend_with_a_name(self, backend: SecretBackend) -> None:
        assert isinstance(backend, SecretBackend)
        assert backend.name
        assert backend.name.isprintable()

    def test_it_returns_the_secret_of_a_key_every_time(
        self, backend: SecretBackend, known: tuple[SecretKey, Secret]
    ) -> None:
        key, secret = known
        assert [backend.get(key), backend.get(key)] == [secret, secret]

    def test_it_returns_a_secret_and_no_bare_text(
        self, backend: SecretBackend, known: tuple[SecretKey, Secret]
    ) -> None:
        assert isinstance(backend.get(known[0]), Secret)

    @pytest.mark.parametrize(
        "url", ["https://stranger.example", "http://localhost:1", "https://kit.example.stranger.example"]
    )
    @pytest.mark.usefixtures("known")
    def test_another_address_has_no_secret(self, backend: SecretBackend, url: str) -> None:
        assert backend.get(_key(url=url)) is None

    def test_a_key_that_was_never_stored_has_no_secret(self, store: SecretStore) -> None:
        assert store.get(_key("kit-nobody")) is None

    @pytest.mark.parametrize("text", _SECRETS.values(), ids=_SECRETS)
    def test_a_secret_of_any_allowed_characters_comes_back_unchanged(
        self, store: SecretStore, keep: Keep, text: str
    ) -> None:
        keep(_key(), Secret(text))
        found = store.get(_key())
        assert found is not None
        assert found.reveal() == text

    @pytest.mark.parametrize("username", _USERNAMES)
    def test_a_user_name_may_have_difficult_characters(self, store: SecretStore, keep: Keep, username: str) -> None:
        keep(_key(username), Secret("hf_difficult"))
        assert store.get(_key(username)) == Secret("hf_difficult")
        assert store.get(_key(username + "x" if len(username) < 256 else "x")) is None

    def test_every_address_has_its_own_secret(self, store: SecretStore, keep: Keep) -> None:
        for number, url in enumerate(_ADDRESSES):
            keep(_key(url=url), Secret(f"hf_{number}"))
        assert [store.get(_key(url=url)) for url in _ADDRESSES] == [
            Secret(f"hf_{number}") for number in range(len(_ADDRESSES))
        ]

    def test_several_users_of_one_address_have_their_own_secrets(self, store: SecretStore, keep: Keep) -> None:
        for name in ("kit-alice", "kit-bob", "kit-Alice"):
            keep(_key(name), Secret(f"hf_{name}"))
        for name in ("kit-alice", "kit-bob", "kit-Alice"):
            assert store.get(_key(name)) == Secret(f"hf_{name}")

    def test_the_purposes_are_kept_apart(self, store: SecretStore, keep: Keep) -> None:
        keep(_key(purpose=Purpose.WRITE), Secret("hf_write"))
        assert store.get(_key(purpose=Purpose.READ)) is None
        keep(_key(purpose=Purpose.READ), Secret("hf_read"))
        assert store.get(_key(purpose=Purpose.WRITE)) == Secret("hf_write")
        assert store.get(_key(purpose=Purpose.READ)) == Secret("hf_read")

    def test_storing_again_replaces(self, store: SecretStore, keep: Keep) -> None:
        for text in ("hf_first", "hf_second", "hf_second", "hf"):
            keep(_key(), Secret(text))
            assert store.get(_key()) == Secret(text)

    def test_deleting_one_leaves_the_others(self, store: SecretStore, keep: Keep) -> None:
        group = [
            _key(),
            _key("kit-bob"),
            _key(purpose=Purpose.WRITE),
            _key(url="https://kit.example/org"),
            _key(url="https://kit.example:8443"),
        ]
        for number, key in enumerate(group):
            keep(key, Secret(f"hf_{number}"))
        assert store.delete(group[0])
        assert [store.get(key) for key in group] == [None, *(Secret(f"hf_{number}") for number in range(1, 5))]

    def test_deleting_what_is_not_there_says_so(self, store: SecretStore) -> None:
        assert store.delete(_key("kit-nobody")) is False

    def test_deleting_twice_says_so(self, store: SecretStore, keep: Keep) -> None:
        keep(_key(), Secret("hf_once"))
        assert store.delete(_key()) is True
        assert store.delete(_key()) is False
        assert store.get(_key()) is None
