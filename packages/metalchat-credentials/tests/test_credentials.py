import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metalchat_credentials import (
    BackendNotFound,
    Credential,
    InsecureTransport,
    InvalidURL,
    InvalidUsername,
    KeychainLocked,
    KeychainTimeout,
    NothingSelected,
    Purpose,
    ReadOnlyBackend,
    Secret,
    SecretKey,
    SecretMissing,
    SecretNotSaved,
    parse_url,
)
from metalchat_credentials.testing import MemoryBackend

HUB = parse_url("https://huggingface.co")
TOKEN = Secret("hf_CANARYcanaryCANARYcanary12345")
OTHER = Secret("hf_OTHERotherOTHERotherOTHER9876")
BEARER = f"Bearer {TOKEN.reveal()}"


def test_a_token_that_was_added_is_sent_to_its_address(make) -> None:
    stored = make().add(HUB, username="alice", secret=TOKEN)
    assert stored.credential == Credential(url=HUB, username="alice", provider="@keychain")
    assert (stored.kept_by, stored.replaced) == ("keyring", None)
    for url in ("https://huggingface.co", "https://huggingface.co:443/api/models/x?y=%7B", "https://HuggingFace.co/#x"):
        assert make().authorization(url) == BEARER


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co/",
        "https://huggingface.co:8443/",
        "https://cdn-lfs.huggingface.co/",
        "https://huggingface.co.evil/",
        "https://evil/huggingface.co",
        "https://evil/?https://huggingface.co",
        "https://evil/#https://huggingface.co",
    ],
)
def test_n1_a_token_is_sent_nowhere_else_and_the_keychain_is_not_asked(make, spy, url: str) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    reads = len(spy.reads)
    assert make().authorization(url) is None
    assert len(spy.reads) == reads


def test_c8_the_keychain_is_not_touched_for_an_address_without_a_credential(make, spy) -> None:
    for url in ("https://huggingface.co/org/model", "https://evil/", "http://localhost:1/"):
        assert make().authorization(url) is None
        assert make().authorization(url, Purpose.WRITE) is None
    make().list()
    assert spy.calls == 0


def test_no_backend_is_loaded_for_an_address_that_is_not_the_hub(make, monkeypatch) -> None:
    monkeypatch.setattr("metalchat_credentials.credentials.load_backend", lambda *_, **__: pytest.fail("loaded"))
    assert make({"HF_TOKEN": "hf_x"}).authorization("https://cdn.example/x") is None


def test_c6_two_ports_of_one_host_are_two_credentials(make) -> None:
    first, second = parse_url("http://localhost:1"), parse_url("http://localhost:2")
    make().add(first, username="alice", secret=TOKEN)
    make().add(second, username="alice", secret=OTHER)
    assert [entry.url for entry in make().list()] == [first, second]
    assert make().authorization("http://localhost:1/x") == BEARER
    assert make().authorization("http://localhost:2/x") == f"Bearer {OTHER.reveal()}"


def test_the_longest_path_that_contains_the_address_decides(make) -> None:
    for path, text in (("", "root"), ("/org", "org"), ("/org/model", "model"), ("/or", "or")):
        make().add(parse_url(f"https://h{path}"), username="alice", secret=Secret(text))
    for path, text in (
        ("", "root"),
        ("/x", "root"),
        ("/orgs", "root"),
        ("/org", "org"),
        ("/org/x", "org"),
        ("/org/model/x", "model"),
        ("/org/models", "org"),
        ("/or/x", "or"),
    ):
        assert make().authorization(f"https://h{path}") == f"Bearer {text}"


def test_a_path_limits_a_token(make) -> None:
    make().add(parse_url("https://huggingface.co/org"), username="alice", secret=TOKEN)
    assert make().authorization("https://huggingface.co/org/model") == BEARER
    for path in ("", "/other", "/organisation", "/org%2Fmodel"):
        assert make().authorization(f"https://huggingface.co{path}") is None
    for path in ("/org/../other", "/org/%2e%2e/other", "/org/..%2fother"):
        with pytest.raises(InvalidURL):
            make().authorization(f"https://huggingface.co{path}")


def test_a_token_for_writing_is_used_for_writing_only(make) -> None:
    make().add(HUB, username="alice", secret=OTHER, purpose=Purpose.WRITE)
    assert make().authorization("https://huggingface.co") is None
    assert make().authorization("https://huggingface.co", Purpose.WRITE) == f"Bearer {OTHER.reveal()}"
    make().add(HUB, username="alice", secret=TOKEN)
    assert make().authorization("https://huggingface.co") == BEARER
    assert make().authorization("https://huggingface.co", Purpose.WRITE) == f"Bearer {OTHER.reveal()}"
    assert [entry.purpose for entry in make().list()] == [Purpose.WRITE, Purpose.READ]


@pytest.mark.parametrize("host", ["example.test", "192.168.0.1", "localhost.example.test", "[fe80::1]"])
def test_n6_a_token_for_http_and_another_computer_is_refused(make, spy, tmp_path, host: str) -> None:
    url = parse_url(f"http://{host}")
    for attempt in (
        lambda: make().add(url, username="alice", secret=TOKEN),
        lambda: make().link(url, backend="environment"),
    ):
        with pytest.raises(InsecureTransport) as caught:
            attempt()
        assert str(caught.value).startswith(
            "refusing to send an access token over http to a server that is not this computer"
        )
        assert caught.value.exit_code == 2
    assert spy.calls == 0
    assert not (tmp_path / "home").exists()


def test_n6_an_index_that_was_written_by_hand_sends_nothing_over_http(make, spy, tmp_path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text('[credential."http://example.test"]\nusername = "alice"\n')
    with pytest.raises(InsecureTransport):
        make().authorization("http://example.test/x")
    assert spy.calls == 0


def test_n6_a_variable_sends_nothing_over_http_and_a_public_model_can_be_read(make) -> None:
    credentials = make({"HF_TOKEN": TOKEN.reveal(), "HF_ENDPOINT": "http://mirror.test"})
    assert credentials.authorization("http://mirror.test/x") is None
    assert credentials.notices == ("no token is sent to http://mirror.test: it is neither https nor this computer",)


def test_n6_a_token_may_go_over_http_to_this_computer(make) -> None:
    for url in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
        make().add(parse_url(url), username="alice", secret=TOKEN)
        assert make().authorization(url) == BEARER


def test_adding_again_replaces_and_forgets_the_other_user(make, spy) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    stored = make().add(HUB, username="bob", secret=OTHER)
    assert stored.replaced == Credential(url=HUB, username="alice")
    assert [entry.username for entry in make().list()] == ["bob"]
    assert spy.deletes == [SecretKey(url=HUB, username="alice")]
    assert make().authorization("https://huggingface.co") == f"Bearer {OTHER.reveal()}"


def test_a_token_of_the_same_user_is_replaced_and_not_deleted(make, spy) -> None:
    credentials = make()
    credentials.add(HUB, username="alice", secret=TOKEN)
    assert credentials.authorization("https://huggingface.co") == BEARER
    credentials.add(HUB, username="alice", secret=OTHER)
    assert spy.deletes == []
    assert credentials.authorization("https://huggingface.co") == f"Bearer {OTHER.reveal()}"


def test_a_replaced_token_that_cannot_be_deleted_is_noted(make) -> None:
    class Keeps(MemoryBackend):
        def delete(self, key):
            raise KeychainLocked("the keychain is locked")

    credentials = make(keyring=Keeps())
    credentials.add(HUB, username="alice", secret=TOKEN)
    credentials.add(HUB, username="bob", secret=OTHER)
    assert credentials.notices == (
        "the replaced token of https://huggingface.co is still in @keychain: the keychain is locked",
    )


def test_c7_a_token_that_was_not_kept_is_not_listed(make) -> None:
    class Forgets(MemoryBackend):
        def set(self, key, secret):
            raise SecretNotSaved("the token was not saved")

    with pytest.raises(SecretNotSaved):
        make(keyring=Forgets()).add(HUB, username="alice", secret=TOKEN)
    assert make().list() == ()


@pytest.mark.parametrize("username", ["", "a\nhost=evil", "a\0", "a\x7f", "a\x9b", "a" * 257])
def test_c1_a_user_name_with_a_control_character_is_refused(make, spy, username: str) -> None:
    with pytest.raises(InvalidUsername) as caught:
        make().add(HUB, username=username, secret=TOKEN)
    assert caught.value.exit_code == 2
    assert spy.calls == 0


def test_a_backend_that_only_reads_cannot_be_added_to(make) -> None:
    with pytest.raises(ReadOnlyBackend, match="'environment' only reads") as caught:
        make().add(HUB, username="alice", secret=TOKEN, backend="environment")
    assert caught.value.exit_code == 2
    with pytest.raises(BackendNotFound, match="Installed: dotenv, environment, huggingface, keyring"):
        make().add(HUB, username="alice", secret=TOKEN, backend="no-such")


def test_another_store_is_named_in_the_index(make, tmp_path) -> None:
    vault = MemoryBackend(name="vault")
    make(vault=vault).add(HUB, username="alice", secret=TOKEN, backend="vault")
    assert make(vault=vault).list() == (Credential(url=HUB, username="alice", provider="@vault"),)
    assert make(vault=vault).authorization("https://huggingface.co") == BEARER
    with pytest.raises(BackendNotFound, match=r"config\.toml"):
        make().authorization("https://huggingface.co")


def test_an_address_can_be_linked_to_a_variable(make, tmp_path) -> None:
    (tmp_path / ".env").write_text(f"MY_TOKEN={TOKEN.reveal()}\n")
    hub = parse_url("https://hub.example/org")
    make().link(hub, backend="dotenv", variable="MY_TOKEN")
    assert make().authorization("https://hub.example/org/model") == BEARER
    assert make().authorization("https://hub.example/other") is None
    assert make().list() == (Credential(url=hub, username="token", provider="@dotenv", variable="MY_TOKEN"),)
    assert make().remove(hub) != ()
    assert make().authorization("https://hub.example/org/model") is None
    assert (tmp_path / ".env").exists()


def test_linking_an_address_forgets_the_token_that_it_had(make, spy) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    make().link(HUB, backend="environment", variable="MY_TOKEN")
    assert spy.deletes == [SecretKey(url=HUB, username="alice")]
    assert make({"MY_TOKEN": "mine"}).authorization("https://huggingface.co/x") == "Bearer mine"


def test_removing_needs_an_address_or_all(make, spy) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    with pytest.raises(NothingSelected, match="--all") as caught:
        make().remove(None)
    assert caught.value.exit_code == 2
    assert len(make().list()) == 1
    assert spy.deletes == []


def test_removing_an_address_forgets_its_tokens_and_no_other(make, spy) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    make().add(HUB, username="alice", secret=TOKEN, purpose=Purpose.WRITE)
    make().add(parse_url("https://huggingface.co/org"), username="alice", secret=OTHER)
    credentials = make()
    assert credentials.authorization("https://huggingface.co") == BEARER
    gone = credentials.remove(HUB)
    assert [(entry.url, entry.purpose) for entry in gone] == [(HUB, Purpose.READ), (HUB, Purpose.WRITE)]
    assert credentials.authorization("https://huggingface.co") is None
    assert credentials.authorization("https://huggingface.co/org") == f"Bearer {OTHER.reveal()}"
    assert [entry.url.path for entry in make().list()] == ["/org"]
    assert len(spy.deletes) == 2


def test_removing_all_forgets_everything(make) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    make().add(parse_url("http://localhost:1"), username="bob", secret=OTHER)
    assert len(make().remove(None, all=True)) == 2
    assert make().list() == ()
    assert make().remove(None, all=True) == ()


def test_c9_removing_what_the_keychain_no_longer_has_is_no_error(make, spy) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    spy.delete(SecretKey(url=HUB, username="alice"))
    assert len(make().remove(HUB)) == 1
    assert make().list() == ()


def test_c9_removing_what_was_never_there_returns_nothing(make) -> None:
    assert make().remove(HUB) == ()


def test_what_the_keychain_no_longer_has_is_an_error_that_names_the_address(make, spy) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    spy.delete(SecretKey(url=HUB, username="alice"))
    with pytest.raises(SecretMissing, match=r"https://huggingface\.co has no token in @keychain") as caught:
        make().authorization("https://huggingface.co")
    assert caught.value.exit_code == 3


def test_the_index_comes_before_the_environment_and_that_before_files(make, tmp_path) -> None:
    url = "https://huggingface.co/x"
    path = tmp_path / ".cache" / "huggingface" / "token"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text("hf_file")
    assert make().authorization(url) == "Bearer hf_file"
    (tmp_path / ".env").write_text("HUGGINGFACE_READ_API=hf_dotenv")
    assert make().authorization(url) == "Bearer hf_dotenv"
    assert make({"HF_TOKEN": "hf_environment"}).authorization(url) == "Bearer hf_environment"
    make().add(HUB, username="alice", secret=TOKEN)
    assert make({"HF_TOKEN": "hf_environment"}).authorization(url) == BEARER


def test_c8_a_variable_helps_when_the_keychain_does_not_answer(make) -> None:
    class Hangs(MemoryBackend):
        def get(self, key):
            raise KeychainTimeout("the keychain did not answer within 5 s. Unlock it, or set HF_TOKEN")

    make().add(HUB, username="alice", secret=TOKEN)
    with pytest.raises(KeychainTimeout):
        make(keyring=Hangs()).authorization("https://huggingface.co")
    credentials = make({"HF_TOKEN": "hf_environment"}, keyring=Hangs())
    assert credentials.authorization("https://huggingface.co") == "Bearer hf_environment"
    assert credentials.notices == (
        "another token was used: the keychain did not answer within 5 s. Unlock it, or set HF_TOKEN",
    )


def test_c8_a_variable_does_not_help_an_address_that_is_not_the_hub(make) -> None:
    class Locked(MemoryBackend):
        def get(self, key):
            raise KeychainLocked("locked")

    make().add(parse_url("https://hub.example"), username="alice", secret=TOKEN)
    with pytest.raises(KeychainLocked):
        make({"HF_TOKEN": "hf_environment"}, keyring=Locked()).authorization("https://hub.example")


def test_c10_a_token_file_that_others_can_read_is_noted_and_not_used(make, tmp_path) -> None:
    path = tmp_path / ".cache" / "huggingface" / "token"
    path.parent.mkdir(parents=True)
    path.write_text(TOKEN.reveal())
    path.chmod(0o644)
    credentials = make()
    assert credentials.authorization("https://huggingface.co") is None
    assert credentials.authorization("https://huggingface.co") is None
    assert len(credentials.notices) == 1
    assert "(mode 0644)" in credentials.notices[0]


def test_an_entry_that_cannot_be_used_is_noted_once(make, tmp_path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text('[credential."huggingface.co"]\nusername = "alice"\n')
    credentials = make()
    assert credentials.list() == credentials.list() == ()
    assert len(credentials.notices) == 1


def test_the_keychain_is_asked_once_for_many_requests_from_many_threads(make, spy) -> None:
    make().add(HUB, username="alice", secret=TOKEN)
    credentials = make()
    spy.reads.clear()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(credentials.authorization("https://huggingface.co/x")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BEARER] * 8
    assert len(spy.reads) == 1


def test_c4_a_token_that_was_used_is_taken_out_of_text(make) -> None:
    credentials = make({"HF_TOKEN": "short"})
    assert credentials.redact("a short text") == "a short text"
    credentials.authorization("https://huggingface.co")
    assert credentials.redact("Illegal header value b'Bearer short'") == "Illegal header value b'Bearer hf_…'"
    assert credentials.redact(TOKEN.reveal()) == "hf_…"


def test_nothing_that_is_printed_shows_a_token(make) -> None:
    credentials = make()
    stored = credentials.add(HUB, username="alice", secret=TOKEN)
    credentials.authorization("https://huggingface.co")
    for shown in (credentials, stored, credentials.list(), credentials.__dict__):
        assert TOKEN.reveal() not in repr(shown)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["localhost", "h.example", "127.0.0.1", "[::1]", "hh.example"]),
    st.sampled_from([None, 80, 443, 1]),
    st.sampled_from(["", "/a", "/a/b", "/ab", "/A"]),
)
def test_a_token_is_sent_exactly_where_origin_and_path_agree(make, spy, scheme, host, port, path) -> None:
    stored = "https://h.example/a"
    credentials = make()
    credentials.add(parse_url(stored), username="alice", secret=TOKEN)
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}{path}"
    belongs = scheme == "https" and host == "h.example" and port in (None, 443) and path in ("/a", "/a/b")
    assert credentials.authorization(url) == (BEARER if belongs else None)
