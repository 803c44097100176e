"""Which manifest is the local one."""

from pathlib import Path

import pytest
from metalchat_manifest import find_local


@pytest.fixture
def user(tmp_path):
    return tmp_path / "user"


@pytest.fixture
def project(user):
    folder = user / "work" / "project"
    folder.mkdir(parents=True)
    return folder


def test_the_local_manifest_is_the_nearest_one(user, project):
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    assert find_local(deep, home=user) is None
    far = user / "metalchat.toml"
    far.touch()
    assert find_local(deep, home=user) == far
    near = project / "metalchat.toml"
    near.touch()
    assert find_local(deep, home=user) == near
    assert find_local(project, home=user) == near


def test_a_folder_of_that_name_is_no_manifest(user, project):
    project.joinpath("metalchat.toml").mkdir()
    assert find_local(project, home=user) is None


def test_the_search_ends_with_the_home_directory(user, project, tmp_path):
    (tmp_path / "metalchat.toml").touch()
    assert find_local(project, home=user) is None
    assert find_local(user, home=user) is None
    (tmp_path / "alias").symlink_to(user)
    assert find_local(tmp_path / "alias" / "work", home=user) is None


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_search_ends_with_a_repository(user, project, kind):
    user.joinpath("metalchat.toml").touch()
    git = project.parent / ".git"
    git.mkdir() if kind == "folder" else git.touch()
    assert find_local(project, home=user) is None
    there = project.parent / "metalchat.toml"
    there.touch()
    assert find_local(project, home=user) == there


def test_a_parent_folders_manifest_of_another_user_is_passed_over(user, project, monkeypatch):
    path = project.parent / "metalchat.toml"
    path.touch()
    assert find_local(project, home=user) == path
    monkeypatch.setattr("os.getuid", lambda: path.stat().st_uid + 1)
    real = Path.stat

    def owned(self, **others):
        state = real(self, **others)
        return type(state)((*state[:4], 4242, *state[5:])) if self.name == "metalchat.toml" else state

    monkeypatch.setattr(Path, "stat", owned)
    assert find_local(project, home=user) is None
    assert find_local(project.parent, home=user) == path
