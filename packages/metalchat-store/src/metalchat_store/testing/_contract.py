"""What the store relies on in a remote, as tests that a remote's own test suite inherits."""

import hashlib
from collections.abc import Mapping

import pytest

from metalchat_store.errors import NotFound, StoreError
from metalchat_store.remote import Listing, ReadsParts, Remote, RemoteContext, RemoteFile
from metalchat_store.testing.memory import git_blob_id


class RemoteContract:
    """Subclass it, and give the fixtures `remote`, `repository`, `missing` and `files` (and `context` if need be).

    `remote` is the object under test, `repository` an address that it serves, `missing` one that it would serve if
    it existed, `files` the names and contents that the repository has (others may be there besides).
    """

    @pytest.fixture
    def context(self) -> RemoteContext:
        """What the store passes."""
        return RemoteContext()

    @pytest.fixture
    def listing(self, remote: Remote, repository: str, context: RemoteContext) -> Listing:
        """The listing of the repository."""
        return remote.list(repository, revision=None, context=context)

    def test_everything_is_listed(self, listing: Listing, files: Mapping[str, bytes]) -> None:
        assert {file.path for file in listing.files} >= set(files)

    def test_what_the_listing_says_is_true(self, listing: Listing, files: Mapping[str, bytes]) -> None:
        for file in _given(listing, files):
            content = files[file.path]
            assert file.size in (None, len(content))
            assert file.sha256 in (None, hashlib.sha256(content).hexdigest())
            assert file.git_sha1 in (None, git_blob_id(content))

    def test_the_same_state_has_the_same_commit(
        self, remote: Remote, repository: str, listing: Listing, context: RemoteContext
    ) -> None:
        assert remote.list(repository, revision=None, context=context).commit == listing.commit

    def test_a_file_is_read_from_its_start(
        self, remote: Remote, listing: Listing, files: Mapping[str, bytes], context: RemoteContext
    ) -> None:
        for file in _given(listing, files):
            with remote.read(listing, file, offset=0, context=context) as body:
                assert body.offset == 0
                assert b"".join(body) == files[file.path]

    def test_a_file_is_read_from_within(
        self, remote: Remote, listing: Listing, files: Mapping[str, bytes], context: RemoteContext
    ) -> None:
        for file in _given(listing, files):
            content = files[file.path]
            with remote.read(listing, file, offset=0, context=context) as body:
                validator = body.validator
            middle = len(content) // 2
            with remote.read(listing, file, offset=middle, context=context, validator=validator) as body:
                assert body.offset in (0, middle)
                assert b"".join(body) == content[body.offset :]

    def test_a_part_of_a_file_is_read(
        self, remote: Remote, listing: Listing, files: Mapping[str, bytes], context: RemoteContext
    ) -> None:
        if not isinstance(remote, ReadsParts):
            return
        for file in _given(listing, files):
            content = files[file.path]
            with remote.read(listing, file, offset=0, context=context) as body:
                validator = body.validator
            for start, end in ((0, len(content) // 3), (len(content) // 3, 2 * len(content) // 3)):
                if start == end:
                    continue
                options = {"start": start, "end": end, "context": context, "validator": validator}
                with remote.read_part(listing, file, **options) as body:
                    assert body.offset in (0, start)
                    data = b"".join(body)
                assert data in (content[start:end], content)

    def test_a_transfer_can_be_left_before_its_end(
        self, remote: Remote, listing: Listing, files: Mapping[str, bytes], context: RemoteContext
    ) -> None:
        for file in _given(listing, files):
            for _ in range(2):
                with remote.read(listing, file, offset=0, context=context) as body:
                    assert files[file.path].startswith(next(iter(body), b""))

    def test_what_does_not_exist_is_an_error_of_one_line(
        self, remote: Remote, missing: str, context: RemoteContext
    ) -> None:
        with pytest.raises(StoreError) as caught:
            remote.list(missing, revision=None, context=context)
        assert isinstance(caught.value, NotFound) or caught.value.exit_code == 3
        assert str(caught.value).isprintable()


def _given(listing: Listing, files: Mapping[str, bytes]) -> list[RemoteFile]:
    return [file for file in listing.files if file.path in files]
