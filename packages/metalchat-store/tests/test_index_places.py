"""The settings of pip and uv say where distributions are looked for, and in which order."""

import os
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from metalchat_store import InvalidRepository, Refused
from metalchat_store.remotes import _pip_settings, _uv_settings
from metalchat_store.remotes._index_places import Place, places

NOTHING = {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
SECRET = "canary-9a27"


def urls(environ: dict[str, str]) -> list[str]:
    return [place.url for place in places(environ)]


def test_without_settings_it_is_pypi() -> None:
    assert urls(NOTHING) == ["https://pypi.org/simple"]


def test_links_come_first_then_extra_indexes_then_the_default() -> None:
    environ = NOTHING | {
        "PIP_INDEX_URL": "https://default/simple/",
        "PIP_EXTRA_INDEX_URL": "https://one/simple  https://two/simple",
        "PIP_FIND_LINKS": "/opt/wheels https://links/page.html",
    }
    found = places(environ)
    assert [(place.url, place.flat) for place in found] == [
        ("file:///opt/wheels", True),
        ("https://links/page.html", True),
        ("https://one/simple", False),
        ("https://two/simple", False),
        ("https://default/simple/", False),
    ]
    assert found[2].setting == "PIP_EXTRA_INDEX_URL"


@pytest.mark.parametrize("switch", ["1", "true", "YES", "on"])
def test_no_index_leaves_the_links(switch: str) -> None:
    environ = NOTHING | {"PIP_NO_INDEX": switch, "PIP_INDEX_URL": "https://default/simple"}
    assert urls(environ | {"PIP_FIND_LINKS": "/w"}) == ["file:///w"]
    with pytest.raises(Refused, match=r"^PIP_NO_INDEX forbids package indexes"):
        places(environ)


@pytest.mark.parametrize("switch", ["0", "false", "no", ""])
def test_no_index_switched_off(switch: str) -> None:
    assert urls(NOTHING | {"PIP_NO_INDEX": switch}) == ["https://pypi.org/simple"]


@pytest.mark.parametrize(
    "variables",
    [
        {"UV_DEFAULT_INDEX": "https://uv/simple"},
        {"UV_DEFAULT_INDEX": "mine=https://uv/simple", "UV_INDEX_URL": "https://old/simple"},
        {"UV_INDEX_URL": "https://uv/simple"},
    ],
)
def test_uv_is_asked_before_pip(variables: dict[str, str]) -> None:
    assert urls(NOTHING | variables | {"PIP_EXTRA_INDEX_URL": "https://pip/simple"}) == ["https://uv/simple"]


def test_uv_has_extra_indexes_links_and_a_switch_too() -> None:
    environ = NOTHING | {
        "UV_INDEX": "https://a/simple mine=https://b/simple",
        "UV_EXTRA_INDEX_URL": "https://c/simple",
        "UV_FIND_LINKS": "/w, https://links/",
    }
    assert urls(environ) == [
        "file:///w",
        "https://links/",
        "https://a/simple",
        "https://b/simple",
        "https://c/simple",
        "https://pypi.org/simple",
    ]
    assert urls(environ | {"UV_NO_INDEX": "1"}) == ["file:///w", "https://links/"]


def basic(login: str) -> str:
    return f"Basic {b64encode(login.encode()).decode()}"


def test_a_login_leaves_the_address() -> None:
    place = places(NOTHING | {"PIP_INDEX_URL": f"https://al%40ice:{SECRET}%2F@host:8443/simple"})[0]
    assert place.url == "https://host:8443/simple"
    assert place.authorization == basic(f"al@ice:{SECRET}/")
    assert SECRET not in repr(place)


def test_an_index_of_uv_may_have_its_login_beside_it() -> None:
    environ = NOTHING | {"UV_INDEX_MY_OWN_USERNAME": "alice", "UV_INDEX_MY_OWN_PASSWORD": SECRET}
    named, other = places(environ | {"UV_INDEX": "my-own=https://a/simple"})
    assert named.authorization == basic(f"alice:{SECRET}")
    assert other.authorization is None


@pytest.mark.parametrize(
    ("address", "error", "reason"),
    [
        (f"http://user:{SECRET}@example.org/simple", Refused, "http is allowed on this computer only"),
        (f"https://user:{SECRET}@/simple", InvalidRepository, "no host name"),
        (f"https://user:{SECRET}@ho\\st/simple", InvalidRepository, "a character that is not allowed"),
        (f"https://{SECRET}:x:y@[::1/simple", InvalidRepository, "malformed"),
        (f"git+ssh://{SECRET}@host/simple", InvalidRepository, "not http, https or file"),
        (f"https://host/simple?key={SECRET}", InvalidRepository, r"has a '\?'"),
        (f"file://{SECRET}/simple", InvalidRepository, "without a host"),
    ],
)
def test_an_address_that_cannot_be_used_is_named_by_its_setting(address: str, error, reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        [place.path if place.local else place.origin for place in places(NOTHING | {"PIP_INDEX_URL": address})]
    assert SECRET not in str(caught.value)
    assert "PIP_INDEX_URL" in str(caught.value) or address.startswith("file:")


def test_paths_are_local_indexes(tmp_path: Path) -> None:
    environ = NOTHING | {"HOME": "/home/me", "PIP_FIND_LINKS": "~/wheels", "PIP_INDEX_URL": "file:///a%20b/simple"}
    links, index = places(environ)
    assert (links.path, index.path) == (Path("/home/me/wheels"), Path("/a b/simple"))
    assert (links.shown, index.shown) == ("/home/me/wheels", "/a b/simple")


# ---- files ----


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pip_files(environ: dict[str, str], root: Path, system: str = "linux") -> list[str]:
    site = Path(sys.prefix, "pip.conf")
    found = _pip_settings.files_of(environ, system=system, root=root)
    return ["site" if path == site else str(path).removeprefix(str(root)) for path in found]


def test_the_files_of_pip_on_linux(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "me")}
    assert pip_files(environ, tmp_path) == [
        "/etc/xdg/pip/pip.conf",
        "/etc/pip.conf",
        "/me/.pip/pip.conf",
        "/me/.config/pip/pip.conf",
        "site",
    ]
    environ |= {"XDG_CONFIG_HOME": str(tmp_path / "x"), "XDG_CONFIG_DIRS": f"{tmp_path}/a:{tmp_path}/b"}
    assert pip_files(environ, tmp_path)[:2] == ["/a/pip/pip.conf", "/b/pip/pip.conf"]
    assert pip_files(environ, tmp_path)[4] == "/x/pip/pip.conf"


def test_the_files_of_pip_on_macos(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "me")}
    first = ["/Library/Application Support/pip/pip.conf", "/me/.pip/pip.conf"]
    assert pip_files(environ, tmp_path, "darwin") == [*first, "/me/.config/pip/pip.conf", "site"]
    (tmp_path / "me/Library/Application Support/pip").mkdir(parents=True)
    own = "/me/Library/Application Support/pip/pip.conf"
    assert pip_files(environ, tmp_path, "darwin") == [*first, own, "site"]


def test_PIP_CONFIG_FILE_replaces_the_users_files_or_all_of_them(tmp_path: Path) -> None:
    own = write(tmp_path / "own.conf", "")
    environ = {"HOME": str(tmp_path / "me"), "PIP_CONFIG_FILE": str(own)}
    assert pip_files(environ, tmp_path) == ["/etc/xdg/pip/pip.conf", "/etc/pip.conf", "site", "/own.conf"]
    assert len(pip_files(environ | {"PIP_CONFIG_FILE": str(tmp_path / "none")}, tmp_path)) == 6
    assert pip_files(environ | {"PIP_CONFIG_FILE": os.devnull}, tmp_path) == []


def test_stronger_files_and_sections_win_and_variables_win_over_files(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "me")}
    write(
        tmp_path / "etc/pip.conf",
        "[global]\nindex-url = https://etc/simple\nfind-links =\n  /one\n  /two\n[install]\nextra_index_url = https://x/\n",
    )
    user = write(tmp_path / "me/.config/pip/pip.conf", "[global]\nindex-url = https://user/simple\nno-index = no\n")
    settings = _pip_settings.read(environ, system="linux", root=tmp_path)
    assert settings.default.text == "https://user/simple"
    assert settings.default.setting == f"'index-url' in {user}"
    assert [named.text for named in settings.links] == ["/one", "/two"]
    assert [named.text for named in settings.extra] == ["https://x/"]
    assert settings.closed is None
    write(user, "[download]\nindex-url = https://download/simple\n[install]\nindex-url = https://install/simple\n")
    assert _pip_settings.read(environ, system="linux", root=tmp_path).default.text == "https://download/simple"
    environ["PIP_INDEX_URL"] = "https://variable/simple"
    assert _pip_settings.read(environ, system="linux", root=tmp_path).default.text == "https://variable/simple"


@pytest.mark.parametrize("text", [f"index-url = {SECRET}", "[global]\n[global]", "[global]\nindex-url\n", "\xff" * 9])
def test_a_file_of_pip_that_makes_no_sense_is_named(tmp_path: Path, text: str) -> None:
    own = tmp_path / "pip.conf"
    own.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRepository) as caught:
        _pip_settings.read({"PIP_CONFIG_FILE": str(own)}, root=tmp_path)
    assert str(own) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_files_of_uv(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "me"), "UV_INDEX_MINE_PASSWORD": SECRET}
    assert not _uv_settings.read(environ, root=tmp_path).any
    user = write(
        tmp_path / "me/.config/uv/uv.toml",
        'find-links = ["wheels"]\nextra-index-url = ["https://extra/simple"]\n'
        '[[index]]\nname = "mine"\nurl = "https://mine/simple"\n'
        '[[index]]\nname = "torch"\nurl = "https://torch/simple"\nexplicit = true\n'
        '[[index]]\nurl = "https://default/simple"\ndefault = true\n',
    )
    write(tmp_path / "etc/uv/uv.toml", 'index-url = "https://weaker/simple"\nno-index = false\n')
    settings = _uv_settings.read(environ, root=tmp_path)
    assert settings.default.text == "https://default/simple"
    assert [named.text for named in settings.extra] == ["https://mine/simple", "https://extra/simple"]
    assert settings.extra[0].login == f":{SECRET}"
    assert (settings.links[0].text, settings.links[0].base) == ("wheels", user.parent)
    assert not _uv_settings.read(environ | {"UV_NO_CONFIG": "1"}, root=tmp_path).any
    own = write(tmp_path / "own.toml", "no-index = true\n")
    settings = _uv_settings.read(environ | {"UV_CONFIG_FILE": str(own)}, root=tmp_path)
    assert settings.closed == f"'no-index' in {own}"
    assert settings.default is None


@pytest.mark.parametrize(
    "text",
    ["[[index]]\nname = 'x'", "index = 1", "index-url = 1", f"extra-index-url = [1, '{SECRET}']", "= 1", "\udcff"],
)
def test_a_file_of_uv_that_makes_no_sense_is_named(tmp_path: Path, text: str) -> None:
    own = tmp_path / "uv.toml"
    own.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidRepository, match=r"uv\.toml cannot be read") as caught:
        _uv_settings.read({"UV_CONFIG_FILE": str(own)})
    assert SECRET not in str(caught.value)


def test_a_file_that_UV_CONFIG_FILE_names_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidRepository, match="no such file"):
        _uv_settings.read({"UV_CONFIG_FILE": str(tmp_path / "none")})


def test_files_of_a_project_do_not_choose_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "uv.toml", 'index-url = "https://evil/simple"')
    write(tmp_path / "pip.conf", "[global]\nindex-url = https://evil/simple")
    write(tmp_path / "pyproject.toml", '[[tool.uv.index]]\nurl = "https://evil/simple"')
    monkeypatch.chdir(tmp_path)
    assert not _uv_settings.read({"HOME": "/nowhere"}, root=tmp_path / "etc").any
    assert not _pip_settings.read({"HOME": "/nowhere"}, root=tmp_path / "etc").any


def test_equal_places_are_asked_once() -> None:
    environ = NOTHING | {"PIP_INDEX_URL": "https://a/", "PIP_EXTRA_INDEX_URL": "https://a/"}
    assert places(environ) == (Place(url="https://a/", setting="PIP_EXTRA_INDEX_URL"),)
