import os
import stat

import pytest
from metalchat_credentials import InvalidSecret, Purpose, Secret, SecretKey, SecretStore, TokenFileRefused, parse_url
from metalchat_credentials.backend import BackendContext
from metalchat_credentials.backends.dotenv import DotenvBackend
from metalchat_credentials.backends.environment import EnvironmentBackend
from metalchat_credentials.backends.huggingface import HuggingFaceBackend

TOKEN = "hf_CANARYcanaryCANARYcanary12345"


def key(url: str = "https://huggingface.co", purpose: Purpose = Purpose.READ, variable: str | None = None) -> SecretKey:
    return SecretKey(url=parse_url(url), username="", purpose=purpose, variable=variable)


def backend(kind, tmp_path, **environ: str):
    (tmp_path / ".env").write_text(f"HUGGINGFACE_READ_API={TOKEN}\nHUGGINGFACE_WRITE_API={TOKEN}\n")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    environ = {"HF_TOKEN": TOKEN, "HF_TOKEN_PATH": str(tmp_path / "token"), **environ}
    return kind().bind(BackendContext(home=tmp_path, environ=environ, directory=tmp_path))


KINDS = [EnvironmentBackend, DotenvBackend, HuggingFaceBackend]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("url", "endpoint", "answers"),
    [
        ("https://huggingface.co", None, True),
        ("https://huggingface.co/org/model", None, True),
        ("http://huggingface.co", None, False),
        ("https://huggingface.co:8443", None, False),
        ("https://hf.co", None, False),
        ("https://cdn.huggingface.co", None, False),
        ("https://mirror.example", "https://mirror.example", True),
        ("https://mirror.example/org", "https://mirror.example/hf/", True),
        ("https://huggingface.co", "https://mirror.example", True),
        ("https://mirror.example:8443", "https://mirror.example", False),
        ("http://mirror.example", "https://mirror.example", False),
        ("http://localhost:1", "http://localhost:1", True),
        ("http://localhost:2", "http://localhost:1", False),
        ("https://mirror.example", "mirror.example", False),
        ("https://mirror.example", "https://u:p@mirror.example", False),
        ("https://mirror.example", "", False),
    ],
)
def test_a_token_without_an_address_belongs_to_the_hub_and_its_endpoint_only(
    kind, tmp_path, url: str, endpoint: str | None, answers: bool
) -> None:
    environ = {} if endpoint is None else {"HF_ENDPOINT": endpoint}
    found = backend(kind, tmp_path, **environ).get(key(url))
    assert found == (Secret(TOKEN) if answers else None)


@pytest.mark.parametrize("kind", KINDS)
def test_it_cannot_store(kind, tmp_path) -> None:
    assert not isinstance(backend(kind, tmp_path), SecretStore)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"METALCHAT_TOKEN": "a", "HF_TOKEN": "b", "HUGGING_FACE_HUB_TOKEN": "c"}, "a"),
        ({"HF_TOKEN": "b", "HUGGING_FACE_HUB_TOKEN": "c"}, "b"),
        ({"METALCHAT_TOKEN": "", "HF_TOKEN": " \n", "HUGGING_FACE_HUB_TOKEN": " c\n"}, "c"),
        ({}, None),
    ],
)
def test_the_first_variable_that_is_not_blank_counts(environ, found) -> None:
    for purpose in Purpose:
        secret = EnvironmentBackend(environ).get(key(purpose=purpose))
        assert (secret and secret.reveal()) == found


@pytest.mark.parametrize("value", [f"{TOKEN}\nhost=evil", f"{TOKEN}\0", f"x {TOKEN}", f"\x1b{TOKEN}", "Ö"])
def test_c3_c4_a_variable_that_holds_no_token_is_named_and_not_shown(value: str) -> None:
    with pytest.raises(InvalidSecret) as caught:
        EnvironmentBackend({"HF_TOKEN": value}).get(key())
    assert str(caught.value) == (
        "the value of HF_TOKEN cannot be used: this is not an access token: "
        "it contains a line break or another character that is not allowed"
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", [EnvironmentBackend, DotenvBackend])
def test_a_mapped_variable_answers_for_the_address_that_it_is_mapped_to(kind, tmp_path) -> None:
    environ = {"MY_TOKEN": "hf_mine", "HF_TOKEN": "hf_other"}
    (tmp_path / ".env").write_text("MY_TOKEN=hf_mine\nHUGGINGFACE_READ_API=hf_other\n")
    bound = kind().bind(BackendContext(home=tmp_path, environ=environ, directory=tmp_path))
    assert bound.get(key("https://hub.example", variable="MY_TOKEN")) == Secret("hf_mine")
    assert bound.get(key("https://huggingface.co", variable="MY_TOKEN")) == Secret("hf_mine")
    assert bound.get(key("https://huggingface.co", variable="NO_SUCH")) is None
    assert bound.get(key("https://hub.example")) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("HUGGINGFACE_READ_API=hf_a", "hf_a"),
        ("HUGGINGFACE_READ_API = hf_a\n", "hf_a"),
        ("  export\tHUGGINGFACE_READ_API=hf_a\r\n", "hf_a"),
        ('HUGGINGFACE_READ_API="hf_a" # mine', "hf_a"),
        ("HUGGINGFACE_READ_API='hf_a'", "hf_a"),
        ("HUGGINGFACE_READ_API='hf_\"a'", 'hf_"a'),
        ("HUGGINGFACE_READ_API=hf_a # mine", "hf_a"),
        ("HUGGINGFACE_READ_API=hf_a#b", "hf_a#b"),
        ("HUGGINGFACE_READ_API=$HOME", "$HOME"),
        ("HUGGINGFACE_READ_API=hf_a\nHUGGINGFACE_READ_API=hf_b", "hf_b"),
        ("HUGGINGFACE_READ_API=hf_a\nHUGGINGFACE_READ_API=", None),
        ("HUGGINGFACE_READ_API=", None),
        ("HUGGINGFACE_READ_API= # nothing", None),
        ("HUGGINGFACE_READ_API=''", None),
        ("# HUGGINGFACE_READ_API=hf_a", None),
        ("XHUGGINGFACE_READ_API=hf_a", None),
        ("HUGGINGFACE_READ_APIX=hf_a", None),
        ("huggingface_read_api=hf_a", None),
        ("HUGGINGFACE_WRITE_API=hf_a", None),
        ("A='\nB=`x`\n= =\nHUGGINGFACE_READ_API=hf_a", "hf_a"),
        ("A=x\u2028HUGGINGFACE_READ_API=hf_a", None),
        ("\ufeffHUGGINGFACE_READ_API=hf_a", "hf_a"),
        ("", None),
    ],
)
def test_a_line_of_dotenv_is_a_name_and_a_value(tmp_path, text: str, found: str | None) -> None:
    (tmp_path / ".env").write_bytes(text.encode())
    secret = DotenvBackend(tmp_path, {}).get(key())
    assert (secret and secret.reveal()) == found


def test_dotenv_keeps_the_purposes_apart(tmp_path) -> None:
    (tmp_path / ".env").write_text("HUGGINGFACE_READ_API=hf_r\nHUGGINGFACE_WRITE_API=hf_w\n")
    bound = DotenvBackend(tmp_path, {})
    assert bound.get(key(purpose=Purpose.READ)) == Secret("hf_r")
    assert bound.get(key(purpose=Purpose.WRITE)) == Secret("hf_w")


@pytest.mark.parametrize("value", [f"{TOKEN} x", f'"{TOKEN}', f'"{TOKEN}" x', f"'{TOKEN}\\n", "Ö"])
def test_c3_c4_a_line_of_dotenv_that_holds_no_token_is_named_and_not_shown(tmp_path, value: str) -> None:
    (tmp_path / ".env").write_text(f"# mine\nHUGGINGFACE_READ_API={value}\n")
    with pytest.raises(InvalidSecret) as caught:
        DotenvBackend(tmp_path, {}).get(key())
    assert str(caught.value).startswith(f"{tmp_path / '.env'} line 2: HUGGINGFACE_READ_API cannot be used: ")
    assert TOKEN not in str(caught.value)


def test_a_dotenv_that_is_too_large_or_a_directory_is_not_used(tmp_path) -> None:
    (tmp_path / ".env").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(TokenFileRefused, match=r"larger than 1 MiB and was not used"):
        DotenvBackend(tmp_path, {}).get(key())
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert DotenvBackend(tmp_path, {}).get(key()) is None


def test_dotenv_is_read_in_the_working_directory_only(tmp_path, monkeypatch) -> None:
    (tmp_path / ".env").write_text(f"HUGGINGFACE_READ_API={TOKEN}\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert DotenvBackend(environ={}).get(key()) is None
    monkeypatch.chdir(tmp_path)
    assert DotenvBackend(environ={}).get(key()) == Secret(TOKEN)


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HF_TOKEN_PATH": "{0}/mine", "HF_HOME": "{0}/no"}, "mine"),
        ({"HF_TOKEN_PATH": "~/mine"}, "mine"),
        ({"HF_HOME": "{0}/hf"}, "hf/token"),
        ({"HF_HOME": "~/hf"}, "hf/token"),
        ({"XDG_CACHE_HOME": "{0}/cache"}, "cache/huggingface/token"),
        ({"HF_HOME": ""}, ".cache/huggingface/token"),
        ({}, ".cache/huggingface/token"),
    ],
)
def test_the_token_file_is_where_other_tools_leave_it(tmp_path, environ: dict[str, str], place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    found = HuggingFaceBackend(
        {"HOME": str(tmp_path), **{name: value.format(tmp_path) for name, value in environ.items()}}
    )
    assert found.get(key()) == Secret(TOKEN)
    assert found.get(key(purpose=Purpose.WRITE)) == Secret(TOKEN)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666, 0o620, 0o602])
def test_c10_a_token_file_that_others_can_read_is_refused_with_its_mode(tmp_path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(TokenFileRefused) as caught:
        HuggingFaceBackend({"HF_TOKEN_PATH": str(path)}).get(key())
    assert str(caught.value) == (
        f"the token file {path} is open to other users (mode 0{mode:o}) and was not used. Run: chmod 600 {path}"
    )
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_c10_a_token_file_of_its_owner_is_used_and_not_changed(tmp_path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    before = path.stat()
    assert HuggingFaceBackend({"HF_TOKEN_PATH": str(path)}).get(key()) == Secret(TOKEN)
    after = path.stat()
    assert (after.st_mtime_ns, stat.S_IMODE(after.st_mode)) == (before.st_mtime_ns, mode)


def test_a_token_file_that_is_no_file_is_refused_without_waiting(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(mode=0o700)
    for name in ("pipe", "directory"):
        with pytest.raises(TokenFileRefused, match="is not a regular file and was not used"):
            HuggingFaceBackend({"HF_TOKEN_PATH": str(tmp_path / name)}).get(key())


def test_a_token_file_that_is_not_there_or_empty_is_no_token(tmp_path) -> None:
    found = HuggingFaceBackend({"HF_TOKEN_PATH": str(tmp_path / "token")})
    assert found.get(key()) is None
    (tmp_path / "token").touch(mode=0o600)
    assert found.get(key()) is None


def test_c3_c4_a_token_file_that_holds_no_token_is_named_and_not_shown(tmp_path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\nhost=evil\n")
    with pytest.raises(InvalidSecret) as caught:
        HuggingFaceBackend({"HF_TOKEN_PATH": str(path)}).get(key())
    assert str(path) in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path) -> None:
    path = tmp_path / "token"
    path.symlink_to(path)
    with pytest.raises(TokenFileRefused, match="could not be read"):
        HuggingFaceBackend({"HF_TOKEN_PATH": str(path)}).get(key())
