"""The part of the store that takes in models of other tools."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store._base import Base
from metalchat_store._files import disk_errors
from metalchat_store._made_here import made_here
from metalchat_store.errors import DiskError, Refused, RepositoryNotFound, StoreError
from metalchat_store.types import Entry, Progress

if TYPE_CHECKING:
    from metalchat_store.adoption import Adoption
    from metalchat_store.caches import Found


class Adopting(Base):
    """Methods that find models on this computer and take them in."""

    def adoptable(self, folders: Sequence[Path] = ()) -> "tuple[Adoption, ...]":
        """The models in these folders, or in the caches of Hugging Face libraries, Ollama and LM Studio.

        Each with how it would be taken in and what that saves, or why it cannot be. Nothing of another tool is
        touched. Raises `RepositoryNotFound` for a folder that does not exist, or has no model.
        """
        from metalchat_store.adoption import Adoption, Sharing
        from metalchat_store.caches import discover, look_into

        with disk_errors(self.home, reading=True):
            have = self._repositories()
            found: list[Found] = []
            for folder in folders:
                if not folder.is_dir():
                    raise RepositoryNotFound(f"'{folder}' is not a folder")
                inside = list(look_into(folder.resolve(), self._environ))
                if not inside:
                    raise RepositoryNotFound(
                        f"there is no model in '{folder}': looked for *.gguf, and for config.json with *.safetensors"
                    )
                found += inside
            if not folders:
                found += discover(self._environ)
            sharing = Sharing(self._layout)
            adoptions = []
            for model in found:
                if model.reason is not None:
                    adoptions.append(Adoption(found=model, error=Refused(model.reason)))
                elif model.repository in have:
                    adoptions.append(Adoption(found=model, already=True, entry=have[model.repository]))
                else:
                    how = sharing.how(model.files)
                    adoptions.append(Adoption(found=model, how=how, saved=0 if how == "copy" else model.size))
            return tuple(adoptions)

    def adopt(
        self, adoptions: "Iterable[Adoption]", *, copies: bool = False, progress: Progress | None = None
    ) -> "tuple[Adoption, ...]":
        """Take in what `adoptable` found; every file is hashed, and compared where its tool's cache names a hash.

        Files are cloned, else hard-linked: their bytes, modes and times stay as they are, and a later change of one
        is noticed by `path` and `verify`. `copies` allows a copy where neither is possible. One model that cannot be
        taken does not stop the others. Raises `DiskError` when the disk fails.
        """
        return tuple(
            self._adopt(adoption, copies, progress) if adoption.how is not None else adoption for adoption in adoptions
        )

    def _adopt(self, adoption: "Adoption", copies: bool, progress: Progress | None) -> "Adoption":
        from metalchat_store._fetching import fetching
        from metalchat_store._terms import Terms
        from metalchat_store.adoption import FoundRemote
        from metalchat_store.pull import Pull
        from metalchat_store.remotes.file import FileRemote

        found = adoption.found
        scheme = found.repository.partition(":")[0]
        means = replace(
            self._means(), remotes={scheme: FileRemote if found.commit is None else lambda: FoundRemote(found)}
        )
        try:
            with fetching(self._layout, means, found.repository, progress=progress) as open_remote:
                pulled = Pull(open_remote, Terms(copies=copies, held=self._held)).run()
        except DiskError:
            raise
        except StoreError as error:
            return replace(adoption, how=None, saved=0, error=error)
        saved = 0 if pulled.adopted == "copy" else found.size
        return replace(adoption, how=pulled.adopted, saved=saved, already=pulled.already, entry=pulled.entry)

    def _repositories(self) -> dict[str, Entry]:
        from metalchat_store.sources import normalise

        entries = (entry for entry in self._entries.all() if entry.damaged is None and not made_here(entry.commit))
        return {normalise(entry.spec.repository): entry for entry in entries if entry.spec is not None}
