"""A pull that is killed, or whose system calls fail, at any call leaves the store whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("fault_sweep.py")


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("scenario", ["first", "parts", "update", "folder", "shared"])
def test_S_6_a_kill_at_any_call_leaves_no_half_model_and_the_next_pull_completes(
    tmp_path: Path, scenario: str, start: int
) -> None:
    result = sweep("kill", scenario, tmp_path, start, 8)
    assert result["wrong"] == []
    assert result["reached"] > 25
    if scenario == "first":
        assert 0 < min(count for count in result["fetched"] if count) < max(result["fetched"])


@pytest.mark.parametrize("scenario", ["first", "parts", "update", "folder", "shared"])
def test_S_7_any_failing_call_is_one_line_and_the_next_pull_completes(tmp_path: Path, scenario: str) -> None:
    result = sweep("errno", scenario, tmp_path, 1, 21)
    assert result["wrong"] == []
    assert result["reached"] > 50


def sweep(kind: str, scenario: str, folder: Path, start: int, step: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, kind, scenario, folder, str(start), str(step)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
