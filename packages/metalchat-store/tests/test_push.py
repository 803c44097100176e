"""Pushing to a hub: what is sent, what is not, and what the repository has afterwards."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_store import (
    AccessDenied,
    InvalidPush,
    InvalidRepository,
    NetworkError,
    NotFound,
    PushConflict,
    Pushed,
    PushPlan,
    RepositoryNotFound,
    plan_push,
    push,
)
from metalchat_store.testing import FakeHub, MemoryRemote
from metalchat_store.testing.hub_wire import Recorded

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
WEIGHTS = bytes(range(256)) * 300
SMALL = {"config.json": b'{"model_type": "llama"}', "README.md": b"# m\n", "empty": b""}
FILES = SMALL | {"model.safetensors": WEIGHTS, "data/a/b.bin": b"\x00" * 5000}


class Listener:
    """Keeps what a push reports."""

    def __init__(self) -> None:
        self.plans: list[PushPlan] = []
        self.files: list[tuple[str, int, int | None]] = []
        self.messages: list[str] = []

    def plan(self, plan: PushPlan) -> None:
        self.plans.append(plan)

    def file(self, path: str, done: int, total: int | None) -> None:
        self.files.append((path, done, total))

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.add_token("hf_reads", user="alice", role="read")
        hub.add_repo("alice/m", files={".gitattributes": b"x"})
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "folder", FILES)


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def as_writer(_url: str) -> str:
    return f"Bearer {TOKEN}"


def send(hub: FakeHub, path: Path, name: str = "alice/m", **options: object) -> Pushed:
    options = {"authorize": as_writer, "environ": {}, "sleep": lambda _seconds: None} | options
    return push(path, f"{hub.url}/{name}", **options)  # type: ignore[arg-type]


def sent(hub: FakeHub) -> int:
    """Bytes of content that the storage got."""
    return sum(len(request.body) for request in hub.requests if request.method == "PUT")


def commits(hub: FakeHub) -> list[Recorded]:
    return [request for request in hub.requests if "/commit/" in request.path and request.method == "POST"]


def test_everything_in_the_folder_is_in_the_repository_afterwards(hub: FakeHub, folder: Path) -> None:
    listener = Listener()
    result = send(hub, folder, progress=listener)
    assert hub.contents("alice/m") == FILES | {".gitattributes": b"x"}
    assert result.commit == hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    assert result.url == f"{hub.url}/alice/m/commit/{result.commit}"
    assert result.sent_bytes == sum(map(len, FILES.values()))
    assert (result.already, result.created, result.skipped, result.pull_request) == (False, False, (), None)
    (plan,) = listener.plans
    assert {file.path: file.how for file in plan.files} == dict.fromkeys(SMALL, "regular") | {
        "model.safetensors": "large",
        "data/a/b.bin": "large",
    }
    assert (plan.send_bytes, plan.present_bytes) == (result.sent_bytes, 0)
    assert len(commits(hub)) == 1
    assert {path for path, done, total in listener.files if done == total} >= {"model.safetensors", "config.json"}


def test_a_second_push_sends_nothing_and_succeeds(hub: FakeHub, folder: Path) -> None:
    first = send(hub, folder)
    hub.requests.clear()
    again = send(hub, folder)
    assert (again.already, again.commit, again.sent_bytes) == (True, first.commit, 0)
    assert set(again.skipped) == set(FILES)
    assert sent(hub) == 0
    assert commits(hub) == []


def test_only_what_changed_is_sent(hub: FakeHub, folder: Path) -> None:
    send(hub, folder)
    (folder / "config.json").write_bytes(b"{}")
    hub.requests.clear()
    result = send(hub, folder, message="Smaller\n\nMuch smaller.")
    assert result.sent_bytes == 2
    lines = [json.loads(line) for line in commits(hub)[0].body.splitlines()]
    assert [line["key"] for line in lines] == ["header", "file"]
    assert lines[0]["value"]["summary"] == "Smaller"
    assert lines[0]["value"]["description"] == "Much smaller."
    assert hub.contents("alice/m")["config.json"] == b"{}"


def test_content_that_the_hub_has_under_another_name_is_not_sent(hub: FakeHub, folder: Path) -> None:
    send(hub, folder)
    hub.requests.clear()
    (folder / "model.safetensors").rename(folder / "moved.safetensors")
    result = send(hub, folder)
    assert (result.sent_bytes, sent(hub)) == (0, 0)
    assert result.plan.present_bytes >= len(WEIGHTS)
    assert hub.contents("alice/m")["moved.safetensors"] == WEIGHTS


def test_equal_files_are_sent_once(hub: FakeHub, tmp_path: Path) -> None:
    files = {"a.bin": WEIGHTS, "b/c.bin": WEIGHTS}
    result = send(hub, fill(tmp_path / "twice", files))
    assert sent(hub) == result.sent_bytes == result.plan.send_bytes == len(WEIGHTS)
    assert hub.contents("alice/m") == files | {".gitattributes": b"x"}


@pytest.mark.parametrize("size", [1, 30_000, 30_001, 60_000, 76_800])
def test_large_files_go_in_parts(hub: FakeHub, tmp_path: Path, size: int) -> None:
    hub.routes.chunk_size = 30_000
    content = os.urandom(size)
    send(hub, fill(tmp_path / "parts", {"model.safetensors": content}))
    puts = [len(request.body) for request in hub.requests if request.method == "PUT"]
    assert puts == ([30_000] * (size // 30_000) + [size % 30_000] * bool(size % 30_000) if size > 30_000 else [size])
    assert hub.contents("alice/m")["model.safetensors"] == content


def test_a_push_of_one_file_into_a_folder_of_the_repository(hub: FakeHub, folder: Path) -> None:
    send(hub, folder / "config.json", to="sub/folder/")
    assert hub.contents("alice/m").keys() == {".gitattributes", "sub/folder/config.json"}


def test_a_file_that_is_named_by_a_link_has_the_name_of_the_link(hub: FakeHub, folder: Path) -> None:
    (folder.parent / "given.json").symlink_to(folder / "config.json")
    send(hub, folder.parent / "given.json")
    assert hub.contents("alice/m")["given.json"] == SMALL["config.json"]


def test_patterns_choose_what_is_pushed(hub: FakeHub, folder: Path) -> None:
    send(hub, folder, include=["*.json", "data"], exclude=["*/b.bin"])
    assert hub.contents("alice/m").keys() == {".gitattributes", "config.json"}
    send(hub, folder, exclude=["data/", "*.safetensors"])
    assert hub.contents("alice/m").keys() == {".gitattributes", *SMALL}
    for options in ({"include": ["*.csv"]}, {"exclude": ["*.json"]}):
        with pytest.raises(NotFound, match="matches --include and --exclude"):
            send(hub, folder / "config.json", **options)


def test_a_plan_changes_nothing(hub: FakeHub, folder: Path) -> None:
    plan = plan_push(folder, f"{hub.url}/alice/m", authorize=as_writer, environ={})
    assert plan.send_bytes == sum(map(len, FILES.values()))
    assert not plan.creates
    assert hub.contents("alice/m").keys() == {".gitattributes"}
    assert (sent(hub), commits(hub)) == (0, [])


@pytest.mark.parametrize(
    ("kind", "page", "sdk"), [("model", "", None), ("dataset", "datasets/", None), ("space", "spaces/", "gradio")]
)
def test_a_repository_is_created_when_that_is_asked_for(
    hub: FakeHub, folder: Path, kind: str, page: str, sdk: str | None
) -> None:
    listener = Listener()
    address = f"{page}alice/new"
    with pytest.raises(RepositoryNotFound, match=f"there is no {kind} 'alice/new' at localhost.*use --create"):
        send(hub, folder, address, kind=kind)
    result = send(hub, folder, address, kind=kind, create=True, private=True, sdk=sdk, progress=listener)
    repo = hub.state.repos[f"{kind}s", "alice/new"]
    assert (repo.private, repo.sdk, result.created) == (True, sdk, True)
    assert listener.plans[0].creates
    assert hub.contents("alice/new", kind=f"{kind}s").items() >= FILES.items()
    assert result.url == f"{hub.url}/{page}alice/new/commit/{result.commit}"
    assert send(hub, folder, address, kind=kind, create=True, sdk=sdk).already


def test_a_plan_for_a_repository_that_is_not_there_says_so(hub: FakeHub, folder: Path) -> None:
    plan = plan_push(folder, f"{hub.url}/alice/new", authorize=as_writer, environ={}, create=True)
    assert (plan.creates, plan.commit) == (True, None)
    assert {file.how for file in plan.files} == {None}
    assert ("models", "alice/new") not in hub.state.repos


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"private": True}, "--create"),
        ({"sdk": "gradio"}, "--create"),
        ({"kind": "space", "create": True}, "--sdk with one of docker, gradio, static, streamlit"),
        ({"kind": "space", "create": True, "sdk": "php"}, "--sdk with one of"),
        ({"kind": "kernel"}, "no kind of repository"),
        ({"message": ""}, "--message"),
        ({"message": "x" * 501}, "--message"),
        ({"to": "../up"}, "--to a/b"),
        ({"to": "/abs"}, "--to a/b"),
        ({"to": ".git"}, "--to a/b"),
        ({"revision": "a" * 40}, "--revision names a commit"),
    ],
)
def test_a_push_that_cannot_be_is_refused_before_anything_is_sent(
    hub: FakeHub, folder: Path, options: dict[str, object], text: str
) -> None:
    with pytest.raises(InvalidPush, match=text) as caught:
        send(hub, folder, "spaces/alice/m" if options.get("kind") == "space" else "alice/m", **options)
    assert caught.value.exit_code == 2
    assert hub.requests == []


@pytest.mark.parametrize(
    ("kind", "address"),
    [("model", "datasets/alice/m"), ("dataset", "alice/m"), ("space", "datasets/alice/m"), ("dataset", "spaces/a/m")],
)
def test_the_kind_and_the_address_agree(hub: FakeHub, folder: Path, kind: str, address: str) -> None:
    with pytest.raises(InvalidRepository, match=f"expected the address of a {kind}"):
        send(hub, folder, address, kind=kind)
    assert hub.requests == []


def test_a_branch_is_pushed_to_and_has_to_be_there(hub: FakeHub, folder: Path) -> None:
    hub.set_ref("alice/m", "refs/heads/dev", hub.state.repos["models", "alice/m"].refs["refs/heads/main"])
    send(hub, folder, revision="dev")
    assert hub.contents("alice/m", ref="refs/heads/dev").keys() == {".gitattributes", *FILES}
    assert hub.contents("alice/m").keys() == {".gitattributes"}
    with pytest.raises(NotFound, match=r"no such branch: push without --revision\Z") as caught:
        send(hub, folder, revision="none")
    assert caught.value.exit_code == 4


def test_a_new_repository_has_no_other_branch(hub: FakeHub, folder: Path) -> None:
    for address, revision in (("alice/new", "dev"), ("alice/new@dev", None)):
        with pytest.raises(InvalidPush, match="default branch only"):
            send(hub, folder, address, create=True, revision=revision)
    assert ("models", "alice/new") not in hub.state.repos
    assert send(hub, folder, create=True, revision="main", name="alice/new").created


def test_a_disabled_repository_is_named_as_such(hub: FakeHub, folder: Path) -> None:
    hub.state.repos["models", "alice/m"].disabled = True
    with pytest.raises(AccessDenied, match="has disabled 'alice/m' for everybody"):
        send(hub, folder)


def test_a_pull_request_leaves_the_branch_as_it_is(hub: FakeHub, folder: Path) -> None:
    result = send(hub, folder, pull_request=True)
    assert result.pull_request == f"{hub.url}/alice/m/discussions/1"
    assert hub.contents("alice/m", ref="refs/pr/1").keys() == {".gitattributes", *FILES}
    assert hub.contents("alice/m").keys() == {".gitattributes"}
    batch = next(request for request in hub.requests if request.path.endswith("/batch"))
    assert "ref" not in json.loads(batch.body)


def test_the_page_of_a_pull_request_is_the_hubs_own(hub: FakeHub, folder: Path) -> None:
    answer = {"commitOid": "a" * 40, "pullRequestUrl": "https://evil.test/\x1b[2J"}
    hub.fault(role="hub", path="/commit/", body=json.dumps(answer).encode())
    assert send(hub, folder, pull_request=True).pull_request == f"{hub.url}/alice/m/discussions"


def test_what_the_hub_ignores_is_not_sent(hub: FakeHub, folder: Path) -> None:
    hub.state.ignored = {"model.safetensors"}
    result = send(hub, folder)
    assert "model.safetensors" not in hub.contents("alice/m")
    assert {file.path for file in result.plan.files if file.how == "ignored"} == {"model.safetensors"}
    assert sent(hub) == 5000


def test_more_files_than_one_request_may_name(hub: FakeHub, tmp_path: Path) -> None:
    files = {f"d{number % 7}/{number}.bin": b"%d" % number for number in range(300)}
    send(hub, fill(tmp_path / "many", files))
    assert hub.contents("alice/m").items() >= files.items()
    assert [path for path in map(route, hub.requests) if path in ("preupload", "batch")] == ["preupload"] * 2 + [
        "batch"
    ] * 2
    assert len(commits(hub)) == 1


def route(request: Recorded) -> str:
    return next((word for word in ("preupload", "batch", "commit") if f"/{word}" in request.path), request.path)


def test_nobody_pushes_without_a_credential(hub: FakeHub, folder: Path) -> None:
    with pytest.raises(AccessDenied, match=r"a push needs a credential .* --write --host http://localhost") as caught:
        send(hub, folder, authorize=lambda _url: None)
    assert caught.value.exit_code == 3
    assert hub.requests == []


def test_a_path_that_is_not_there_is_said_before_a_credential_is_asked_for(hub: FakeHub, folder: Path) -> None:
    def authorize(_url: str) -> str | None:
        raise AssertionError("no credential is needed to see that")

    for path in (folder / "none", folder / "config.json" / "none"):
        for ask in (push, plan_push):
            with pytest.raises(InvalidPush, match=r"none' does not exist$") as caught:
                ask(path, f"{hub.url}/alice/m", authorize=authorize, environ={})
            assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", ["preupload", "/commit/", "objects/batch", "objects/verify"])
@pytest.mark.parametrize(("status", "text"), [(401, "refused the credential"), (403, "may not write to 'alice/m'")])
def test_a_credential_that_may_not_write_is_named(
    hub: FakeHub, folder: Path, path: str, status: int, text: str
) -> None:
    hub.fault(role="hub", path=path, status=status, times=-1)
    with pytest.raises(AccessDenied, match=text):
        send(hub, folder)


def test_a_token_that_only_reads_may_not_push(hub: FakeHub, folder: Path) -> None:
    with pytest.raises(AccessDenied, match="it needs the role 'write'"):
        send(hub, folder, authorize=lambda _url: "Bearer hf_reads")
    with pytest.raises(AccessDenied, match="it needs the role 'write'"):
        send(hub, folder, "bob/m2", authorize=lambda _url: f"Bearer {TOKEN}", create=True)
    assert hub.contents("alice/m").keys() == {".gitattributes"}


def test_a_commit_in_between_is_built_upon(hub: FakeHub, folder: Path) -> None:
    hub.fault(role="hub", path="/commit/", commit=("alice/m", {"other.txt": b"1"}))
    send(hub, folder)
    assert hub.contents("alice/m") == FILES | {"other.txt": b"1"}
    assert [request.status for request in commits(hub)] == [412, 200]


def test_a_commit_in_between_that_changes_the_same_file_is_not_overwritten(hub: FakeHub, folder: Path) -> None:
    hub.fault(role="hub", path="/commit/", commit=("alice/m", {"config.json": b"theirs"}))
    with pytest.raises(PushConflict, match=r"'alice/m' at localhost.* changed during the push: push again") as caught:
        send(hub, folder)
    assert caught.value.exit_code == 8
    assert hub.contents("alice/m") == {"config.json": b"theirs"}


def test_a_repository_that_never_rests_is_an_error(hub: FakeHub, folder: Path) -> None:
    hub.fault(role="hub", path="/commit/", commit=("alice/m", {"other.txt": b"1"}), times=-1)
    with pytest.raises(PushConflict):
        send(hub, folder)
    assert [request.status for request in commits(hub)] == [412, 412]


def lose_the_answer(hub: FakeHub) -> None:
    """The commit is made, and its answer does not arrive."""
    hub.fault(role="hub", path="/commit/", cut=10)


def test_a_lost_answer_to_the_commit_makes_no_second_commit(hub: FakeHub, folder: Path) -> None:
    lose_the_answer(hub)
    result = send(hub, folder)
    repo = hub.state.repos["models", "alice/m"]
    assert len(repo.history) == 2
    assert result.commit == repo.refs["refs/heads/main"]
    assert result.sent_bytes == sum(map(len, FILES.values()))
    assert len(commits(hub)) == 1


def test_a_lost_answer_to_a_pull_request_opens_no_second_one(hub: FakeHub, folder: Path) -> None:
    lose_the_answer(hub)
    with pytest.raises(NetworkError, match="Whether the pull request was opened is not known"):
        send(hub, folder, pull_request=True)
    assert len(commits(hub)) == 1


def test_a_hub_that_is_busy_with_the_same_name_is_asked_six_times(hub: FakeHub, folder: Path) -> None:
    text = b'{"error": "Cannot create repo: another conflicting operation is in progress"}'
    hub.fault(role="hub", path="repos/create", status=409, body=text, times=-1)
    pauses: list[float] = []
    with pytest.raises(NetworkError, match="tried 6 times"):
        send(hub, folder, "alice/new", create=True, sleep=pauses.append)
    assert len(pauses) == 5
    assert sum(pauses) > 15


def test_a_remote_that_only_reads_cannot_be_pushed_to(folder: Path) -> None:
    remotes = {"memory": lambda: MemoryRemote(files={})}
    with pytest.raises(InvalidRepository, match="nothing can be pushed to 'memory:' addresses"):
        push(folder, "memory://host/m", authorize=as_writer, environ={}, remotes=remotes)
