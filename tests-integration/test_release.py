"""What the workflows of the forge do: the check of a release tag, and that their steps are a person's commands."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / ".github" / "release.py"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release"] = module  # where dataclasses looks for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["release"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for part, version in (("store", "0.2.0"), ("engine", "1.0.0rc1"), ("engine-mlx", "0.1.0")):
        folder = tmp_path / "packages" / f"metalchat-{part}"
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(f'[project]\nname = "metalchat-{part}"\nversion = "{version}"\n')
        (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## {version}\n\nThis.\n\n## 0.0.1\n\nThat.\n")
    return tmp_path


@pytest.mark.parametrize(
    ("tag", "part", "files"),
    [
        ("metalchat-store-v0.2.0", "store", "dist/metalchat_store-0.2.0*"),
        ("metalchat-engine-v1.0.0rc1", "engine", "dist/metalchat_engine-1.0.0rc1*"),
        ("metalchat-engine-mlx-v0.1.0", "engine-mlx", "dist/metalchat_engine_mlx-0.1.0*"),
    ],
)
def test_a_tag_stands_for_one_package(script: ModuleType, tree: Path, tag: str, part: str, files: str) -> None:
    found = script.release(tag, tree)
    assert (found.part, found.files) == (part, files)


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("v0.2.0", "'v0.2.0' is not of the form metalchat-<part>-vX.Y.Z"),
        ("metalchat-store-v0.2", "'metalchat-store-v0.2' is not of the form metalchat-<part>-vX.Y.Z"),
        ("metalchat-../x-v0.2.0", "'metalchat-../x-v0.2.0' is not of the form metalchat-<part>-vX.Y.Z"),
        ("metalchat-store-v0.2.0\n", "'metalchat-store-v0.2.0\n' is not of the form metalchat-<part>-vX.Y.Z"),
        (
            "metalchat-shop-v0.2.0",
            "'metalchat-shop-v0.2.0' names no package. There are: "
            "metalchat-engine, metalchat-engine-mlx, metalchat-store",
        ),
        (
            "metalchat-store-v0.3.0",
            "packages/metalchat-store/pyproject.toml has version 0.2.0, the tag has 0.3.0",
        ),
    ],
)
def test_a_tag_that_does_not_fit_says_why(script: ModuleType, tree: Path, tag: str, message: str) -> None:
    with pytest.raises(script.CannotRelease) as caught:
        script.release(tag, tree)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "found"),
    [("# Changelog\n", "no section"), ("## Unreleased\n\n## 0.2.0\n", "a section about Unreleased")],
)
def test_a_version_without_a_changelog_is_not_released(
    script: ModuleType, tree: Path, changes: str, found: str
) -> None:
    (tree / "packages/metalchat-store/CHANGELOG.md").write_text(changes)
    with pytest.raises(script.CannotRelease, match=f"CHANGELOG.md begins with {found}, not with '## 0.2.0'"):
        script.release("metalchat-store-v0.2.0", tree)


def test_every_package_could_be_released_as_it_is_in_the_tree() -> None:
    for package in sorted(ROOT.glob("packages/*/pyproject.toml")):
        version = tomllib.loads(package.read_text())["project"]["version"]
        tag = f"{package.parent.name}-v{version}"
        done = subprocess.run([sys.executable, str(SCRIPT), tag], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"version={version}\n" in done.stdout


def test_a_refused_tag_is_one_line_and_an_exit_code() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "nightly"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "release.py: 'nightly' is not of the form metalchat-<part>-vX.Y.Z\n"


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_workflows_are_well_formed_and_run_a_persons_commands(path: Path) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text())
    assert set(workflow) >= {"name", True, "permissions", "jobs"}, "YAML reads the key 'on' as true"
    assert workflow["permissions"] == {"contents": "read"}
    known = scripts()
    for name, job in workflow["jobs"].items():
        assert job["runs-on"], name
        assert job["timeout-minutes"] <= 30, name
        for needed in [job["needs"]] if "needs" in job else []:
            assert needed in workflow["jobs"]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), (name, step)
            command = step.get("run", "")
            assert "${{" not in command, "what a tag or a branch is called does not belong into a command"
            if match := re.fullmatch(r'hatch run (?:"\+package=\$PART" )?(\S+)', command):
                assert match[1] in known, command


def scripts() -> set[str]:
    environments = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]
    return {
        script if name == "default" else f"{name}:{script}"
        for name, environment in environments.items()
        for script in environment.get("scripts", {})
    }
