"""Models as bytes: pull, verify, keep and share."""

from importlib import import_module

TYPE_CHECKING = False

if TYPE_CHECKING:
    from metalchat_store.digest import Digest
    from metalchat_store.discovery import RemotePoint, installed_remotes, load_remote
    from metalchat_store.errors import (
        AccessDenied,
        AmbiguousModel,
        Corrupted,
        DiskError,
        IncompatibleRemote,
        IntegrityError,
        InvalidRepository,
        ModelNotFound,
        NetworkError,
        NotAModel,
        NotFound,
        Refused,
        RemoteConflict,
        RemoteNotFound,
        RepositoryNotFound,
        StoreError,
        UntrustedData,
    )
    from metalchat_store.names import check_name, check_names, local_path
    from metalchat_store.remote import (
        Adopts,
        Authorizer,
        Body,
        Closes,
        Listing,
        Member,
        Remote,
        RemoteContext,
        RemoteFile,
        Unpacks,
    )
    from metalchat_store.store import Store
    from metalchat_store.types import Entry, FileCheck, Plan, Progress, Pulled, Verification

__all__ = [
    "AccessDenied",
    "Adopts",
    "AmbiguousModel",
    "Authorizer",
    "Body",
    "Closes",
    "Corrupted",
    "Digest",
    "DiskError",
    "Entry",
    "FileCheck",
    "IncompatibleRemote",
    "IntegrityError",
    "InvalidRepository",
    "Listing",
    "Member",
    "ModelNotFound",
    "NetworkError",
    "NotAModel",
    "NotFound",
    "Plan",
    "Progress",
    "Pulled",
    "Refused",
    "Remote",
    "RemoteConflict",
    "RemoteContext",
    "RemoteFile",
    "RemoteNotFound",
    "RemotePoint",
    "RepositoryNotFound",
    "Store",
    "StoreError",
    "Unpacks",
    "UntrustedData",
    "Verification",
    "check_name",
    "check_names",
    "installed_remotes",
    "load_remote",
    "local_path",
]

_MODULES = {
    "digest": ("Digest",),
    "discovery": ("RemotePoint", "installed_remotes", "load_remote"),
    "names": ("check_name", "check_names", "local_path"),
    "remote": (
        "Adopts",
        "Authorizer",
        "Body",
        "Closes",
        "Listing",
        "Member",
        "Remote",
        "RemoteContext",
        "RemoteFile",
        "Unpacks",
    ),
    "store": ("Store",),
    "types": ("Entry", "FileCheck", "Plan", "Progress", "Pulled", "Verification"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Imports the module of a public name when the name is first used: importing the package costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'metalchat_store' has no attribute '{name}'")
    value = getattr(import_module(f"metalchat_store.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
