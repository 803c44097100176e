"""A hub that lies, in each answer (threats N-3, N-4, N-10, S-1, S-2, S-4, S-10, S-11)."""

import json
from collections.abc import Iterator

import pytest
from metalchat_store.errors import AccessDenied, IntegrityError, NetworkError, StoreError
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_state import git_sha1, sha256

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
WEIGHTS = bytes(range(256)) * 20
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
GIT, SHA = git_sha1(b"{}"), sha256(WEIGHTS)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo("alice/m", files=FILES)
        yield hub


def pulled(hub: FakeHub) -> dict[str, bytes]:
    remote, context = HuggingFaceRemote(), RemoteContext(authorize=lambda _: f"Bearer {TOKEN}")
    try:
        listing = remote.list(f"{hub.url}/alice/m", revision=None, context=context)
        contents = {}
        for file in listing.files:
            with remote.read(listing, file, offset=0, context=context) as body:
                contents[file.path] = b"".join(body)
        return contents
    finally:
        remote.close()


def entry(path: str = "config.json", **changes: object) -> dict[str, object]:
    return {"type": "file", "oid": GIT, "size": 2, "path": path} | changes


def tree(hub: FakeHub, *entries: object) -> None:
    hub.faults.clear()
    hub.fault(path="/tree/", body=json.dumps(entries).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "target",
    [
        "{evil}/page2",
        "//{evil_host}/page2",
        "http://x:y@{evil_host}/p",
        "https://localhost:1/p",
        "file:///etc/passwd",
        "http://192.0.2.1/p",
    ],
)
def test_n3_a_page_link_to_another_server_is_not_followed(hub: FakeHub, target: str) -> None:
    evil = hub.evil_url.removeprefix("http://")
    link = target.format(evil=hub.evil_url, evil_host=evil)
    hub.fault(path="/tree/", set={"Link": f'<{link}>; rel="next"'})
    with pytest.raises(NetworkError, match="page link"):
        pulled(hub)
    assert hub.of("evil") == []


def test_n3_the_error_names_the_other_server(hub: FakeHub) -> None:
    evil = hub.evil_url.removeprefix("http://")
    hub.fault(path="/tree/", set={"Link": f'<{hub.evil_url}/p>; rel="next"'})
    with pytest.raises(NetworkError, match=rf"the hub sent a page link to another server \({evil}\), which is not"):
        pulled(hub)


def test_n3_links_of_other_kinds_are_left_alone(hub: FakeHub) -> None:
    link = f'<{hub.evil_url}/token>; rel="xet-auth", <{hub.evil_url}/r>; rel="xet-reconstruction-info"'
    hub.fault(path="/(tree|resolve)/", set={"Link": link, "X-Xet-Hash": "0" * 64}, times=-1)
    assert pulled(hub) == FILES
    assert hub.of("evil") == []


@pytest.mark.parametrize("path", ["/revision/", "/tree/", "/resolve/", "/resolve-cache/", "/blob/"])
def test_n4_the_server_does_not_choose_where_a_credential_goes(hub: FakeHub, path: str) -> None:
    challenge = f'Bearer realm="{hub.evil_url}/token",service="x"'
    hub.fault(path=path, status=401, set={"WWW-Authenticate": challenge}, times=-1)
    with pytest.raises((AccessDenied, NetworkError)):
        pulled(hub)
    assert hub.of("evil") == []
    assert hub.seen(TOKEN) == []


HTML = b"<!DOCTYPE html><title>Log in</title>"
NESTED = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("path", ["/revision/", "/tree/"])
@pytest.mark.parametrize(
    "body",
    [
        HTML, b"", b"{", b"null", b"1", b'"x"', b"true", b'{"sha":5}', b'{"sha":null}', b'{"siblings":{}}', b"[null]",
        b"[1]", b"[[]]", b'[{"type":"file"}]', b'[{"type":"file","path":5,"size":1,"oid":""}]', NESTED,
        b'{"a":1,"a":2}',
        b'{"sha":NaN}', b"[Infinity]", b"[" + b"1" * 5000 + b"]", b'["\\ud800"]', b'{"sha":"\\udfff"}', b"\xff\xfe[]",
        b'\xef\xbb\xbf[{"x":1}]', b'[{"type":"symlink","path":"a","size":1,"oid":"0"}]',
        b'[{"type":"file","path":"a","size":true,"oid":"0000000000000000000000000000000000000000"}]',
        b'[{"type":"file","path":"a","size":1.0,"oid":"0000000000000000000000000000000000000000"}]',
        b'[{"type":"file","path":"a","size":1,"oid":"0000000000000000000000000000000000000000","lfs":[]}]',
    ],
)  # fmt: skip
def test_n10_an_answer_of_another_shape_is_no_hub(hub: FakeHub, path: str, body: bytes) -> None:
    hub.fault(path=path, body=body, set={"Content-Type": "text/html"})
    with pytest.raises(NetworkError, match="did not answer like a Hugging Face hub") as caught:
        pulled(hub)
    text = str(caught.value)
    assert "check the network or the address of the model" in text
    assert "\n" not in text
    assert text.isascii()
    assert len(text) < 250
    assert not caught.value.transient


def test_n10_a_page_of_a_captive_portal_is_called_so(hub: FakeHub) -> None:
    hub.fault(path="/revision/", body=HTML)
    with pytest.raises(NetworkError, match=r"\(HTML page at /api/models/alice/m/revision/main\)"):
        pulled(hub)


IDENTITIES = [
    "",
    "0",
    "a" * 63,
    "a" * 65,
    "a" * 39,
    "a" * 41,
    SHA.upper(),
    GIT.upper(),
    SHA + "\n",
    GIT + "\n",
    f"sha256:{SHA}",
    f"sha256-{SHA}",
    f"../sha256-{SHA}",
    "../../../../tmp/x",
    "０" * 64,
    "." * 64,
    "a" * 63 + "/",
    "a" * 39 + "/",
    "g" * 64,
]
HEADER_IDENTITIES = [value for value in IDENTITIES if value.isascii() and "\n" not in value]


@pytest.mark.parametrize("value", IDENTITIES)
def test_s1_an_identity_in_a_list_is_hexadecimal_or_refused(hub: FakeHub, value: str) -> None:
    lists = [
        entry(oid=value),
        entry(oid=value, lfs={"oid": SHA, "size": 2, "pointerSize": 1}),
        entry(lfs={"oid": value, "size": 2, "pointerSize": 1}),
    ]
    for item in lists:
        tree(hub, item)
        with pytest.raises(IntegrityError, match="the server sent a file identity that is not valid"):
            pulled(hub)


@pytest.mark.parametrize("value", IDENTITIES)
def test_s1_a_commit_is_hexadecimal_or_refused(hub: FakeHub, value: str) -> None:
    hub.fault(path="/revision/", body=json.dumps({"sha": value}).encode())
    with pytest.raises(IntegrityError, match="the server sent a file identity that is not valid"):
        pulled(hub)


@pytest.mark.parametrize("path", [r"/resolve/.*config", "/resolve-cache/", r"/resolve/.*safetensors"])
@pytest.mark.parametrize("header", ["X-Linked-Etag", "ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("value", [*HEADER_IDENTITIES, "f" * 40, "f" * 64])
def test_s1_an_identity_in_a_header_is_the_listed_one_or_refused(
    hub: FakeHub, path: str, header: str, value: str
) -> None:
    quoted = value if header == "X-Repo-Commit" else f'"{value}"'
    drop = ("X-Linked-Etag",) if header == "ETag" else ()
    hub.fault(role="hub", path=path, set={header: quoted}, drop=drop)
    with pytest.raises(IntegrityError):
        pulled(hub)


@pytest.mark.parametrize("path", ["/resolve-cache/", r"/resolve/.*safetensors"])
@pytest.mark.parametrize("drop", [("X-Repo-Commit",), ("ETag", "X-Linked-Etag")])
def test_a_hub_that_does_not_say_what_it_sends_is_refused(hub: FakeHub, path: str, drop: tuple[str, ...]) -> None:
    hub.fault(role="hub", path=path, drop=drop)
    with pytest.raises(IntegrityError, match="identity that is not valid"):
        pulled(hub)


def test_a_redirect_to_the_hubs_own_cache_need_not_say_it_already(hub: FakeHub) -> None:
    hub.fault(path=r"/resolve/.*config", drop=("X-Repo-Commit", "ETag", "X-Linked-Size"))
    assert pulled(hub) == FILES


def test_a_weak_identity_is_compared_without_its_mark(hub: FakeHub) -> None:
    hub.fault(path=r"/resolve/.*safetensors", set={"X-Linked-Etag": f'W/"{SHA}"'})
    hub.fault(path=r"/resolve/.*config", set={"ETag": f'W/"{GIT}"'})
    assert pulled(hub) == FILES


@pytest.mark.parametrize("size", ["-5", "5119", "100000000000000000000", "1e3", "", "x"])
def test_another_size_than_listed_is_refused(hub: FakeHub, size: str) -> None:
    hub.fault(path=r"/resolve/.*safetensors", set={"X-Linked-Size": size})
    with pytest.raises(IntegrityError, match=r"another size for 'model\.safetensors'"):
        pulled(hub)


def test_a_missing_size_header_is_no_harm(hub: FakeHub) -> None:
    hub.fault(path="/resolve/", drop=("X-Linked-Size",), times=-1)
    assert pulled(hub) == FILES


@pytest.mark.parametrize(
    "fault", [{"extra": b"x" * 10}, {"body": WEIGHTS[:-10]}, {"extra": b"x", "drop": ("Content-Length",)}]
)
def test_more_or_fewer_bytes_than_listed_are_refused(hub: FakeHub, fault: dict[str, object]) -> None:
    hub.fault(role="cdn", **fault)
    with pytest.raises(IntegrityError):
        pulled(hub)


def test_a_part_that_was_not_asked_for_is_refused(hub: FakeHub) -> None:
    hub.fault(role="cdn", only_status=206)
    with pytest.raises(IntegrityError, match=r"a part of 'model\.safetensors' that was not asked for"):
        pulled(hub)


NAMES = [
    "../x", "a/../../x", "a/../x", "/etc/x", "C:\\x", "C:/x", "..\\x", "a\\..\\b", "a\x00b", "a\rb", "a\nb",
    "a\x1b[2Jb",
    "con", "CON.txt", "aux/x", "a.", "a ", " a", "a//b", "a/", "", ".", "..", "a" * 300, "/".join("a" * 100),
    ".git/config", ".GIT/hooks/x", "metalchat.toml", ".metalchat/x", "a\u202eb", "a\u200bb", "a\u2028b",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_s2_a_name_that_is_not_allowed_is_refused_before_any_file_is_asked_for(hub: FakeHub, name: str) -> None:
    tree(hub, entry(), entry(name))
    with pytest.raises(IntegrityError, match="the model contains a file name that is not allowed") as caught:
        pulled(hub)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert not any("/resolve/" in request.target for request in hub.requests)


@pytest.mark.parametrize("pair", [("A", "a"), ("\u00e9", "e\u0301"), ("a", "a/b"), ("D/x", "d/y"), ("a", "a")])
def test_s2_two_names_that_fall_together_are_refused(hub: FakeHub, pair: tuple[str, str]) -> None:
    tree(hub, entry(pair[0]), entry(pair[1], oid="f" * 40))
    with pytest.raises(IntegrityError, match="the model contains a file name that is not allowed"):
        pulled(hub)


@pytest.mark.parametrize("size", [-1, 1 << 63, 10**30])
def test_a_size_out_of_range_is_refused(hub: FakeHub, size: int) -> None:
    tree(hub, entry(size=size))
    with pytest.raises(IntegrityError, match="file size that is not valid"):
        pulled(hub)


def test_two_sizes_for_one_file_are_refused(hub: FakeHub) -> None:
    tree(hub, entry(lfs={"oid": SHA, "size": 3, "pointerSize": 1}))
    with pytest.raises(IntegrityError, match="two sizes"):
        pulled(hub)


def test_s10_the_commit_is_resolved_once_so_a_moving_branch_changes_nothing(hub: FakeHub) -> None:
    other = {"config.json": b'{"moved": true}', "model.safetensors": WEIGHTS[::-1]}
    hub.fault(path="/tree/", commit=("alice/m", other))
    assert pulled(hub) == FILES


@pytest.mark.parametrize("path", ["/tree/", r"/resolve/.*config", "/resolve-cache/", r"/resolve/.*safetensors"])
def test_s10_an_answer_for_another_commit_is_refused(hub: FakeHub, path: str) -> None:
    commit = hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    hub.fault(role="hub", path=path, set={"X-Repo-Commit": "2" * 40})
    with pytest.raises(IntegrityError, match=f"^the hub answered for commit 222222222222, asked for {commit[:12]}$"):
        pulled(hub)


def test_s10_a_commit_that_is_asked_for_is_the_one_that_answers(hub: FakeHub) -> None:
    remote = HuggingFaceRemote()
    hub.fault(path="/revision/", only_status=200, body=json.dumps({"sha": "2" * 40}).encode())
    try:
        with pytest.raises(IntegrityError, match="asked for 111111111111"):
            remote.list(f"{hub.url}/alice/m", revision="1" * 40, context=RemoteContext())
    finally:
        remote.close()


def test_s11_a_list_without_end_is_given_up(hub: FakeHub) -> None:
    commit = hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    again = f'<{hub.url}/api/models/alice/m/tree/{commit}?recursive=true&expand=false>; rel="next"'
    hub.fault(path="/tree/", body=b"[]", set={"Link": again}, times=-1)
    with pytest.raises(NetworkError, match=r"the hub's file list does not end \(more than 100 pages\)"):
        pulled(hub)
    assert sum("/tree/" in request.target for request in hub.requests) == 100


def test_s11_ten_thousand_files_are_the_limit(hub: FakeHub) -> None:
    tree(hub, *(entry(f"{number}.txt") for number in range(10_001)))
    with pytest.raises(IntegrityError, match="more than 10,000 files"):
        pulled(hub)


@pytest.mark.parametrize("path", ["/revision/", "/tree/", "/resolve/", "/resolve-cache/", "/blob/"])
@pytest.mark.parametrize("status", [200, 201, 204, 206, 300, 304, *range(400, 419), 421, 425, 451, 500, 501, 503, 511])
def test_every_status_ends_in_success_or_one_line(hub: FakeHub, path: str, status: int) -> None:
    hub.fault(path=path, status=status, times=-1)
    with pytest.raises(StoreError) as caught:
        pulled(hub)
    assert caught.value.exit_code in (3, 4, 5, 6)
    assert str(caught.value).isprintable()
    assert TOKEN not in str(caught.value)
    assert hub.seen(TOKEN) == []
