import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalchat_credentials import Credentials, InvalidURL, Url, parse_host, parse_url
from metalchat_credentials.testing import SpyBackend
from metalchat_credentials.url import parse_target

CHARACTER = "hub address is not valid: host contains a character that is not allowed"
NO_HOST = "hub address is not valid: no host name"

C1 = [
    "https://evil%0ahost=huggingface.co/",
    "https://huggingface.co%00.evil/",
    "https://a b/",
    "https://hf.co\t/",
    "http://127.0.0.1\\@evil/",
    "https://huggingface.co%1b%5b2K/",
    "https://evil\nhost=huggingface.co/",
    "https://evil\r/",
    "https://\x1b[2Kevil/",
    "https://exa_mple/",
    "https://-evil/",
    "https://evil-/",
    "https://evil./",
    "https://.evil/",
    "https://ev\u202eil/",
    "https://ev\u200bil/",
    "https://huggingface\u3002co/",
    "https://huggingface.co\u2044evil/",
]
C2 = ["https:///org/m", "https://:443/x", "//x/y", "", "https://", "http://", "https://?x", "https://#x", "/x"]


@pytest.mark.parametrize("text", C1)
def test_c1_a_host_with_a_character_that_is_not_allowed_is_refused(text: str) -> None:
    for parse in (parse_url, parse_host, parse_target):
        with pytest.raises(InvalidURL) as caught:
            parse(text)
        assert str(caught.value) == CHARACTER
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", C2)
def test_c2_an_address_without_a_host_is_refused(text: str) -> None:
    for parse in (parse_url, parse_target):
        with pytest.raises(InvalidURL) as caught:
            parse(text)
        assert str(caught.value) == NO_HOST
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", [*C1, *C2])
def test_c1_c2_the_keychain_is_not_read_for_an_address_that_is_refused(tmp_path, text: str) -> None:
    spy = SpyBackend()
    credentials = Credentials(tmp_path, environ={}, directory=tmp_path, backends={"keyring": spy})
    with pytest.raises(InvalidURL):
        credentials.authorization(text)
    assert spy.calls == 0


def test_c2_an_address_without_a_host_cannot_be_made_by_hand() -> None:
    with pytest.raises(InvalidURL):
        Url(scheme="https", host="")
    with pytest.raises(InvalidURL):
        Url(scheme="", host="huggingface.co")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("huggingface.co", "it must begin with https:// or http://"),
        ("ftp://huggingface.co/", "it must begin with https:// or http://"),
        ("file:///etc/passwd", "it must begin with https:// or http://"),
        ("javascript:alert(1)", "it must begin with https:// or http://"),
        ("https:/huggingface.co", "it must begin with https:// or http://"),
        ("https://user:hf_x@host/", "a user name or an access token must not be written in it"),
        ("https://hf_x@host/", "a user name or an access token must not be written in it"),
        ("https://h:0/", "port is not a number from 1 to 65535"),
        ("https://h:65536/", "port is not a number from 1 to 65535"),
        ("https://h:/", "port is not a number from 1 to 65535"),
        ("https://h:80%0a/", "port is not a number from 1 to 65535"),
        ("https://h:٣/", "port is not a number from 1 to 65535"),
        ("https://h:1:2/", "port is not a number from 1 to 65535"),
        ("https://[::1/", "host is not a valid IPv6 address"),
        ("https://[::1]x/", "host is not a valid IPv6 address"),
        ("https://[1.2.3.4]/", "host is not a valid IPv6 address"),
        ("https://[]/", "host is not a valid IPv6 address"),
        ("https://[fe80::1%25eth0]/", "host contains a character that is not allowed"),
        ("https://127.1/", "host is not a valid IPv4 address"),
        ("https://0x7f.1/", "host is not a valid IPv4 address"),
        ("https://2130706433/", "host is not a valid IPv4 address"),
        ("https://0177.0.0.1/", "host is not a valid IPv4 address"),
        ("https://1.2.3.256/", "host is not a valid IPv4 address"),
        ("https://a..b/", "host has a part that is empty or too long"),
        (f"https://{'a' * 64}.co/", "host has a part that is empty or too long"),
        ("https://h/a%0ab", "path contains a character that is not allowed"),
        ("https://h/a%00", "path contains a character that is not allowed"),
        ("https://h/a%7f", "path contains a character that is not allowed"),
        ("https://h/a%C2%9B31m", "path contains a character that is not allowed"),
        ("https://h/a%FF", "path contains a character that is not allowed"),
        ("https://h/a%", "path contains a character that is not allowed"),
        ("https://h/a%0", "path contains a character that is not allowed"),
        ("https://h/a b", "path contains a character that is not allowed"),
        ("https://h/a\\b", "path contains a character that is not allowed"),
        ("https://h/a\nb", "path contains a character that is not allowed"),
        ("https://h/\ud800", "path contains a character that is not allowed"),
        ("https://h/org/../other", "path contains '.' or '..'"),
        ("https://h/org/%2e%2E/other", "path contains '.' or '..'"),
        ("https://h/org/..%2fother", "path contains '.' or '..'"),
        ("https://h/org/..%5Cother", "path contains '.' or '..'"),
        ("https://h/./org", "path contains '.' or '..'"),
        ("https://h/?x=1", "it must end with the path, without '?' or '#'"),
        ("https://h/#write", "it must end with the path, without '?' or '#'"),
        ("https://evil?%0ahost=github.com", "it must end with the path, without '?' or '#'"),
        (f"https://h/{'a' * 20_000}", "it is longer than 16384 characters"),
    ],
)
def test_an_address_that_cannot_own_a_credential_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        parse_url(text)
    assert str(caught.value) == f"hub address is not valid: {reason}"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://huggingface.co", "https://huggingface.co"),
        ("HTTPS://HuggingFace.CO/", "https://huggingface.co"),
        ("https://huggingface.co:443", "https://huggingface.co"),
        ("https://huggingface.co:0443", "https://huggingface.co"),
        ("http://localhost:80/", "http://localhost"),
        ("https://localhost:80/", "https://localhost:80"),
        ("http://localhost:443/", "http://localhost:443"),
        ("https://h/org/", "https://h/org"),
        ("https://h/%6Frg/%7e%2f%c3%a4", "https://h/org/~%2F%C3%A4"),
        ("https://h/ä", "https://h/%C3%A4"),
        ('https://h/a"<>^`{|}', "https://h/a%22%3C%3E%5E%60%7B%7C%7D"),
        ("https://h/a//b", "https://h/a//b"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("https://huggíngface.co", "https://xn--huggngface-n8a.co"),
        ("https://straße.de", "https://xn--strae-oqa.de"),
        ("https://xn--strae-oqa.de", "https://xn--strae-oqa.de"),
    ],
)
def test_one_address_has_one_spelling(text: str, canonical: str) -> None:
    assert str(parse_url(text)) == canonical
    assert parse_url(canonical) == parse_url(text)


def test_c5_a_host_of_another_script_is_shown_as_punycode() -> None:
    assert parse_host("huggíngface.co").origin == "https://xn--huggngface-n8a.co"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("huggingface.co", "https://huggingface.co"),
        ("hub.example:8443/org", "https://hub.example:8443/org"),
        ("[::1]:8080", "https://[::1]:8080"),
        ("http://localhost:1", "http://localhost:1"),
        ("https://huggingface.co", "https://huggingface.co"),
    ],
)
def test_a_bare_host_is_an_https_address(text: str, canonical: str) -> None:
    assert str(parse_host(text)) == canonical


@pytest.mark.parametrize("text", ["", "//x/y", "/x", "user@host", "a b", "host%0a"])
def test_a_bare_host_is_checked_as_an_address_is(text: str) -> None:
    with pytest.raises(InvalidURL):
        parse_host(text)


def test_the_target_of_a_request_may_have_a_query_and_a_fragment() -> None:
    assert parse_target("https://h/a?X-Amz=%7B%22&b=100%#c") == parse_url("https://h/a")


@pytest.mark.parametrize("text", ["https://h/a?%0d%0aHost:evil", "https://h/a?x y", "https://h/a?\n", "https://h#\x1b"])
def test_a_query_with_a_control_character_is_refused(text: str) -> None:
    with pytest.raises(InvalidURL, match="query contains a character that is not allowed"):
        parse_target(text)


@pytest.mark.parametrize(
    ("stored", "target", "covered"),
    [
        ("https://h", "https://h/org/model", True),
        ("https://h", "https://h:443/", True),
        ("https://h/org", "https://h/org", True),
        ("https://h/org", "https://h/org/", True),
        ("https://h/org", "https://h/org/model", True),
        ("https://h/org", "https://h/organisation", False),
        ("https://h/org", "https://h/org%2Fmodel", False),
        ("https://h/org", "https://h/", False),
        ("https://h/org", "https://h/Org", False),
        ("https://h", "http://h/", False),
        ("https://h", "https://h:444/", False),
        ("https://h", "https://h.evil/", False),
        ("https://h", "https://evil.h/", False),
    ],
)
def test_an_address_covers_the_same_origin_and_longer_paths(stored: str, target: str, covered: bool) -> None:
    assert parse_url(stored).covers(parse_url(target)) is covered


@pytest.mark.parametrize(
    ("text", "confidential"),
    [
        ("https://example.test", True),
        ("http://localhost:1", True),
        ("http://127.0.0.1", True),
        ("http://127.8.9.1", True),
        ("http://[::1]", True),
        ("http://example.test", False),
        ("http://localhost.example.test", False),
        ("http://10.0.0.1", False),
        ("http://192.168.0.1", False),
        ("http://[::ffff:127.0.0.1]", False),
        ("http://[fe80::1]", False),
        ("http://127.0.0.1.nip.io", False),
    ],
)
def test_only_https_and_this_computer_are_confidential(text: str, confidential: bool) -> None:
    assert parse_url(text).is_confidential is confidential


@given(st.text(max_size=60))
def test_any_text_is_an_address_of_printable_ascii_or_refused(text: str) -> None:
    for prefix in ("", "https://", "https://h/", "http://[::1]:", "https://h?"):
        try:
            url = str(parse_target(prefix + text))
        except InvalidURL as error:
            shown = str(error)
        else:
            shown = url
            assert url.isascii()
            assert " " not in url
            assert str(parse_url(url)) == url
        assert shown.isprintable()
