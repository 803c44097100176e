"""What a manifest is read as, and what is refused in it."""

import os
from pathlib import Path

import pytest
from metalchat_manifest import (
    KEYS,
    InvalidManifest,
    InvalidValue,
    Manifest,
    ManifestError,
    ManifestNotFound,
    ManifestUnreadable,
    MisspeltKey,
    SecretInManifest,
)

CORPUS = Path(__file__).parent / "corpus"
TOKEN = "hf_" + "aB3" * 12
HERE = Path("metalchat.toml")


def parse(text):
    return Manifest.parse(text if isinstance(text, bytes) else text.encode(), HERE)


def table_of(key):
    table, _, name = key.rpartition(".")
    return f"# one\n[{table}]\n{name}"


def test_every_key_of_the_format_is_read():
    manifest = Manifest.read(CORPUS / "full.toml")
    assert manifest.model is not None
    assert manifest.model.id == "e37f2dfbbef2a9dcad4e1d83274b8ff5d55c5481"
    assert manifest.section("inference.sampling") == {
        "type": "nucleus",
        "temperature": 0.6,
        "probability": 0.9,
        "k": 40,
    }
    assert manifest.values["inference.max_sequence_length"] == 1024
    assert manifest.section("options") == {"rms_norm_eps": 0.0001, "tie_word_embeddings": True, "hidden_act": "silu"}
    assert manifest.section("engine") == {"name": "mlx", "threads": 4, "mlx.kv_bits": 8}
    assert manifest.values['source.files."model.safetensors".size'] == 2471645608
    assert manifest.values["prompt.system"] == "system.md"
    assert manifest.tables["source"]["pulled"].year == 2025
    assert manifest.unknown == ()


def test_dotted_keys_and_inline_tables_mean_the_same_as_tables():
    manifest = parse('inference = { sampling = { k = 3 } }\nprompt.system = "/a"\n"chat"."a b" = 1\n')
    assert manifest.values == {"inference.sampling.k": 3, "prompt.system": "/a", 'chat."a b"': 1}


def test_an_integer_is_accepted_where_a_float_is_meant():
    value = parse("[inference.sampling]\ntemperature = 1\n").values["inference.sampling.temperature"]
    assert (value, type(value)) == (1.0, float)
    assert parse("[options]\nrope_theta = 500000\n").values["options.rope_theta"] == 500000


def test_the_line_of_every_key_and_table():
    manifest = Manifest.read(CORPUS / "full.toml")
    lines = (CORPUS / "full.toml").read_text().split("\n")
    for key in manifest.values:
        line = manifest.line(key)
        assert line is not None
        assert lines[line - 1].split("=")[0].strip() in {key.rpartition(".")[2], key.split(".")[-1]}
    assert manifest.line("model") == 2
    assert manifest.line("inference") == 17
    assert manifest.line('source.files."model.safetensors"') == 37
    assert manifest.line("model.nothing") is None
    assert manifest.line("not a key") is None


def test_a_quoted_name_with_a_dot_is_not_the_table_it_resembles():
    manifest = parse('["inference.sampling"]\ntemperature = "hot"\n')
    assert [each.key for each in manifest.unknown] == ['"inference.sampling"']


def test_more_unknown_keys_than_anybody_writes_are_refused():
    assert len(parse("".join(f"[x{index}]\n" for index in range(1000))).unknown) == 1000
    with pytest.raises(InvalidManifest, match="more than 1000 keys that are not known"):
        parse("".join(f"[x{index}]\n" for index in range(1001)))


def test_unknown_tables_and_keys_are_reported_with_their_lines():
    manifest = parse("[infrence]\nk = 1\n\n[prompt]\nsystem = 'a'\ncolour = 1\n[options]\nrope_thetta = 1.0\nxyz = 2\n")
    assert [(each.key, each.line, each.nearest) for each in manifest.unknown] == [
        ("infrence", 1, "inference"),
        ("prompt.colour", 6, None),
        ("options.rope_thetta", 8, "rope_theta"),
        ("options.xyz", 9, None),
    ]
    assert manifest.values == {"prompt.system": "a", "options.rope_thetta": 1.0, "options.xyz": 2}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("inference.sampling.temprature", "inference.sampling.temperature"),
        ("inference.sampling.Temperature", "inference.sampling.temperature"),
        ("inference.sampling.repetition-penalty", "inference.sampling.repetition_penalty"),
        ("inference.sampling.top_p", "inference.sampling.probability"),
        ("inference.sampling.top_k", "inference.sampling.k"),
        ("inference.sampling.sead", "inference.sampling.seed"),
        ("inference.max_sequence_lenght", "inference.max_sequence_length"),
        ("inference.samplng", "inference.sampling"),
        ("prompt.sytem", "prompt.system"),
        ("prompt.system_prompt", "prompt.system"),
        ("engine.nmae", "engine.name"),
        ("model.repositry", "model.repository"),
    ],
)
def test_a_misspelt_key_of_a_known_table_names_its_line_and_the_nearest_key(key, meant):
    with pytest.raises(MisspeltKey) as caught:
        parse(f"{table_of(key)} = 1\n")
    assert str(caught.value) == f"metalchat.toml line 3: '{key}' is not a known key; did you mean '{meant}'?"
    assert (caught.value.line, caught.value.key, caught.value.exit_code) == (3, key, 2)


NUMERIC = [key for key, each in KEYS.items() if each.kind in (int, float)]
HUGE = "9" * 400


@pytest.mark.parametrize(
    "value", ["nan", "-inf", "inf", "1e999999", "-1", HUGE, "9" * 5000, "-" + HUGE, "0x" + "f" * 99]
)
@pytest.mark.parametrize("key", NUMERIC)
def test_a_number_that_no_one_can_mean_is_refused_by_name_and_line(key, value):
    with pytest.raises(InvalidValue) as caught:
        parse(f"{table_of(key)} = {value}\n")
    assert str(caught.value).startswith(f"metalchat.toml line 3: '{key}' is ")
    assert (caught.value.line, caught.value.key) == (3, key)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("true", "a boolean"),
        ('"1"', "a string"),
        ("2025-01-01", "a date or time"),
        ("07:32:00", "a date or time"),
        ("1979-05-27T07:32:00Z", "a date or time"),
        ("[1]", "an array"),
        ("{ a = 1 }", "a table"),
    ],
)
@pytest.mark.parametrize("key", NUMERIC)
def test_another_type_than_a_number_is_refused_by_name_and_line(key, value, name):
    with pytest.raises(InvalidValue, match=f"line 3: '{key}' is {name}, expected an? (integer|number) from ") as caught:
        parse(f"{table_of(key)} = {value}\n")
    assert caught.value.key == key


@pytest.mark.parametrize("key", [key for key in NUMERIC if KEYS[key].kind is int])
def test_a_float_is_refused_where_an_integer_is_meant(key):
    with pytest.raises(InvalidValue, match="is a number, expected an integer from"):
        parse(f"{table_of(key)} = 1.0\n")


@pytest.mark.parametrize("key", NUMERIC)
def test_both_ends_of_a_range_are_inside(key):
    low, high = KEYS[key].low, KEYS[key].high
    assert parse(f"{table_of(key)} = {low!r}\n").values[key] == low
    assert parse(f"{table_of(key)} = {high!r}\n").values[key] == high


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[inference.sampling]\ntype = 'beam'\n",
            "line 2: 'inference.sampling.type' is 'beam', expected 'nucleus' or 'g",
        ),
        ("[prompt]\nsystem = 1\n", "line 2: 'prompt.system' is an integer, expected a string"),
        ('[prompt]\nsystem = "a\\u0000b"\n', "line 2: 'prompt.system' contains a control or invisible character"),
        ("model = 1\n", "line 1: 'model' is an integer, expected a table"),
        ("[[options]]\n", "line 1: 'options' is an array, expected a table"),
        ("[inference]\nsampling = 1\n", "line 2: 'inference.sampling' is an integer, expected a table"),
        ("[engine.name]\na = 1\n", "line 1: 'engine.name' is a table, expected a string"),
        ("[options]\nrms_norm_eps = 'x'\n", "line 2: 'options.rms_norm_eps' is a string, expected a number"),
        ("[options]\nrms_norm_eps = nan\n", "line 2: 'options.rms_norm_eps' is not finite"),
        (
            "[options]\nvocab_size = -1\n",
            "line 2: 'options.vocab_size' is -1, expected an integer that is not negative",
        ),
        ("[options]\nvocab_size = 9223372036854775808\n", "line 2: 'options.vocab_size' is too large"),
        ("[options]\na = [1]\n", "line 2: 'options.a' is an array, expected a boolean, an integer, a number or"),
        ("[options]\na = 2020-01-01\n", "line 2: 'options.a' is a date or time, expected"),
        ("[chat]\na = inf\n", "line 2: 'chat.a' is not a finite number"),
        ("[model]\nrepository = 'https://h/a'\n", "line 1: 'model.architecture' is missing"),
        ("[model]\n", "line 1: 'model.repository' is missing"),
        (
            "[model]\nrepository='h'\narchitecture='a'\npartitioning='b'\nvariant='c'\n",
            "line 2: 'model.repository' is not valid: this is not the address of a repository: it has no sch",
        ),
        (
            "[model]\nrepository='https://h'\narchitecture='a'\npartitioning='b c'\nvariant='c'\n",
            "line 4: 'model.partitioning' is not valid: ",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_a_reason(text, message):
    with pytest.raises(InvalidValue) as caught:
        parse(text)
    assert str(caught.value).startswith(f"metalchat.toml {message}")


@pytest.mark.parametrize(
    "line",
    [
        f'token = "{TOKEN}"',
        f'"{TOKEN}" = 1',
        f"# {TOKEN}",
        f'[prompt]\nsystem = "{TOKEN}"',
        f'a = ["x", {{ b = "see {TOKEN}" }}]',
        'a = "\\u0068' + TOKEN[1:] + '"',
        'a = "https://user:word@h/"',
        'a = "https://word@h/"',
        'a = "ssh://user:word@h/"',
        'token = "anything"',
        'API-Key = "anything"',
        '[chat]\npassword = "anything"',
        '[[x]]\n[[x]]\nsecret = "anything"',
    ],
)
def test_a_secret_in_the_manifest_is_refused_and_not_repeated(line):
    text = f"# one\n\n{line}\n"
    with pytest.raises(SecretInManifest) as caught:
        parse(text)
    number = text.rstrip().count("\n") + 1
    assert str(caught.value) == (
        f"metalchat.toml line {number}: an access token must not be written in the manifest. "
        "Remove it and run 'metalchat credential add'"
    )
    assert caught.value.exit_code == 2


def test_a_secret_before_a_part_that_is_too_deep_is_still_refused():
    with pytest.raises(SecretInManifest):
        parse("token = 'x'\na = " + "[" * 90 + "]" * 90 + "\n")


def test_a_login_in_the_repository_is_refused_without_repeating_it():
    text = f'[model]\nrepository = "https://user:{TOKEN}@h/a"\narchitecture = "a"\npartitioning = "b"\nvariant = "c"\n'
    with pytest.raises(SecretInManifest, match="line 2") as caught:
        parse(text)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        'a = "git@h:x"',
        'a = "mail@example.org"',
        'a = "ssh://git@h/"',
        "bos_token = '<s>'",
        "token = ''",
        "a = 'hf_short'",
    ],
)
def test_what_only_resembles_a_secret_is_accepted(line):
    assert parse(f"[options]\n{line}\n").values


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[model\n", "metalchat.toml line 1 column 7: "),
        (b"a = 1\nb = \n", "metalchat.toml line 2 column 5: Invalid value"),
        (b"a = 1\na = 2\n", "metalchat.toml line 2 column 6: Cannot overwrite a value"),
        (b'a = "', "metalchat.toml line 1 column 6: "),
        (b"a = \x00\n", "metalchat.toml line 1 column 5: "),
        (b'a = "\x1b[2J"\n', "metalchat.toml line 1 column 6: "),
        (b"a = 1\n\nb = '\xff'\n", "metalchat.toml line 3 column 6: it is not UTF-8 text"),
        ("é = 1\n".encode(), "metalchat.toml line 1 column 1: "),
        ("a = 'é\x80".encode() + b"\x80", "metalchat.toml line 1 column 8: it is not UTF-8 text"),
        (b"a = 1\rb = 2\n", "metalchat.toml line 1 column 6: "),
        (b"\xef\xbb\xbf\xef\xbb\xbfa = 1\n", "metalchat.toml line 1 column 1: "),
        ("a = 1".encode("utf-16"), "metalchat.toml line 1 column 1: it is not UTF-8 text"),
        (b"a = " + b"[" * 100_000, "metalchat.toml: tables or arrays are nested too deeply"),
        (b"a = " + b"[" * 90 + b"]" * 90, "metalchat.toml: tables or arrays are nested too deeply"),
        (b"a = " + b"{a=" * 50_000, "metalchat.toml: tables or arrays are nested too deeply"),
        (b"#" * (2**20 + 1), "metalchat.toml: it is larger than 1 MiB"),
        (b"a." * 200_000 + b"a = 1\n", "metalchat.toml line 1 column 33: a key has at most 16 parts"),
        (b"[" + b"a." * 20 + b"a]\n", "metalchat.toml line 1 column 34: a key has at most 16 parts"),
        (b"a = 1\nb = [{" + b"a . " * 20 + b"a=1}]\n", "metalchat.toml line 2 column 71: a key has at most 16 parts"),
        (b"a = " + b"9" * 5000 + b"\n", "metalchat.toml line 1: 'a' is too large"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_place(data, message):
    with pytest.raises(InvalidManifest) as caught:
        parse(data)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_many_dots_outside_of_keys_are_nothing_special():
    assert parse(f'[prompt]\nsystem = "{"../" * 40}a"  # {"." * 100}\n').values["prompt.system"].count(".") == 80


def test_one_byte_order_mark_is_not_content():
    assert parse(b"\xef\xbb\xbf[chat]\r\na = 1\r\n").values == {"chat.a": 1}


def test_a_missing_file_and_one_that_is_no_file(tmp_path):
    with pytest.raises(ManifestNotFound) as missing:
        Manifest.read(tmp_path / "metalchat.toml")
    assert missing.value.exit_code == 4
    with pytest.raises(ManifestNotFound):
        Manifest.read(CORPUS / "full.toml" / "metalchat.toml")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in (".", "fifo", "loop"):
        with pytest.raises(ManifestUnreadable) as caught:
            Manifest.read(tmp_path / name)
        assert caught.value.exit_code == 7
    with pytest.raises(ManifestUnreadable, match="not a regular file"):
        Manifest.read(Path("/dev/zero"))


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path):
    path = tmp_path / "metalchat.toml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidManifest, match="it is larger than 1 MiB"):
        Manifest.read(path)


def test_a_message_ends_with_the_folder_unless_it_is_the_working_directory(tmp_path, monkeypatch):
    path = tmp_path / "metalchat.toml"
    path.write_text("a = \n")
    with pytest.raises(InvalidManifest) as elsewhere:
        Manifest.read(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidManifest) as here:
        Manifest.read(path)
    assert str(here.value) == "metalchat.toml line 1 column 5: Invalid value"
    assert str(elsewhere.value) == f"{here.value} (in {tmp_path})"


def test_every_file_of_the_corpus_reads_the_same_with_other_line_endings():
    for path in CORPUS.glob("*.toml"):
        data = path.read_bytes()
        plain = Manifest.parse(data, HERE)
        for other in (data.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + data, data.rstrip(b"\n")):
            manifest = Manifest.parse(other, HERE)
            assert manifest.values == plain.values
            assert [each.line for each in manifest.unknown] == [each.line for each in plain.unknown]
            assert {key: manifest.line(key) for key in plain.values} == {key: plain.line(key) for key in plain.values}


def test_all_errors_of_reading_are_manifest_errors():
    assert issubclass(InvalidManifest, ManifestError)
    assert ManifestError.exit_code == InvalidManifest.exit_code == 2
