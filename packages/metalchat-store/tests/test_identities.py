"""A digest is 64 lowercase hexadecimal digits, or nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import Digest, IntegrityError, Listing, RemoteFile

GOOD = "a" * 64
BAD = [
    "a" * 63,
    "a" * 65,
    "sha256-" + GOOD,
    "sha256:" + GOOD,
    "../sha256-" + GOOD,
    "sha256:../../" + GOOD,
    GOOD.upper(),
    GOOD + "\n",
    "０" * 64,
    "",
    "." * 64,
    "a" * 63 + "/",
    "g" * 64,
    " " + GOOD,
]
MAKERS: dict[str, Callable[[str], object]] = {
    "digest": Digest,
    "sha256 of a file": lambda text: RemoteFile(path="a", sha256=text),
    "git id of a file": lambda text: RemoteFile(path="a", size=1, git_sha1=text),
}


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("maker", MAKERS)
def test_S_1_an_identity_that_is_not_exactly_one_is_refused(maker: str, text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        MAKERS[maker](text)
    assert str(caught.value) == "the server sent a file identity that is not valid"
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("commit", ["", "../x", "a/b", "a" * 129, "a\n", ".hidden", "a b", "ü"])
def test_S_1_a_commit_that_is_not_a_plain_word_is_refused(commit: str) -> None:
    with pytest.raises(IntegrityError, match="commit that is not valid"):
        Listing(repository="r", commit=commit, files=())


@pytest.mark.parametrize("size", [-1, 1 << 63, 1.5, True, "7"])
def test_a_size_that_is_not_one_is_refused(size: int) -> None:
    with pytest.raises(IntegrityError, match="size that is not valid"):
        RemoteFile(path="a", size=size)


def test_S_11_a_repository_has_at_most_ten_thousand_files() -> None:
    with pytest.raises(IntegrityError, match="more than 10,000 files"):
        Listing(repository="r", commit="1", files=tuple(RemoteFile(path=f"f{number}") for number in range(10_001)))


def test_a_digest_says_where_its_content_lies() -> None:
    assert Digest("ab" + "c" * 62).below(Path("/blobs")) == Path("/blobs/ab") / ("c" * 62)
