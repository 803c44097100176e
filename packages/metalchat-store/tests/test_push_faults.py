"""Pushing through a network and to a hub that fail: every request of a push fails in every way once."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_store import IntegrityError, NetworkError, Pushed, Refused, StoreError, push
from metalchat_store._http import Http, Limits
from metalchat_store.testing import FakeHub

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 300,
    "small.bin": b"\x00" * 5000,
}
MATCH = {
    "preupload": ("hub", "/preupload/"),
    "batch": ("hub", "objects/batch"),
    "put": ("cdn", "/upload/"),
    "part 1": ("cdn", "/part/s0/1"),
    "part 2": ("cdn", "/part/s0/2"),
    "part 3": ("cdn", "/part/s0/3"),
    "complete": ("hub", "complete_multipart"),
    "verify": ("hub", "objects/verify"),
    "commit": ("hub", "/commit/"),
}
FAULTS: dict[str, dict[str, object]] = {
    "429": {"status": 429, "set": {"Retry-After": "1"}},
    "500": {"status": 500},
    "503": {"status": 503, "body": b"<html>busy</html>"},
    "reset": {"close": True},
    "cut": {"cut": 3},
    "rst": {"cut": 3, "rst": True},
    "403 expired": {"expire": True},
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.add_repo("alice/m", files={})
        hub.routes.chunk_size = 30_000
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    root.mkdir()
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    return root


def send(hub: FakeHub, folder: Path, **options: object) -> Pushed:
    options = {"environ": {}, "sleep": lambda _seconds: None} | options
    return push(folder, f"{hub.url}/alice/m", authorize=lambda _url: f"Bearer {TOKEN}", **options)  # type: ignore[arg-type]


def put(hub: FakeHub) -> list[int]:
    return [len(request.body) for request in hub.requests if request.method == "PUT"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("position", MATCH)
def test_any_request_may_fail_once(hub: FakeHub, folder: Path, position: str, fault: str) -> None:
    role, path = MATCH[position]
    hub.fault(role=role, path=path, **FAULTS[fault])
    pauses: list[float] = []
    result = send(hub, folder, sleep=pauses.append)
    assert hub.contents("alice/m") == FILES
    assert len(hub.state.repos["models", "alice/m"].history) == 2
    assert result.commit == hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    assert hub.seen(TOKEN) == []
    if position.startswith("part") and fault != "403 expired":
        assert sum(put(hub)) <= sum(map(len, FILES.values())) + 30_000
    if fault in ("429", "500", "503", "reset"):
        assert len(pauses) == 1


@pytest.mark.parametrize("fault", ["503", "reset", "rst"])
@pytest.mark.parametrize("position", MATCH)
def test_a_request_that_never_succeeds_ends_in_one_line(hub: FakeHub, folder: Path, position: str, fault: str) -> None:
    role, path = MATCH[position]
    hub.fault(role=role, path=path, times=-1, **FAULTS[fault])
    said = "the hub did what it was asked, and its answers were lost (tried 6 times)"
    try:
        send(hub, folder)
    except NetworkError as error:
        said = str(error)
    else:
        assert hub.contents("alice/m") == FILES
    assert re.fullmatch(r"[^\n\x00-\x1f]+ \(tried 6 times\)", said)
    assert TOKEN not in said
    assert len(hub.state.repos["models", "alice/m"].history) <= 2


@pytest.mark.parametrize("position", MATCH)
def test_a_hub_that_asks_to_wait_for_a_day_is_not_waited_for(hub: FakeHub, folder: Path, position: str) -> None:
    role, path = MATCH[position]
    hub.fault(role=role, path=path, times=-1, status=429, set={"Retry-After": "86400"})
    pauses: list[float] = []
    with pytest.raises(NetworkError, match="asks to wait 24 h"):
        send(hub, folder, sleep=pauses.append)
    assert pauses == []


@pytest.mark.parametrize("position", ["preupload", "batch", "commit"])
@pytest.mark.parametrize("body", [b"<html>login</html>", b"[]", b"null", b"{}", b'{"files": 1}', b"[" * 100_000])
def test_an_answer_that_no_hub_gives_is_named(hub: FakeHub, folder: Path, position: str, body: bytes) -> None:
    role, path = MATCH[position]
    hub.fault(role=role, path=path, body=body)
    with pytest.raises(NetworkError, match="did not answer like a Hugging Face hub"):
        send(hub, folder)


@pytest.mark.parametrize("status", [302, 307, 308])
@pytest.mark.parametrize("position", MATCH)
def test_N_1_nothing_is_sent_to_where_a_redirect_leads(hub: FakeHub, folder: Path, position: str, status: int) -> None:
    role, path = MATCH[position]
    hub.fault(role=role, path=path, redirect=f"{hub.evil_url}/steal", status=status, times=-1)
    with pytest.raises(NetworkError, match=r"redirects .*, which is not followed"):
        send(hub, folder)
    assert hub.of("evil") == []


def batch(hub: FakeHub, **upload: object) -> None:
    """Let the hub answer the LFS batch for the small file with that upload action, and nothing else."""
    import hashlib

    digest = hashlib.sha256(FILES["small.bin"]).hexdigest()
    item = {"oid": digest, "size": 5000, "actions": {"upload": {"href": f"{hub.cdn_url}/x", "header": {}}} | upload}
    body = json.dumps({"objects": [item]}).encode()
    hub.fault(role="hub", path="objects/batch", body=body, times=-1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.bin").write_bytes(FILES["small.bin"])
    return tmp_path / "small.bin"


def test_N_3_a_confirm_address_elsewhere_gets_no_credential(hub: FakeHub, small: Path) -> None:
    batch(hub, verify={"href": f"{hub.evil_url}/verify"})
    with pytest.raises(NetworkError, match="sent a confirm address on another server"):
        send(hub, small)
    assert hub.of("evil") == []


def test_N_3_an_upload_address_elsewhere_gets_the_bytes_and_no_credential(hub: FakeHub, small: Path) -> None:
    batch(hub, upload={"href": f"{hub.evil_url}/take", "header": {"Authorization": "x", "X-Secret": "y"}})
    with pytest.raises(NetworkError, match="LFS pointer"):
        send(hub, small)
    (request,) = hub.of("evil")
    assert request.body == FILES["small.bin"]
    assert {name.lower() for name, _ in request.headers} <= {
        "host", "user-agent", "accept", "accept-encoding", "content-length", "content-type", "connection",
    }  # fmt: skip
    assert hub.seen(TOKEN) == []


def test_an_upload_address_at_the_hub_itself_gets_no_credential(hub: FakeHub, small: Path) -> None:
    batch(hub, upload={"href": f"{hub.url}/take"})
    with pytest.raises(StoreError):
        send(hub, small)
    requests = [request for request in hub.requests if request.path == "/take"]
    assert requests
    assert all(request.header("Authorization") is None for request in requests)


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd", "ftp://x/y", "javascript:1", "", "/relative", "http://example.test/x", "//evil/x",
        "https://u:p@evil/x", "https://a b/", "https://evil\r\nX: y/", "https://" + "a" * 9000, "http://127.0.0.1\\@e/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["upload", "verify", "part"])
def test_N_3_addresses_that_are_none_are_not_used(hub: FakeHub, small: Path, href: str, place: str) -> None:
    if place == "part":
        batch(hub, upload={"href": f"{hub.url}/c", "header": {"chunk_size": "5000", "1": href}})
    else:
        batch(hub, **{place: {"href": href}})
    with pytest.raises(NetworkError, match="address that is not used"):
        send(hub, small)
    assert put(hub) == []


def test_N_1_an_upload_never_leads_from_https_to_http() -> None:
    from metalchat_store.remotes._hub_address import parse_repository
    from metalchat_store.remotes._hub_upload import _outside

    repository = parse_repository("https://huggingface.co/alice/m", "model")
    assert _outside("https://storage.test/x", repository) == "https://storage.test/x"
    with pytest.raises(NetworkError, match="from https to http"):
        _outside("http://127.0.0.1:1/x", repository)


@pytest.mark.parametrize(
    "header",
    [
        {"chunk_size": "0", "1": "u"}, {"chunk_size": "-1", "1": "u"}, {"chunk_size": True, "1": "u"},
        {"chunk_size": "x", "1": "u"}, {"chunk_size": "5000"}, {"chunk_size": "2500", "1": "u"},
        {"chunk_size": "5000", "2": "u"}, {"chunk_size": "5000", "1": "u", "2": "u"}, {"chunk_size": "5000", "1": 1},
        {"chunk_size": "1" * 30, "1": "u"}, [], "x",
    ],
)  # fmt: skip
def test_parts_that_do_not_make_up_the_file_are_refused(hub: FakeHub, small: Path, header: object) -> None:
    if isinstance(header, dict):
        header = {key: f"{hub.cdn_url}/p" if value == "u" else value for key, value in header.items()}
    batch(hub, upload={"href": f"{hub.url}/c", "header": header})
    with pytest.raises(NetworkError, match="did not answer like a Hugging Face hub"):
        send(hub, small)
    assert put(hub) == []


@pytest.mark.parametrize("digest", ["0" * 63, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n", ""])
def test_S_1_a_digest_that_is_none_is_refused(hub: FakeHub, small: Path, digest: str) -> None:
    hub.fault(role="hub", path="batch", body=json.dumps({"objects": [{"oid": digest, "size": 5000}]}).encode())
    with pytest.raises(IntegrityError, match="file identity that is not valid"):
        send(hub, small)


@pytest.mark.parametrize(
    "change", [{"oid": "0" * 64}, {"size": 4}, {"actions": []}, {"actions": {"upload": 5}}, {"error": "x"}]
)
def test_a_batch_about_something_else_is_refused(hub: FakeHub, small: Path, change: dict[str, object]) -> None:
    import hashlib

    item = {"oid": hashlib.sha256(FILES["small.bin"]).hexdigest(), "size": 5000} | change
    hub.fault(role="hub", path="batch", body=json.dumps({"objects": [item]}).encode())
    with pytest.raises(NetworkError, match="did not answer like"):
        send(hub, small)


def test_X_26_what_the_hub_says_about_a_file_is_quoted_without_control_characters(hub: FakeHub, small: Path) -> None:
    import hashlib

    error = {"code": 422, "message": "too \x1b[2Jbig\r\n" + "x" * 900}
    item = {"oid": hashlib.sha256(FILES["small.bin"]).hexdigest(), "size": 5000, "error": error}
    hub.fault(role="hub", path="batch", body=json.dumps({"objects": [item]}).encode())
    with pytest.raises(NetworkError, match=r"does not take 'small.bin': it says \"too \[2Jbig x+\"") as caught:
        send(hub, small)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_X_26_a_part_that_is_not_confirmed_and_an_object_that_is_not_there(hub: FakeHub, folder: Path) -> None:
    hub.fault(role="cdn", path="/part/", drop=("ETag",))
    with pytest.raises(NetworkError, match=r"did not confirm a part of 'model\.safetensors'"):
        send(hub, folder)
    hub.faults.clear()
    hub.fault(role="hub", path="verify", status=404)
    with pytest.raises(NetworkError, match=r"did not get all of .*: push again"):
        send(hub, folder)


def test_what_is_refused_for_its_content_says_why(hub: FakeHub, folder: Path) -> None:
    hub.routes.regular_limit = 5
    with pytest.raises(NetworkError, match="does not accept the commit: it is too large"):
        send(hub, folder)
    hub.fault(role="hub", path="/commit/", status=400, body=b'{"error": "Invalid metadata in README.md"}')
    with pytest.raises(NetworkError, match=r'refused the commit \(400\): it says "Invalid metadata in README\.md"'):
        send(hub, folder)


def test_S_9_a_renamed_repository_is_not_pushed_to_by_its_old_name(hub: FakeHub, folder: Path) -> None:
    hub.rename("alice/m", "mallory/m")
    with pytest.raises(Refused, match=f"'alice/m' is now 'mallory/m': .* use {hub.url}/mallory/m instead"):
        send(hub, folder)


def test_N_8_a_server_that_takes_nothing_is_given_up(hub: FakeHub, folder: Path) -> None:
    hub.fault(role="cdn", sleep=30.0, times=-1)
    http = Http(limits=Limits(deadline=0.2, silence=0.2, window=0.2))
    from metalchat_store.remotes import _hub_upload

    patience = _hub_upload.PATIENCE
    _hub_upload.PATIENCE = 0.2
    try:
        with pytest.raises(NetworkError, match=r"(did not answer within|sent nothing for) 0 s \(tried 6 times\)"):
            send(hub, folder, client=http)
    finally:
        _hub_upload.PATIENCE = patience
        http.close()


PROGRAM = """
import sys
from pathlib import Path
from metalchat_store import push
push(Path(sys.argv[2]), sys.argv[1], authorize=lambda url: "Bearer " + sys.argv[3], environ={})
"""


def test_S_6_a_push_after_a_killed_one_sends_only_what_is_missing(hub: FakeHub, tmp_path: Path) -> None:
    hub.routes.chunk_size = 1 << 24
    contents = {f"{number}.safetensors": os.urandom(40_000) for number in range(12)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    enough = threading.Event()
    real = hub.routes.store

    def store(request: object) -> object:
        if len(hub.routes.received) + len(hub.state.blobs) >= 5:
            enough.set()
            hub._hub.closing.wait(0.5)
        return real(request)  # type: ignore[arg-type]

    hub.routes.store = store  # type: ignore[method-assign]
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, f"{hub.url}/alice/m", tmp_path, TOKEN])
    assert enough.wait(30)
    child.kill()
    child.wait()
    hub.routes.store = real  # type: ignore[method-assign]
    there = dict(hub.state.blobs)
    assert 0 < len(there) < len(contents)
    assert hub.contents("alice/m") == {}
    hub.requests.clear()
    result = send(hub, tmp_path)
    missing = sum(len(content) for content in contents.values()) - sum(map(len, there.values()))
    assert result.sent_bytes == missing == sum(put(hub))
    assert hub.contents("alice/m") == contents
