"""Models as bytes: pull, verify, keep and share."""

from importlib import import_module

TYPE_CHECKING = False

if TYPE_CHECKING:
    from metalchat_store.adoption import Adoption
    from metalchat_store.caches import Found
    from metalchat_store.collect import Collected
    from metalchat_store.copies import Copied, copy_repository
    from metalchat_store.describe import Description
    from metalchat_store.digest import Digest
    from metalchat_store.discovery import RemotePoint, installed_remotes, load_remote
    from metalchat_store.errors import (
        AccessDenied,
        AmbiguousModel,
        Corrupted,
        DiskError,
        IncompatibleRemote,
        IntegrityError,
        InvalidLock,
        InvalidPush,
        InvalidRepository,
        ModelNotFound,
        NetworkError,
        NotAModel,
        NotFound,
        PushConflict,
        Refused,
        RemoteConflict,
        RemoteNotFound,
        RepositoryNotFound,
        StoreError,
        UntrustedData,
    )
    from metalchat_store.filters import Filter
    from metalchat_store.kept import Kept, KeptNow, KeptRepaired, KeptVerification
    from metalchat_store.lockfile import Lock, LockedFile
    from metalchat_store.names import check_name, check_names, local_path
    from metalchat_store.push_types import PlannedFile, Pushed, PushPlan, PushProgress
    from metalchat_store.pushes import Committed, Destination, LocalFile, Offer, Offered, Pushes
    from metalchat_store.pushing import PushOptions, plan_push, push
    from metalchat_store.remote import (
        Adopts,
        Authorizer,
        Body,
        ChecksAddresses,
        Closes,
        Listing,
        Member,
        Preview,
        Previews,
        ReadsParts,
        Remote,
        RemoteContext,
        RemoteFile,
        Serves,
        Unpacks,
    )
    from metalchat_store.repair import Repaired
    from metalchat_store.repositories import Repositories
    from metalchat_store.roots import Root
    from metalchat_store.search import Hit
    from metalchat_store.store import Store
    from metalchat_store.types import Entry, FileCheck, Plan, Progress, Pulled, Verification
    from metalchat_store.updates import Availability, Change, UpdatePlan
    from metalchat_store.usage import Usage
    from metalchat_store.why import Keeper

__all__ = [
    "AccessDenied",
    "Adoption",
    "Adopts",
    "AmbiguousModel",
    "Authorizer",
    "Availability",
    "Body",
    "Change",
    "ChecksAddresses",
    "Closes",
    "Collected",
    "Committed",
    "Copied",
    "Corrupted",
    "Description",
    "Destination",
    "Digest",
    "DiskError",
    "Entry",
    "FileCheck",
    "Filter",
    "Found",
    "Hit",
    "IncompatibleRemote",
    "IntegrityError",
    "InvalidLock",
    "InvalidPush",
    "InvalidRepository",
    "Keeper",
    "Kept",
    "KeptNow",
    "KeptRepaired",
    "KeptVerification",
    "Listing",
    "LocalFile",
    "Lock",
    "LockedFile",
    "Member",
    "ModelNotFound",
    "NetworkError",
    "NotAModel",
    "NotFound",
    "Offer",
    "Offered",
    "Plan",
    "PlannedFile",
    "Preview",
    "Previews",
    "Progress",
    "Pulled",
    "PushConflict",
    "PushOptions",
    "PushPlan",
    "PushProgress",
    "Pushed",
    "Pushes",
    "ReadsParts",
    "Refused",
    "Remote",
    "RemoteConflict",
    "RemoteContext",
    "RemoteFile",
    "RemoteNotFound",
    "RemotePoint",
    "Repaired",
    "Repositories",
    "RepositoryNotFound",
    "Root",
    "Serves",
    "Store",
    "StoreError",
    "Unpacks",
    "UntrustedData",
    "UpdatePlan",
    "Usage",
    "Verification",
    "check_name",
    "check_names",
    "copy_repository",
    "installed_remotes",
    "load_remote",
    "local_path",
    "plan_push",
    "push",
]

_MODULES = {
    "adoption": ("Adoption",),
    "caches": ("Found",),
    "collect": ("Collected",),
    "describe": ("Description",),
    "digest": ("Digest",),
    "discovery": ("RemotePoint", "installed_remotes", "load_remote"),
    "kept": ("Kept", "KeptNow", "KeptRepaired", "KeptVerification"),
    "lockfile": ("Lock", "LockedFile"),
    "names": ("check_name", "check_names", "local_path"),
    "copies": ("Copied", "copy_repository"),
    "filters": ("Filter",),
    "repositories": ("Repositories",),
    "push_types": ("PlannedFile", "PushPlan", "PushProgress", "Pushed"),
    "pushes": ("Committed", "Destination", "LocalFile", "Offer", "Offered", "Pushes"),
    "pushing": ("PushOptions", "plan_push", "push"),
    "remote": (
        "Adopts",
        "Authorizer",
        "Body",
        "ChecksAddresses",
        "Closes",
        "Listing",
        "Member",
        "Preview",
        "Previews",
        "ReadsParts",
        "Remote",
        "RemoteContext",
        "RemoteFile",
        "Serves",
        "Unpacks",
    ),
    "repair": ("Repaired",),
    "roots": ("Root",),
    "search": ("Hit",),
    "store": ("Store",),
    "types": ("Entry", "FileCheck", "Plan", "Progress", "Pulled", "Verification"),
    "updates": ("Availability", "Change", "UpdatePlan"),
    "usage": ("Usage",),
    "why": ("Keeper",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Imports the module of a public name when the name is first used: importing the package costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'metalchat_store' has no attribute '{name}'")
    value = getattr(import_module(f"metalchat_store.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
