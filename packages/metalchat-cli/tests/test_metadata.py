"""The quick look at what is installed: it may be wrong in one direction only."""

import sys
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from metalchat_cli.extensions import points
from metalchat_cli.metadata import mentioned
from metalchat_engine.testing import write_distribution

GROUP = "metalchat.commands"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that Python looks for distributions in."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "python.zip")])
    others = [finder for finder in sys.meta_path if not hasattr(finder, "find_distributions")]
    monkeypatch.setattr(sys, "meta_path", [*others, PathFinder])
    return tmp_path


def test_a_group_that_a_distribution_offers_is_mentioned(place: Path) -> None:
    write_distribution(place, "other", {"metalchat.engines": {"echo": "echo:make"}})
    assert not mentioned(GROUP)
    write_distribution(place, "commands", {GROUP: {"serve": "serve:app"}})
    assert mentioned(GROUP)


def test_distributions_without_entry_points_mention_nothing(place: Path) -> None:
    (place / "plain-1.dist-info").mkdir()
    (place / "old-1.egg-info").write_text("Name: old\n")
    assert not mentioned(GROUP)


@pytest.mark.parametrize("name", ["Commands-1.DIST-INFO", "commands-1.egg-info"])
def test_every_kind_of_metadata_folder_is_looked_into(place: Path, name: str) -> None:
    (place / name).mkdir()
    (place / name / "entry_points.txt").write_text(f"[{GROUP}]\nserve = serve:app\n")
    assert mentioned(GROUP)


def test_what_cannot_be_told_quickly_may_hold_a_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    egg = place / "commands-1-py3.egg"
    egg.mkdir()
    assert mentioned(GROUP)
    egg.rmdir()
    with zipfile.ZipFile(place / "python.zip", "w") as archive:
        archive.writestr("module.py", "")
    assert mentioned(GROUP)
    (place / "python.zip").unlink()
    assert not mentioned(GROUP)

    class Finder:
        def find_distributions(self) -> None: ...

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert mentioned(GROUP)


def test_help_asks_for_no_metadata_where_no_command_is_added(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: asked.append(group) or ())
    write_distribution(place, "other", {"metalchat.engines": {"echo": "echo:make"}})
    assert points(()) == ()
    assert asked == []
    write_distribution(place, "commands", {GROUP: {"serve": "serve:app"}})
    points(())
    assert asked == [GROUP]
