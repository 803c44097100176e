"""Collections and changes of state that are killed, fail, or run beside pulls lose nothing that is referred to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("collect_sweep.py")


def run(*arguments: object, program: Path = PROGRAM) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "error", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("start", [1, 2])
def test_S_6_a_collection_that_is_killed_at_any_call_loses_nothing_and_the_next_one_ends_it(
    tmp_path: Path, start: int
) -> None:
    result = run("kill", tmp_path, start, 6)
    assert result["wrong"] == []
    assert result["reached"] > 15


def test_S_7_a_collection_in_which_any_call_fails_loses_nothing(tmp_path: Path) -> None:
    result = run("errno", tmp_path, 1, 7)
    assert result["wrong"] == []
    assert result["reached"] > 15


@pytest.mark.parametrize(("grace", "seed"), [(3600, 1), (0, 2)])
def test_pulls_beside_collections_end_with_whole_models(tmp_path: Path, grace: int, seed: int) -> None:
    """With a grace period every pull succeeds, too; without one, none leaves half a model."""
    result = run("beside", tmp_path, grace, 2.5, seed)
    assert result["statuses"] == [0, 0, 0]
    assert result["rounds"] > 5
    assert all(result["whole"])
    assert all(result["again"])
    assert result["left"] == []
    assert result["blobs"] == []


@pytest.mark.parametrize("kind", ["repair", "rollback", "restore"])
def test_S_6_a_change_of_state_that_is_killed_at_any_call_is_old_or_new(tmp_path: Path, kind: str) -> None:
    result = run(kind, tmp_path, 1, 6, program=PROGRAM.with_name("versions_sweep.py"))
    assert result["wrong"] == []
    assert result["reached"] > 10
