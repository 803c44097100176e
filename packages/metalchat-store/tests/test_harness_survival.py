"""A small part of each program of the harness; `benchmarks/reliability.py` runs all of them at full length."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("harness")


def outcome(program: str, *arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "error", HARNESS / f"{program}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == [], done.stderr
    return result


def test_S_6_a_pull_that_is_killed_at_a_random_moment_goes_on(tmp_path: Path) -> None:
    result = outcome("kills", tmp_path, 0, 6, 4)
    assert result["killed"] == 6


def test_S_6_no_order_of_lost_writes_leaves_a_half_model(tmp_path: Path) -> None:
    assert outcome("power", tmp_path, 1, 1, 15)["states"] > 100


@pytest.mark.parametrize("kind", ["locks", "nolocks", "stops", "history"])
def test_S_8_many_processes_on_one_store_see_whole_models_only(tmp_path: Path, kind: str) -> None:
    result = outcome("crowd", kind, tmp_path, 6, 1)
    if kind == "locks":
        assert result["most_bodies"] == 1


def test_N_every_fault_at_every_request_ends_well_or_in_one_line(tmp_path: Path) -> None:
    result = outcome("network", tmp_path, 1, 60)
    assert result["cases"] > 40
    assert 0 < result["outcomes"]["pulled"] < result["cases"]


def test_N_10_malformed_answers_are_errors_of_one_line() -> None:
    result = outcome("answers", 1, 1200)
    assert 0 < result["outcomes"]["accepted"] < result["cases"] / 2


def test_wrong_clocks_change_nothing(tmp_path: Path) -> None:
    assert outcome("clocks", tmp_path)["cases"] > 20


def test_S_5_every_flipped_bit_is_found(tmp_path: Path) -> None:
    result = outcome("flips", tmp_path, 1, 200)
    assert result["structural"] > 50
