"""Which addresses may be asked at all (threats C-1, C-2 for the addresses of models)."""

import pytest
from metalchat_store._address import AddressError, Origin, origin_of
from metalchat_store.errors import InvalidRepository
from metalchat_store.remotes._hub_address import parse_model


@pytest.mark.parametrize(
    ("url", "origin", "shown"),
    [
        ("https://huggingface.co/a/b", Origin("https", "huggingface.co", 443), "huggingface.co"),
        ("HTTPS://HuggingFace.co/a/b", Origin("https", "huggingface.co", 443), "huggingface.co"),
        ("https://hub.test:8443", Origin("https", "hub.test", 8443), "hub.test:8443"),
        ("http://127.0.0.1:80/x", Origin("http", "127.0.0.1", 80), "127.0.0.1"),
        ("http://[::1]:9/x", Origin("http", "::1", 9), "[::1]:9"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: Origin, shown: str) -> None:
    assert origin_of(url) == origin
    assert origin.shown == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "huggingface.co/a/b",
        "//huggingface.co/a",
        "https:///a/b",
        "https://:443/a",
        "https://a b/",
        "https://hf.co\t/",
        "https://hf.co\n/",
        "https://evil%0ahost=hf.co/",
        "https://hf.co%00.evil/",
        "http://127.0.0.1\\@evil/",
        "https://user:hf_x@host/a",
        "https://user@host/a",
        "https://host:0/",
        "https://host:99999/",
        "https://host:x/",
        "https://-host/",
        "https://a..b/",
        "https://[::1/",
        "https://[1.2.3.4]/",
        "https://hugging\u00edface.co/",
        "http://192.0.2.1/a/b",
        "http://localhost.evil.test/a",
        "ftp://localhost/a",
        "file:///etc/passwd",
        "https://host/" + "a" * 9000,
    ],
)
def test_c1_an_address_that_two_parsers_could_read_differently_is_refused(url: str) -> None:
    with pytest.raises(AddressError):
        origin_of(url)


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("https://huggingface.co/alice/m", "alice/m", None),
        ("https://huggingface.co/alice/m/", "alice/m", None),
        ("https://huggingface.co/alice/m-1.0_x@v1.2", "alice/m-1.0_x", "v1.2"),
        ("https://huggingface.co/alice/m@refs/pr/1", "alice/m", "refs/pr/1"),
        ("https://huggingface.co/alice/m/tree/main", "alice/m", "main"),
        ("https://huggingface.co/alice/m/tree/refs%2Fpr%2F7", "alice/m", "refs/pr/7"),
        ("https://huggingface.co/gpt2", "gpt2", None),
    ],
)
def test_the_address_of_a_model_names_it_and_perhaps_a_revision(text: str, name: str, revision: str | None) -> None:
    model = parse_model(text)
    assert (model.name, model.revision) == (name, revision)
    assert model.url == f"https://huggingface.co/{name}"


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co//m",
        "https://huggingface.co/alice/m/x",
        "https://huggingface.co/alice/m/blob/main/config.json",
        "https://huggingface.co/alice/../m",
        "https://huggingface.co/alice/m--n",
        "https://huggingface.co/alice/m.git",
        "https://huggingface.co/alice/m?x=1",
        "https://huggingface.co/alice/m#x",
        "https://huggingface.co/alice/%2e%2e",
        "https://huggingface.co/alice/m@",
        "https://huggingface.co/alice/m@a..b",
        "https://huggingface.co/alice/m@a%0ab",
        "https://huggingface.co/alice/m@/x",
        "https://huggingface.co/alice/" + "m" * 97,
    ],
)
def test_anything_else_is_no_address_of_a_model(text: str) -> None:
    with pytest.raises(InvalidRepository):
        parse_model(text)


@pytest.mark.parametrize(
    "text", ["https://huggingface.co", "https://huggingface.co/", "https://huggingface.co/a/b/c/d"]
)
def test_the_error_shows_what_an_address_looks_like(text: str) -> None:
    with pytest.raises(InvalidRepository, match="/<organisation>/<model>, with @<revision> if needed"):
        parse_model(text)


def test_a_dataset_is_not_a_model() -> None:
    with pytest.raises(InvalidRepository, match=r"expected the address of a model, .*, not of 'datasets'"):
        parse_model("https://huggingface.co/datasets/alice/d")
