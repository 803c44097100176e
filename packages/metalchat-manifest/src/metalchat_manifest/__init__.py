"""What is selected and configured, in which scope, and why."""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; importing typing costs more than all else here
if TYPE_CHECKING:
    from metalchat_manifest.editor import Content, Editor, edit
    from metalchat_manifest.environment import read_environment, variable
    from metalchat_manifest.errors import (
        EditRefused,
        InvalidManifest,
        InvalidModelFile,
        InvalidPrompt,
        InvalidRepository,
        InvalidSetting,
        InvalidSpec,
        InvalidValue,
        ManifestChanged,
        ManifestError,
        ManifestNotFound,
        ManifestNotWritten,
        ManifestUnreadable,
        MisspeltKey,
        SecretInManifest,
        UnknownOption,
    )
    from metalchat_manifest.manifest import Manifest, UnknownKey
    from metalchat_manifest.model_files import ModelFile, read_config, read_generation_config
    from metalchat_manifest.options import KNOWN_OPTIONS, parse_option
    from metalchat_manifest.repository import identifier, legacy_identifier, normalise_repository
    from metalchat_manifest.resolution import DEFAULTS, Ignored, Resolved, resolve
    from metalchat_manifest.schema import KEYS, Key, nearest_key, parse_value
    from metalchat_manifest.scopes import Origin, Scope, Setting, find_local, global_path, model_path
    from metalchat_manifest.spec import ModelSpec
    from metalchat_manifest.values import Value

__all__ = [
    "DEFAULTS",
    "KEYS",
    "KNOWN_OPTIONS",
    "Content",
    "EditRefused",
    "Editor",
    "Ignored",
    "InvalidManifest",
    "InvalidModelFile",
    "InvalidPrompt",
    "InvalidRepository",
    "InvalidSetting",
    "InvalidSpec",
    "InvalidValue",
    "Key",
    "Manifest",
    "ManifestChanged",
    "ManifestError",
    "ManifestNotFound",
    "ManifestNotWritten",
    "ManifestUnreadable",
    "MisspeltKey",
    "ModelFile",
    "ModelSpec",
    "Origin",
    "Resolved",
    "Scope",
    "SecretInManifest",
    "Setting",
    "UnknownKey",
    "UnknownOption",
    "Value",
    "edit",
    "find_local",
    "global_path",
    "identifier",
    "legacy_identifier",
    "model_path",
    "nearest_key",
    "normalise_repository",
    "parse_option",
    "parse_value",
    "read_config",
    "read_environment",
    "read_generation_config",
    "resolve",
    "variable",
]

_MODULES = {
    "editor": ("Content", "Editor", "edit"),
    "environment": ("read_environment", "variable"),
    "repository": ("identifier", "legacy_identifier", "normalise_repository"),
    "manifest": ("Manifest", "UnknownKey"),
    "model_files": ("ModelFile", "read_config", "read_generation_config"),
    "options": ("KNOWN_OPTIONS", "parse_option"),
    "resolution": ("DEFAULTS", "Ignored", "Resolved", "resolve"),
    "schema": ("KEYS", "Key", "nearest_key", "parse_value"),
    "scopes": ("Origin", "Scope", "Setting", "find_local", "global_path", "model_path"),
    "spec": ("ModelSpec",),
    "values": ("Value",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Imports the module of a public name when the name is first used: importing the package costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'metalchat_manifest' has no attribute '{name}'")
    value = getattr(import_module(f"metalchat_manifest.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
