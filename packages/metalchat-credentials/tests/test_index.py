import stat
import threading
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalchat_credentials import Credential, IndexNotSaved, InvalidIndex, Purpose, _document, _file, parse_url
from metalchat_credentials.index import Index

HUB = parse_url("https://huggingface.co")
ALICE = Credential(url=HUB, username="alice")
BOB = Credential(url=HUB, username="bob")
WRITER = Credential(url=HUB, username="alice", purpose=Purpose.WRITE)
OTHER = Credential(url=parse_url("http://localhost:1/org"), username='zoë "q" \\', provider="@vault")

CORPUS = {
    "empty": "",
    "a comment": "# mine\n",
    "no line end": "# mine",
    "other tables": '[ui]\ncolor = "red"   # why\n\n\n[[list]]\nx = 1\n\n[[list]]\nx = [1,\n  2]\n',
    "CRLF": '# mine\r\n[ui]\r\ncolor = "red"\r\n\r\n[credential."https://a"]\r\nusername = "a"\r\n',
    "byte-order mark": '\ufeff[ui]\ncolor = "red"\n',
    "a neighbour": '[credential."https://a"] # first\nusername = "a"\nprovider = "@keychain"\n\n# ui\n[ui]\nx = 1\n',
    "out of order": '[credential."https://a"]\nusername = "a"\n[ui]\nx = 1\n# b\n[credential."https://b"]\nusername=""\n',
    "inline": 'credential = { "https://a" = { username = "a" } }\n',
    "dotted": 'credential."https://a".username = "a"\ncredential."https://a".provider = "@keychain"\n',
    "own header": "[credential]\n# nothing yet\n\n[ui]\nx = 1\n",
    "dotted below": '[credential]\n"https://a".username = "a"\n[ui]\nx = 1\n',
    "looks like a header": 's = """\n[credential."https://huggingface.co"]\nusername = "no"\n"""\n',
    "escapes": "[credential.\"https:\\u002F/a\"]\nusername = 'a'\n",
}


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _is_subsequence(shorter: list[bytes], longer: list[bytes]) -> bool:
    rest = iter(longer)
    return all(any(line == other for other in rest) for line in shorter)


def test_the_index_has_the_form_of_the_older_program(tmp_path) -> None:
    path = tmp_path / "home" / "config.toml"
    Index(path).put(ALICE)
    assert path.read_text() == '[credential."https://huggingface.co"]\nusername = "alice"\nprovider = "@keychain"\n'


def test_the_index_of_the_older_program_is_read(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[credential."https://huggingface.co"]\nprovider = "@keychain"\nusername = "alice"\n')
    assert Index(path).read() == (ALICE,)


def test_reading_creates_nothing(tmp_path) -> None:
    assert Index(tmp_path / "home" / "config.toml").read() == ()
    assert list(tmp_path.iterdir()) == []


def test_what_is_put_is_read_by_another_program(tmp_path) -> None:
    path = tmp_path / "config.toml"
    for credential in (ALICE, WRITER, OTHER):
        Index(path).put(credential)
    assert Index(path).read() == (ALICE, WRITER, OTHER)
    assert tomllib.loads(path.read_text())["credential"]["https://huggingface.co#write"] == {
        "username": "alice",
        "provider": "@keychain",
        "purpose": "write",
    }


def test_a_mapped_variable_is_kept_and_taken_away_again(tmp_path) -> None:
    index = Index(tmp_path / "config.toml")
    mapped = Credential(url=HUB, username="bot", provider="@dotenv", variable="MY_TOKEN")
    index.put(mapped)
    assert index.read() == (mapped,)
    index.put(ALICE)
    assert index.read() == (ALICE,)
    assert "variable" not in (tmp_path / "config.toml").read_text()


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS)
def test_adding_a_credential_changes_no_other_byte(tmp_path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode())
    before = Index(path).read()
    Index(path).put(ALICE)
    assert set(Index(path).read()) == {*before, ALICE}
    after = path.read_bytes()
    if "inline" not in text and "{" not in text:
        assert _is_subsequence(_lines(text.encode())[:-1], _lines(after))
    if text.startswith("\ufeff"):
        assert after.startswith("\ufeff".encode())
    if "\r\n" in text:
        assert b"\n" not in after.replace(b"\r\n", b"")


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS)
def test_removing_what_was_added_gives_back_what_was_there(tmp_path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode())
    index = Index(path)
    index.put(ALICE)
    index.drop([ALICE])
    first = path.read_bytes()
    assert tomllib.loads(first.decode("utf-8-sig")).get("credential", {}) == tomllib.loads(
        text.removeprefix("\ufeff")
    ).get("credential", {})
    index.put(ALICE)
    index.drop([ALICE])
    assert path.read_bytes() == first, "the file must not grow"


def test_comments_before_the_next_table_survive_a_removal(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '# top\n\n[credential."https://huggingface.co"] # first\nusername = "alice" # who\n\n# about ui\n[ui]\nx = 1\n'
    )
    Index(path).drop([ALICE])
    assert path.read_text() == "# top\n\n# about ui\n[ui]\nx = 1\n"


def test_replacing_a_credential_changes_its_lines_only(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('# a\n[credential."https://huggingface.co/"] # b\nusername = "alice" # c\nextra = 1\n# d\n[ui]\n')
    Index(path).put(BOB)
    text = path.read_text()
    assert '[credential."https://huggingface.co/"] # b\nusername = "bob" # c\nextra = 1\n' in text
    assert text.startswith("# a\n")
    assert text.endswith("# d\n[ui]\n") or "# d\n" in text
    assert Index(path).read() == (BOB,)


def test_two_spellings_of_one_address_become_one_entry(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[credential."https://h/"]\nusername = "a"\n[credential."https://H:443"]\nusername = "b"\n')
    index = Index(path)
    index.put(Credential(url=parse_url("https://h"), username="c"))
    assert [entry.username for entry in index.read()] == ["c"]
    index.drop(index.read())
    assert index.read() == ()


def test_the_file_is_for_its_owner_only(tmp_path) -> None:
    path = tmp_path / "home" / "config.toml"
    Index(path).put(ALICE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    Index(path).put(BOB)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_stays_one(tmp_path) -> None:
    real, path = tmp_path / "dotfiles" / "config.toml", tmp_path / "config.toml"
    path.symlink_to(real)
    Index(path).put(ALICE)
    assert path.is_symlink()
    assert "alice" in real.read_text()
    assert list(real.parent.iterdir()) == [real]


def test_a_change_by_another_program_is_kept(tmp_path, monkeypatch) -> None:
    path = tmp_path / "config.toml"
    index, replace = Index(path), _file.replace

    def late(target, before, after):
        if "bob" not in (path.read_text() if path.exists() else ""):
            path.write_text('[credential."https://bob"]\nusername = "bob"\n')
        return replace(target, before, after)

    monkeypatch.setattr(_file, "replace", late)
    index.put(ALICE)
    assert [entry.username for entry in index.read()] == ["bob", "alice"]


def test_a_file_that_keeps_changing_is_not_overwritten(tmp_path, monkeypatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text("x = 1\n")
    monkeypatch.setattr(_file, "replace", lambda *_: False)
    with pytest.raises(IndexNotSaved, match="was changed by another program; nothing was written") as caught:
        Index(path).put(ALICE)
    assert caught.value.exit_code == 7
    assert path.read_text() == "x = 1\n"


def test_a_change_that_comes_while_writing_is_noticed(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"new")
    assert _file.replace(path, b"old", b"mine") is False
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_change_on_disk_is_seen_by_the_next_read(tmp_path) -> None:
    path = tmp_path / "config.toml"
    index = Index(path)
    assert index.read() == ()
    Index(path).put(ALICE)
    assert index.read() == (ALICE,)
    path.unlink()
    assert index.read() == ()


def test_many_threads_lose_no_credential(tmp_path) -> None:
    index = Index(tmp_path / "config.toml")
    lock = threading.Lock()

    def put(number: int) -> None:
        with lock:
            index.put(Credential(url=parse_url(f"https://h{number}"), username="a"))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index.read()) == 8


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[credential", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML: unreadable text"),
        (b"x = " + b"[" * 5000, "is not valid TOML"),
        (b"credential = 1", "'credential' is not a table"),
        (b'[credential."https://h"]\nusername = "a"\ntoken = "hf_x"', "an access token must not be written in it"),
        (b'[credential."https://h"]\nusername = "a"\nSecret = 1', "an access token must not be written in it"),
        (b"#" * (1 << 20) + b"#", "is larger than 1 MiB"),
    ],
)
def test_an_index_that_cannot_be_used_is_refused_and_not_changed(tmp_path, data: bytes, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(data)
    for attempt in (Index(path).read, lambda: Index(path).put(ALICE), lambda: Index(path).drop([ALICE])):
        with pytest.raises(InvalidIndex) as caught:
            attempt()
        assert reason in str(caught.value)
        assert str(path) in str(caught.value)
        assert "hf_x" not in str(caught.value)
        assert str(caught.value).isprintable()
        assert caught.value.exit_code == 2
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('"huggingface.co" = {username = "a"}', "it must begin with https:// or http://"),
        ('"https://user:hf_secret@h" = {username = "a"}', "a user name or an access token must not be written in it"),
        ('"https://h" = {}', "it has no username"),
        ('"https://h" = {username = 1}', "it has no username"),
        ('"https://h" = 1', "it is not a table"),
        ('"https://h" = {username = "a", provider = "keychain"}', "its provider does not begin with '@'"),
        ('"https://h" = {username = "a", provider = 1}', "its provider does not begin with '@'"),
        ('"https://h" = {username = "a", purpose = "admin"}', "its purpose is neither 'read' nor 'write'"),
        ('"https://h" = {username = "a", variable = 1}', "its variable is not a string"),
        ('"https://h" = {username = "a\\n"}', "the user name is too long or contains a character"),
    ],
)
def test_an_entry_that_cannot_be_used_is_left_out_and_noted(tmp_path, entry: str, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[credential]\n"https://ok" = {{username = "b"}}\n{entry}\n')
    index = Index(path)
    assert [str(found.url) for found in index.read()] == ["https://ok"]
    assert len(index.notices) == 1
    assert reason in index.notices[0]
    assert "entry 2" in index.notices[0]
    assert "hf_secret" not in index.notices[0]


def test_a_file_that_cannot_be_read_or_written_says_why(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.mkdir()
    with pytest.raises(IndexNotSaved, match="could not be read"):
        Index(path).read()
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexNotSaved, match="could not be"):
        Index(tmp_path / "file" / "config.toml").put(ALICE)


_NAMES = st.text(st.characters(codec="utf-8"), max_size=12)


@given(st.dictionaries(_NAMES, _NAMES, max_size=4), _NAMES, st.sampled_from(sorted(CORPUS)))
def test_any_name_and_value_is_written_so_that_it_reads_back(values: dict[str, str], name: str, base: str) -> None:
    before = CORPUS[base].encode()
    after = _document.put(before, "credential", name, values)
    expected = tomllib.loads(before.decode("utf-8-sig"))
    expected.setdefault("credential", {}).setdefault(name, {}).update(values)
    assert tomllib.loads(after.decode("utf-8-sig")) == expected
    del expected["credential"][name]
    dropped = tomllib.loads(_document.drop(after, "credential", [name]).decode("utf-8-sig"))
    assert dropped.get("credential", {}) == expected["credential"]
