"""The package as a whole: what its import costs, its errors, its README."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import metalchat_manifest
import pytest
from metalchat_manifest import (
    KEYS,
    InvalidManifest,
    InvalidModelFile,
    Manifest,
    ManifestChanged,
    ManifestError,
    ManifestNotFound,
    ManifestNotWritten,
    ManifestUnreadable,
    errors,
)

PACKAGE = Path(__file__).parents[1]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_imports_next_to_nothing():
    code = "import sys; before = set(sys.modules); import metalchat_manifest; print(*set(sys.modules) - before)"
    heavy = {"dataclasses", "tomllib", "json", "hashlib", "difflib", "pathlib", "typing", "tomlkit"}
    assert not heavy & set(run(code))


def test_reading_a_manifest_imports_only_what_it_uses():
    path = PACKAGE / "tests" / "corpus" / "global.toml"
    read = f"from pathlib import Path; from metalchat_manifest import Manifest; Manifest.read(Path({str(path)!r}))"
    assert not {"json", "difflib", "hashlib", "tomlkit"} & set(run(f"{read}; import sys; print(*sys.modules)"))


def test_every_public_name_is_there_whatever_was_imported_first():
    code = "import metalchat_manifest.resolution, metalchat_manifest as m; [getattr(m, name) for name in m.__all__]; "
    checks = "print(all(map(callable, (m.resolve, m.edit, m.identifier, m.variable, m.parse_option))))"
    assert run(code + checks) == ["True"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metalchat_manifest.nothing  # noqa: B018  the access itself is what fails
    assert sorted(metalchat_manifest.__all__) == sorted(set(metalchat_manifest.__all__))


def test_the_tree_of_errors_is_the_one_that_is_drawn():
    classes = {
        name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)
    }
    drawn = re.findall(r"^ *(?:([├└│ ─]*)[├└]── )?(\w+) +\((\d)\)", errors.__doc__ or "", re.MULTILINE)
    assert {name for _, name, _ in drawn} == set(classes)
    parents = {}
    for indent, name, code in drawn:
        depth = 0 if name == "ManifestError" else len(indent) // 4 + 1
        parents[depth] = classes[name]
        assert classes[name].exit_code == int(code)
        assert classes[name].__base__ is (parents[depth - 1] if depth else Exception)


def test_each_kind_of_failure_has_its_exit_code():
    codes = {InvalidManifest: 2, ManifestNotFound: 4, InvalidModelFile: 6}
    codes |= dict.fromkeys((ManifestUnreadable, ManifestChanged, ManifestNotWritten), 7)
    assert {kind: kind.exit_code for kind in codes} == codes


def test_a_message_is_one_printable_line():
    error = ManifestError("a\x1b[2J\nb\u202e\ud800" + "x" * 1000, path=Path("/a\n/b\x1b.toml"), line=1)
    assert str(error).isprintable()
    assert len(str(error)) < 500


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in [each for each in os.environ if each.startswith("METALCHAT_")]:
        monkeypatch.delenv(name)
    blocks = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "default None None 0.8",
        "global home/metalchat.toml 8 0.6",
        f"local {tmp_path}/project/metalchat.toml 2 0.2",
    ]


def test_the_file_in_the_readme_has_every_key():
    (block,) = re.findall(r"```toml\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert set(KEYS) <= set(Manifest.parse(block.encode(), Path("metalchat.toml")).values)


def test_the_version_in_the_changelog_is_the_packages():
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert f"## {project['version']}\n" in (PACKAGE / "CHANGELOG.md").read_text()
    assert project["dependencies"] == []
