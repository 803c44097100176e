"""Which setting holds, where it comes from, and what has no effect."""

import json

import pytest
from metalchat_manifest import (
    DEFAULTS,
    InvalidManifest,
    InvalidModelFile,
    InvalidPrompt,
    InvalidSetting,
    ManifestError,
    ModelSpec,
    Origin,
    Scope,
    UnknownOption,
    resolve,
)

LLAMA = ModelSpec(repository="https://h/llama", architecture="llama3", partitioning="sharded", variant="huggingface")
QWEN = ModelSpec(repository="https://h/qwen", architecture="qwen3", partitioning="sharded", variant="huggingface")
SAMPLING = "inference.sampling."
TEMPERATURE = f"{SAMPLING}temperature"
SEED = f"{SAMPLING}seed"


def model_table(spec):
    names = ("repository", "architecture", "partitioning", "variant")
    return "[model]\n" + "".join(f'{name} = "{getattr(spec, name)}"\n' for name in names)


class World:
    """A user's home, metalchat's folder in it, and a project."""

    def __init__(self, root):
        self.user = root / "user"
        self.home = self.user / ".metalchat"
        self.project = self.user / "work" / "project"
        self.project.mkdir(parents=True)
        self.home.mkdir()

    def write(self, scope, text, spec=LLAMA):
        folder = {"local": self.project, "global": self.home, "model": self.home / "models" / spec.id}[scope]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metalchat.toml"
        path.write_text(text)
        return path

    def model_file(self, name, content, spec=LLAMA):
        folder = self.home / "models" / spec.id
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        return path

    def resolve(self, *, environ=None, **others):
        environ = {"HOME": str(self.user)} | (environ or {})
        return resolve(home=self.home, directory=others.pop("directory", self.project), environ=environ, **others)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_with_nothing_written_the_engine_and_the_sampling_have_defaults(world):
    resolved = world.resolve()
    assert {each.key: each.value for each in resolved.settings()} == dict(DEFAULTS)
    assert {each.origin for each in resolved.settings()} == {Origin(scope="default")}
    assert (resolved.model, resolved.model_origin) == (None, None)
    assert resolved.setting(SEED) is None
    assert resolved.get(SEED) is None
    assert resolved.get(SEED, 1) == 1
    assert resolved.explain(SEED) == ()
    assert resolved.system_prompt() is None


@pytest.mark.parametrize(
    "said",
    [{"do_sample": True}, {"do_sample": False}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}],
)
def test_a_model_that_says_how_to_be_sampled_is_not_sampled_otherwise(world, said):
    path = world.model_file("generation_config.json", said)
    found = {each.key: each.origin for each in world.resolve(model=LLAMA).settings() if each.key.startswith(SAMPLING)}
    assert {origin.path for origin in found.values()} == {path}
    assert len(found) == 1


def test_a_model_that_says_other_things_about_its_answers_has_the_sampling_of_others(world):
    world.model_file("generation_config.json", {"eos_token_id": 2, "repetition_penalty": 1.1})
    resolved = world.resolve(model=LLAMA)
    assert {key: resolved.get(key) for key in DEFAULTS} == dict(DEFAULTS)


def test_a_read_creates_no_file(world, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    world.resolve(model=LLAMA)
    assert sorted(tmp_path.rglob("*")) == before


def test_each_layer_overrides_the_ones_below_it_and_says_where_it_stands(world):
    key = "options.rope_theta"
    config = world.model_file("config.json", {"model_type": "llama", "rope_theta": 1.0})
    model = world.write("model", "# m\n[options]\nrope_theta = 2.0\n")
    everywhere = world.write("global", "[options]\n\n\nrope_theta = 3.0\n")
    local = world.write("local", model_table(LLAMA) + "[options]\nrope_theta = 4\n")
    environ = {"METALCHAT_OPTIONS_ROPE_THETA": "5"}
    resolved = world.resolve(environ=environ, flags={key: 6})
    assert [(each.value, each.origin) for each in resolved.explain(key)] == [
        (1.0, Origin(scope="config.json", path=config, line=3)),
        (2.0, Origin(scope="model", path=model, line=3)),
        (3.0, Origin(scope="global", path=everywhere, line=4)),
        (4, Origin(scope="local", path=local, line=7)),
        (5.0, Origin(scope="environment", variable="METALCHAT_OPTIONS_ROPE_THETA")),
        (6, Origin(scope="flag")),
    ]
    assert resolved.get(key) == 6
    assert resolved.setting(key) == resolved.explain(key)[-1]


def test_generation_config_stands_between_config_and_the_manifest_of_the_model(world):
    path = world.model_file("generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9})
    world.write("local", model_table(LLAMA))
    resolved = world.resolve()
    assert resolved.section("inference.sampling") == {"type": "nucleus", "temperature": 0.6, "probability": 0.9}
    assert resolved.setting("inference.sampling.probability").origin == Origin(
        scope="generation_config.json", path=path, line=4
    )
    world.write("model", "[inference.sampling]\ntemperature = 0.7\n")
    assert world.resolve().get(TEMPERATURE) == 0.7


def test_the_context_length_of_the_model_is_a_default(world):
    world.write("global", model_table(LLAMA))
    world.model_file("config.json", {"max_position_embeddings": 131072})
    setting = world.resolve().setting("inference.max_sequence_length")
    assert (setting.value, setting.origin.scope, setting.origin.line) == (131072, "config.json", 2)
    world.write("local", "[inference]\nmax_sequence_length = 8\n")
    assert world.resolve().get("inference.max_sequence_length") == 8


def test_the_local_manifest_selects_the_model_before_the_global_one_and_a_flag_before_both(world):
    everywhere = world.write("global", model_table(QWEN))
    resolved = world.resolve()
    assert (resolved.model, resolved.model_origin) == (QWEN, Origin(scope="global", path=everywhere, line=1))
    local = world.write("local", "# c\n" + model_table(LLAMA))
    resolved = world.resolve()
    assert (resolved.model, resolved.model_origin) == (LLAMA, Origin(scope="local", path=local, line=2))
    assert resolved.get("model.architecture") == "llama3"
    resolved = world.resolve(model=QWEN)
    assert (resolved.model, resolved.model_origin) == (QWEN, Origin(scope="flag"))
    assert [each.value for each in resolved.explain("model.architecture")] == ["qwen3", "llama3", "qwen3"]


def test_options_made_for_one_architecture_never_reach_another(world):
    world.write("global", model_table(QWEN) + "[options]\nrope_theta = 3.0\n[inference.sampling]\ntemperature = 0.3\n")
    world.write("local", model_table(LLAMA) + "[options]\nrms_norm_eps = 0.1\n")
    resolved = world.resolve()
    assert {name: setting.value for name, setting in resolved.options().items()} == {"rms_norm_eps": 0.1}
    assert resolved.get("options.rope_theta") is None
    assert resolved.explain("options.rope_theta") == ()
    assert resolved.get(TEMPERATURE) == 0.3
    (ignored,) = resolved.ignored
    assert (ignored.setting.key, ignored.setting.value, ignored.setting.origin.scope) == (
        "options.rope_theta",
        3.0,
        "global",
    )
    assert ignored.reason == "the global manifest selects another model"
    resolved = world.resolve(model=QWEN)
    assert {name: setting.value for name, setting in resolved.options().items()} == {"rope_theta": 3.0}


def test_options_of_a_scope_that_selects_no_model_reach_every_model(world):
    world.write("global", "[options]\nrope_theta = 3.0\n")
    world.write("local", model_table(LLAMA))
    assert world.resolve().get("options.rope_theta") == 3.0
    assert world.resolve(model=QWEN).get("options.rope_theta") == 3.0


def test_a_scope_that_spells_the_same_model_otherwise_selects_it(world):
    world.write("global", model_table(LLAMA).replace("https://", "HTTPS://") + "[options]\nrope_theta = 3.0\n")
    world.write("local", model_table(LLAMA))
    assert world.resolve().get("options.rope_theta") == 3.0


def test_what_overrides_config_json_leaves_out_that_file(world):
    world.model_file("config.json", {"rope_theta": 1.0, "vocab_size": 5, "rope_scaling": {"a": 1}, "x": None})
    world.write("model", "[options]\nrope_theta = 2.0\n")
    resolved = world.resolve(model=LLAMA)
    assert list(resolved.options()) == ["rope_theta"]
    assert resolved.section("options") == {"rope_theta": 2.0, "vocab_size": 5}


def test_tools_are_not_enabled_by_a_manifest_that_came_with_a_project_or_model(world):
    tools = "[tools.shell]\nrun = 'rm'\n"
    world.write("local", model_table(LLAMA) + tools)
    world.write("model", tools)
    resolved = world.resolve()
    assert resolved.section("tools") == {}
    assert [each.setting.key for each in resolved.ignored] == ["tools.shell.run", "tools.shell.run"]
    world.write("global", tools)
    assert world.resolve().section("tools") == {"shell.run": "rm"}


def test_a_manifest_that_came_with_a_project_or_model_does_not_say_where_an_engine_writes(world):
    for scope in ("model", "global", "local"):
        world.write(scope, f"[engine]\nstate_directory = '/{scope}'\nthreads = 1\n")
    resolved = world.resolve(model=LLAMA)
    assert resolved.section("engine") == {"name": "mlx", "state_directory": "/global", "threads": 1}
    assert [each.setting.origin.scope for each in resolved.ignored] == ["model", "local"]
    assert all("where files are written" in each.reason for each in resolved.ignored)
    chosen = world.resolve(model=LLAMA, environ={"METALCHAT_ENGINE_STATE_DIRECTORY": "/mine"})
    assert chosen.get("engine.state_directory") == "/mine"


def test_a_manifest_that_came_with_a_project_or_model_has_no_library_loaded(world):
    for scope in ("model", "local"):
        world.write(scope, "[engine]\nblas = '/tmp/libevil.so'\n")
    resolved = world.resolve(model=LLAMA)
    assert resolved.section("engine") == {"name": "mlx"}
    assert [each.setting.origin.scope for each in resolved.ignored] == ["model", "local"]
    assert all("which library is loaded" in each.reason for each in resolved.ignored)
    world.write("global", "[engine]\nblas = '/opt/libblas.so'\n")
    assert world.resolve(model=LLAMA).get("engine.blas") == "/opt/libblas.so"


def test_a_file_repository_is_found_under_its_older_identifier(world):
    spec = ModelSpec(repository="file:///m", architecture="llama3", partitioning="sharded", variant="huggingface")
    folder = world.home / "models" / spec.ids[1]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"vocab_size": 5}')
    assert world.resolve(model=spec).get("options.vocab_size") == 5


def test_a_stronger_temperature_ends_the_greedy_sampling_of_a_weaker_layer(world):
    world.model_file("generation_config.json", {"do_sample": False, "temperature": 0.9})
    assert world.resolve(model=LLAMA).get("inference.sampling.type") == "greedy"
    world.write("global", "[inference.sampling]\nseed = 1\n")
    assert world.resolve(model=LLAMA).get("inference.sampling.type") == "greedy"
    world.write("local", "[inference.sampling]\ntemperature = 0.7\n")
    resolved = world.resolve(model=LLAMA)
    assert resolved.section("inference.sampling") == {"temperature": 0.7, "seed": 1}
    assert resolved.ignored[0].reason == "a stronger layer sets how to sample"
    world.write("local", "[inference.sampling]\ntype = 'greedy'\ntemperature = 0.7\n")
    assert world.resolve(model=LLAMA).get("inference.sampling.type") == "greedy"


def test_the_system_prompt_is_read_beside_the_manifest_that_names_it(world):
    (world.home / "system.md").write_text("everywhere")
    (world.project / "system.md").write_bytes(b"\xef\xbb\xbfhere\n")
    world.write("global", "[prompt]\nsystem = 'system.md'\n")
    assert world.resolve().system_prompt() == "everywhere"
    world.write("local", "[prompt]\nsystem = 'system.md'\n")
    assert world.resolve().system_prompt() == "here\n"
    below = world.project / "deep" / "er"
    below.mkdir(parents=True)
    assert world.resolve(directory=below).system_prompt() == "here\n"
    (below / "mine").write_text("mine")
    assert world.resolve(directory=below, flags={"prompt.system": "mine"}).system_prompt() == "mine"
    assert world.resolve(environ={"METALCHAT_PROMPT_SYSTEM": str(below / "mine")}).system_prompt() == "mine"
    assert world.resolve(flags={"prompt.system": ""}).system_prompt() is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "there is no such file"),
        (b"\xff", "it is not UTF-8 text"),
        (b"A=1\0HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz\0", "it holds an access token"),
        (b"a" * (2**20 + 1), "it is larger than 1 MiB"),
    ],
)
def test_a_system_prompt_that_cannot_be_used_is_named_with_its_line(world, content, why):
    world.write("local", "[prompt]\nsystem = 'system.md'\n")
    if content is not None:
        (world.project / "system.md").write_bytes(content)
    with pytest.raises(InvalidPrompt, match=why) as caught:
        world.resolve().system_prompt()
    assert (caught.value.line, caught.value.key, caught.value.exit_code) == (2, "prompt.system", 2)
    assert "hf_abc" not in str(caught.value)


def test_a_system_prompt_that_is_a_device_does_not_block(world):
    for name in ("/dev/zero", "/dev", "/dev/stdin"):
        with pytest.raises(InvalidPrompt):
            world.resolve(flags={"prompt.system": name}).system_prompt()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"inference.sampling.temperature": -1.0}, "'inference.sampling.temperature' is -1.0, expected a number"),
        ({"inference.sampling.temprature": 1.0}, "did you mean 'inference.sampling.temperature'"),
        ({"model.variant": "gguf"}, "'model.variant' is not a flag; 'metalchat checkout' selects a model"),
        ({"profile.a": 1.0}, "'profile.a' is not a known key"),
        ({"inference.max_sequence_length": 0}, "'inference.max_sequence_length' is 0, expected an integer from 1 to"),
    ],
)
def test_a_flag_is_checked_like_a_key_of_a_manifest(world, flags, message):
    with pytest.raises(InvalidSetting, match=message):
        world.resolve(flags=flags)


def test_a_broken_manifest_of_any_scope_is_named(world):
    for scope in ("global", "local", "model"):
        path = world.write(scope, "[inference]\nmax_sequence_length = 'x'\n")
        with pytest.raises(InvalidManifest) as caught:
            world.resolve(model=LLAMA)
        assert (caught.value.path, caught.value.line) == (path, 2)
        path.unlink()


def test_a_broken_file_of_the_model_is_named(world):
    path = world.model_file("config.json", "{")
    with pytest.raises(InvalidModelFile) as caught:
        world.resolve(model=LLAMA)
    assert caught.value.path == path


def test_the_manifests_of_the_scopes_are_at_hand(world):
    world.write("global", model_table(LLAMA))
    world.write("model", "[chat]\na = 1\n")
    resolved = world.resolve()
    assert set(resolved.manifests) == {Scope.GLOBAL, Scope.MODEL}
    assert resolved.manifests[Scope.MODEL].section("chat") == {"a": 1}


def test_in_metalchats_own_folder_the_global_manifest_counts_once(world):
    world.write("global", "[chat]\na = 1\n")
    resolved = world.resolve(directory=world.home)
    assert [each.origin.scope for each in resolved.explain("chat.a")] == ["global"]


def test_environment_variables_name_keys(world):
    environ = {
        "METALCHAT_INFERENCE_SAMPLING_TEMPERATURE": "0.5",
        "METALCHAT_INFERENCE_SAMPLING_TYPE": "nucleus",
        "METALCHAT_INFERENCE_MAX_SEQUENCE_LENGTH": "128",
        "METALCHAT_ENGINE_NAME": "llamacpp",
        "METALCHAT_ENGINE_THREADS": "4",
        "METALCHAT_CHAT_SAVE": "false",
        "METALCHAT_TOOLS_SET": "clock",
        "METALCHAT_OPTIONS_TIE_WORD_EMBEDDINGS": "true",
        "METALCHAT_OPTIONS_ROPE_THETA": "",
        "METALCHAT_HOME": "/nowhere",
        "METALCHAT_PLUGINS": "",
        "METALCHAT_TOKEN": "x",
        "METALCHAT_INFERENCE_ZZZ": "1",
        "METALCHAT_MODEL_VARIANT": "gguf",
    }
    resolved = world.resolve(environ=environ)
    assert {each.key: each.value for each in resolved.settings() if each.origin.scope != "default"} == {
        "inference.sampling.temperature": 0.5,
        "inference.sampling.type": "nucleus",
        "inference.max_sequence_length": 128,
        "engine.name": "llamacpp",
        "engine.threads": 4,
        "chat.save": False,
        "tools.set": "clock",
        "options.tie_word_embeddings": True,
    }
    assert {each.origin.variable for each in resolved.settings() if each.origin.scope != "default"} == {
        name for name, text in environ.items() if text and not name.endswith(("HOME", "TOKEN", "ZZZ", "VARIANT"))
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "INFERENCE_SAMPLING_TEMPERATURE",
            "hot",
            "'inference.sampling.temperature' is 'hot', expected a number from 0",
        ),
        ("INFERENCE_SAMPLING_TEMPERATURE", "nan", "expected a number from 0 to 100"),
        ("INFERENCE_SAMPLING_TEMPERATURE", "1e999", "expected a number from 0 to 100"),
        ("INFERENCE_SAMPLING_K", "-1", "is -1, expected an integer from 0"),
        ("INFERENCE_SAMPLING_K", "9" * 5000, "is a text of 5000 characters, expected an integer"),
        ("INFERENCE_SAMPLING_TYPE", "\x1b[2J", "'\\\\x1b\\[2J', expected 'nucleus' or 'greedy'"),
        ("INFERENCE_SAMPLING_TEMPRATURE", "1", "did you mean 'inference.sampling.temperature'"),
        ("ENGINE_NMAE", "mlx", "did you mean 'engine.name'"),
        ("OPTIONS_ROPE_THETTA", "1", "'rope_thetta' is not a known option; did you mean 'rope_theta'"),
        ("OPTIONS_ROPE_THETA", "-1", "'rope_theta' is -1.0, expected a number that is not negative"),
    ],
)
def test_a_variable_that_means_nothing_is_named(world, name, text, message):
    with pytest.raises(InvalidSetting, match=message) as caught:
        world.resolve(environ={f"METALCHAT_{name}": text})
    assert str(caught.value).startswith(f"the environment variable METALCHAT_{name} is not valid: ")
    assert isinstance(caught.value, UnknownOption) == (name == "OPTIONS_ROPE_THETTA")
    assert caught.value.exit_code == 2


def test_what_may_be_a_secret_in_the_wrong_variable_is_not_repeated(world):
    token = "hf_" + "a" * 34
    with pytest.raises(ManifestError) as caught:
        world.resolve(environ={"METALCHAT_INFERENCE_SAMPLING_TYPE": token})
    assert token not in str(caught.value)
