"""`metalchat options` and `metalchat config`: three scopes, one winner, and files that keep their bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

OTHER = (
    '[model]\nrepository = "https://host/other"\narchitecture = "llama3"\n'
    'partitioning = "consolidated"\nvariant = "huggingface"\n'
)


@pytest.fixture
def scopes(cli: Cli, checked_out: str, home: Path) -> dict[str, Path]:
    """The manifests of the three scopes, which all select the same model."""
    assert cli("checkout", "--global", checked_out).code == 0
    return {
        "--local": Path("metalchat.toml"),
        "--global": home / "metalchat.toml",
        "--model": home / "models" / checked_out / "metalchat.toml",
    }


@pytest.mark.parametrize("scope", ["--local", "--global", "--model"])
def test_an_option_is_set_in_the_scope_that_is_named_and_in_no_other(
    cli: Cli, scopes: dict[str, Path], scope: str
) -> None:
    before = {name: path.read_bytes() for name, path in scopes.items()}
    done = cli("options", "set", "rms_norm_eps", "1e-4", scope)
    assert (done.code, done.out, done.err) == (0, "", "")
    changed = {name for name, path in scopes.items() if path.read_bytes() != before[name]}
    assert changed == {scope}
    assert cli("options", "get", "rms_norm_eps").out == "0.0001\n"
    assert cli("options", "list").out == "rms_norm_eps=0.0001\n"
    assert cli("options", "list", "--show-scope").out == f"{scope[2:]}  rms_norm_eps=0.0001\n"
    done = cli("options", "unset", "rms_norm_eps", scope)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert cli("options", "list").out == ""


def test_without_a_scope_the_local_one_is_meant(cli: Cli, scopes: dict[str, Path]) -> None:
    assert cli("options", "set", "rms_norm_eps", "1").code == 0
    assert "rms_norm_eps = 1" in scopes["--local"].read_text()


def test_the_local_scope_is_found_from_a_directory_below(
    cli: Cli, scopes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = scopes["--local"].absolute()
    below = Path("a/b")
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert cli("options", "set", "rms_norm_eps", "1").code == 0
    assert "rms_norm_eps" in local.read_text()
    assert cli("options", "list", "--show-scope").out == "local  rms_norm_eps=1.0\n"


def test_local_beats_global_and_global_beats_the_model(cli: Cli, scopes: dict[str, Path]) -> None:
    for value, scope in enumerate(("--model", "--global", "--local")):
        assert cli("options", "set", "rms_norm_eps", str(value), scope).code == 0
        assert cli("options", "list", "--show-scope").out == f"{scope[2:]}  rms_norm_eps={value}.0\n"


@pytest.mark.parametrize(
    ("name", "text", "written"),
    [
        ("rms_norm_eps", "1e-5", "1e-05"),
        ("rms_norm_eps", "1", "1.0"),
        ("num_hidden_layers", "3", "3"),
        ("tie_word_embeddings", "false", "false"),
        ("hidden_act", "true", "true"),
    ],
)
def test_a_known_option_brings_its_type(cli: Cli, checked_out: str, name: str, text: str, written: str) -> None:
    assert cli("options", "set", name, text).code == 0
    assert cli("options", "get", name).out == f"{written}\n"
    kept = f'{name} = "{written}"' if name == "hidden_act" else f"{name} = {written}"
    assert kept in Path("metalchat.toml").read_text()


@pytest.mark.parametrize(
    ("kind", "text", "value"), [("bool", "true", True), ("int", "-1", -1), ("float", "1", 1.0), ("str", "1", "1")]
)
def test_any_other_option_needs_its_type(
    cli: Cli, fails: Cli, checked_out: str, kind: str, text: str, value: object
) -> None:
    line = fails(2, "options", "set", "odd", text)
    assert line.startswith("metalchat: error: 'odd' is not a known option. Say its type")
    assert cli("options", "set", "-t", kind, "odd", text).code == 0
    (option,) = json.loads(cli("options", "list", "--json").out)
    assert option == {"name": "odd", "value": value, "scope": "local"}
    assert type(option["value"]) is type(value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rms_norm_eps", "small"], "'rms_norm_eps' is 'small', expected a number"),
        (["num_hidden_layers", "1.5"], "'num_hidden_layers' is '1.5', expected an integer"),
        (["rms_norm_eps", "true", "-t", "bool"], "'rms_norm_eps' is a boolean, expected a number"),
        (["rms_norm_ep", "1"], "did you mean 'rms_norm_eps'?"),
    ],
)
def test_a_wrong_option_changes_nothing_and_says_what_is_expected(
    fails: Cli, checked_out: str, words: list[str], says: str
) -> None:
    before = Path("metalchat.toml").read_bytes()
    assert says in fails(2, "options", "set", *words)
    assert Path("metalchat.toml").read_bytes() == before


def test_what_is_not_set_is_not_found(fails: Cli, checked_out: str) -> None:
    assert "option 'rms_norm_eps' is not set in any scope" in fails(4, "options", "get", "rms_norm_eps")
    assert "option 'rms_norm_eps' is not set in " in fails(4, "options", "unset", "rms_norm_eps")
    for key, meant in [
        ("inference.sampling.temprature", "inference.sampling.temperature"),
        ("inference.sampling.top_p", "inference.sampling.probability"),
        ("sampling.temperature", "inference.sampling.temperature"),
        ("temperature", "inference.sampling.temperature"),
        ("inference.context_length", "inference.max_sequence_length"),
        ("options.rms_norm_ep", "options.rms_norm_eps"),
    ]:
        line = fails(4, "config", "explain", key)
        assert line.endswith(f"'{key}' is not set anywhere; did you mean '{meant}'?")
    for key in ("options.rms_norm_eps", "engine.mlx.kv_bits", "nothing.like.it", "a"):
        assert "did you mean" not in fails(4, "config", "explain", key)
    line = fails(4, "config", "explain", "inference.sampling.seed")
    assert "'inference.sampling.seed' is not set anywhere. 'metalchat config list' shows what is set" in line


def test_an_edit_keeps_every_other_byte(cli: Cli, checked_out: str) -> None:
    path = Path("metalchat.toml")
    text = path.read_text().replace("\n", "\r\n")
    head = f"# first\r\n\r\n{text}\r\n[chat]   # whose?\r\nodd   =  'yes'\r\n"
    path.write_bytes(f"{head}[options]\r\nrms_norm_eps=1 # mine\r\n# last".encode())
    assert cli("options", "set", "rms_norm_eps", "2").code == 0
    assert path.read_bytes().decode() == f"{head}[options]\r\nrms_norm_eps=2.0 # mine\r\n# last"
    assert cli("options", "unset", "rms_norm_eps").code == 0
    assert path.read_bytes().decode().startswith(head)


def test_an_override_for_one_model_never_reaches_another(cli: Cli, checked_out: str, home: Path) -> None:
    (home / "metalchat.toml").write_text(f"{OTHER}[options]\nrms_norm_eps = 1\n")
    assert cli("options", "list").out == ""
    (line,) = cli("config", "explain", "options.rms_norm_eps").out.splitlines()
    where = f"{home / 'metalchat.toml'}:7"
    assert line == (
        f"-  global  options.rms_norm_eps=1  {where}  not in force: the global manifest selects another model"
    )
    (layer,) = json.loads(cli("config", "explain", "options.rms_norm_eps", "--json").out)
    assert (layer["wins"], layer["ignored"]) == (False, "the global manifest selects another model")


def test_a_setting_is_explained_by_every_layer_with_file_and_line(
    cli: Cli, checked_out: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = home / "models" / checked_out
    entry.joinpath("generation_config.json").unlink()
    entry.joinpath("generation_config.json").write_text('{"temperature": 0.1}')
    table = "[inference.sampling]\ntemperature = "
    for path, value in ((entry / "metalchat.toml", 0.2), (home / "metalchat.toml", 0.3), (Path("metalchat.toml"), 0.4)):
        before = path.read_text() if path.exists() else ""
        path.write_text(f"{before}{table}{value}\n")
    monkeypatch.setenv("METALCHAT_INFERENCE_SAMPLING_TEMPERATURE", "0.5")
    key = "inference.sampling.temperature"
    assert cli("config", "explain", key).out.splitlines() == [
        f"   generation_config.json  {key}=0.1  {entry / 'generation_config.json'}:1",
        f"   model  {key}=0.2  {entry / 'metalchat.toml'}:12",
        f"   global  {key}=0.3  {home / 'metalchat.toml'}:2",
        f"   local  {key}=0.4  {Path('metalchat.toml').absolute()}:7",
        f"*  environment  {key}=0.5  METALCHAT_INFERENCE_SAMPLING_TEMPERATURE",
    ]
    layers = json.loads(cli("config", "explain", key, "--json").out)
    assert [layer["value"] for layer in layers] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [layer["wins"] for layer in layers] == [False, False, False, False, True]
    assert list(layers[0]) == ["value", "scope", "path", "line", "variable", "ignored", "wins"]


def test_the_built_in_default_is_a_layer_without_a_file(cli: Cli) -> None:
    assert cli("config", "explain", "engine.name").out == "*  default  engine.name=mlx\n"


def test_every_setting_in_force_is_listed_with_its_scope(cli: Cli, checked_out: str) -> None:
    path = Path("metalchat.toml")
    path.write_text(path.read_text() + '[inference.sampling]\ntemperature = 1\n[prompt]\nsystem = "s.md"\n')
    lines = cli("config", "list").out.splitlines()
    assert "default  engine.name=mlx" in lines
    assert "local  inference.sampling.temperature=1.0" in lines
    assert "local  prompt.system=s.md" in lines
    assert "config.json  options.model_type=llama" in lines
    listed = json.loads(cli("config", "list", "--json").out)
    assert [f"{each['scope']}  {each['key']}" for each in listed] == [line.partition("=")[0] for line in lines]


def test_a_variable_with_a_wrong_value_is_an_error_that_names_it(fails: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALCHAT_INFERENCE_SAMPLING_TEMPERATURE", "warm")
    assert "METALCHAT_INFERENCE_SAMPLING_TEMPERATURE" in fails(2, "config", "list")


def test_the_model_scope_needs_a_model(fails: Cli) -> None:
    assert fails(2, "options", "set", "rms_norm_eps", "1", "--model").startswith(
        "error: requested scope not checked out"
    )
