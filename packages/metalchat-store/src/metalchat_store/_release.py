"""Blobs that no snapshot names any more are deleted."""

from collections.abc import Iterable

from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs
from metalchat_store.digest import Digest
from metalchat_store.snapshots import Snapshots


def release(layout: Layout, digests: Iterable[Digest]) -> None:
    """Delete the blobs of those `digests` that nothing refers to.

    A pull in another process that counted on one of them notices when it publishes, and fetches it again.
    """
    candidates = set(digests)
    for snapshot in Snapshots(layout).all() if candidates else ():
        candidates -= {file.digest for file in snapshot.files}
    for digest in candidates:
        Blobs(layout.blobs).delete(digest)
