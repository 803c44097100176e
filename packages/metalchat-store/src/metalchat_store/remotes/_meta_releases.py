"""The releases of Llama that Meta gives out: their folders and files, and what their files do not say of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from metalchat_store.checkpoint.model import Traits
from metalchat_store.errors import InvalidRepository

_LONG = 131072
_WEIGHTS = re.compile(r"consolidated\.[0-9]{2,3}\.pth")

# Descriptor, repository at Hugging Face (without its organisation), files of weights, tokens of context, licence,
# and the folder where that is not the repository's name.
_TEXT = (
    ("Llama-3-8B", "Llama-3-8B", 1, 8192, "llama3", ""),
    ("Llama-3-70B", "Llama-3-70B", 8, 8192, "llama3", ""),
    ("Llama-3-8B-Instruct", "Llama-3-8B-Instruct", 1, 8192, "llama3", ""),
    ("Llama-3-70B-Instruct", "Llama-3-70B-Instruct", 8, 8192, "llama3", ""),
    ("Llama3.1-8B", "Llama-3.1-8B", 1, _LONG, "llama3.1", ""),
    ("Llama3.1-70B", "Llama-3.1-70B", 8, _LONG, "llama3.1", ""),
    ("Llama3.1-405B:bf16-mp8", "Llama-3.1-405B", 8, _LONG, "llama3.1", "Llama-3.1-405B-MP8"),
    ("Llama3.1-405B:bf16-mp16", "Llama-3.1-405B", 16, _LONG, "llama3.1", "Llama-3.1-405B-MP16"),
    ("Llama3.1-8B-Instruct", "Llama-3.1-8B-Instruct", 1, _LONG, "llama3.1", ""),
    ("Llama3.1-70B-Instruct", "Llama-3.1-70B-Instruct", 8, _LONG, "llama3.1", ""),
    ("Llama3.1-405B-Instruct:bf16-mp8", "Llama-3.1-405B-Instruct", 8, _LONG, "llama3.1", "Llama-3.1-405B-Instruct-MP8"),
    (
        "Llama3.1-405B-Instruct:bf16-mp16",
        "Llama-3.1-405B-Instruct",
        16,
        _LONG,
        "llama3.1",
        "Llama-3.1-405B-Instruct-MP16",
    ),
    ("Llama3.2-1B", "Llama-3.2-1B", 1, _LONG, "llama3.2", ""),
    ("Llama3.2-3B", "Llama-3.2-3B", 1, _LONG, "llama3.2", ""),
    ("Llama3.2-1B-Instruct", "Llama-3.2-1B-Instruct", 1, _LONG, "llama3.2", ""),
    ("Llama3.2-3B-Instruct", "Llama-3.2-3B-Instruct", 1, _LONG, "llama3.2", ""),
    ("Llama3.3-70B-Instruct", "Llama-3.3-70B-Instruct", 8, _LONG, "llama3.3", ""),
    ("Llama-Guard-2-8B", "Llama-Guard-2-8B", 1, 4096, "llama3", "llama-guard-2"),
    ("Llama-Guard-3-8B", "Llama-Guard-3-8B", 1, _LONG, "llama3.1", ""),
    ("Llama-Guard-3-1B", "Llama-Guard-3-1B", 1, _LONG, "llama3.2", ""),
)

# What is not converted, and why; each with its repository at Hugging Face.
_SENTENCES, _IMAGES = "its tokenizer is a SentencePiece one", "it reads images"
_PACKED, _EXPERTS, _HF = "it is quantised", "it is a mixture of experts", "Meta gives it out without its configuration"
_OTHERS = (
    ("Llama-2-7b", "Llama-2-7b", _SENTENCES),
    ("Llama-2-13b", "Llama-2-13b", _SENTENCES),
    ("Llama-2-70b", "Llama-2-70b", _SENTENCES),
    ("Llama-2-7b-chat", "Llama-2-7b-chat", _SENTENCES),
    ("Llama-2-13b-chat", "Llama-2-13b-chat", _SENTENCES),
    ("Llama-2-70b-chat", "Llama-2-70b-chat", _SENTENCES),
    ("Llama3.1-405B", "Llama-3.1-405B-FP8", _PACKED),
    ("Llama3.1-405B-Instruct", "Llama-3.1-405B-Instruct-FP8", _PACKED),
    ("Llama3.2-11B-Vision", "Llama-3.2-11B-Vision", _IMAGES),
    ("Llama3.2-90B-Vision", "Llama-3.2-90B-Vision", _IMAGES),
    ("Llama3.2-1B-Instruct:int4-qlora-eo8", "Llama-3.2-1B-Instruct-QLORA_INT4_EO8", _PACKED),
    ("Llama3.2-1B-Instruct:int4-spinquant-eo8", "Llama-3.2-1B-Instruct-SpinQuant_INT4_EO8", _PACKED),
    ("Llama3.2-3B-Instruct:int4-qlora-eo8", "Llama-3.2-3B-Instruct-QLORA_INT4_EO8", _PACKED),
    ("Llama3.2-3B-Instruct:int4-spinquant-eo8", "Llama-3.2-3B-Instruct-SpinQuant_INT4_EO8", _PACKED),
    ("Llama3.2-11B-Vision-Instruct", "Llama-3.2-11B-Vision-Instruct", _IMAGES),
    ("Llama3.2-90B-Vision-Instruct", "Llama-3.2-90B-Vision-Instruct", _IMAGES),
    ("Llama-4-Scout-17B-16E", "Llama-4-Scout-17B-16E", _EXPERTS),
    ("Llama-4-Maverick-17B-128E", "Llama-4-Maverick-17B-128E", _EXPERTS),
    ("Llama-4-Scout-17B-16E-Instruct", "Llama-4-Scout-17B-16E-Instruct", _EXPERTS),
    ("Llama-4-Maverick-17B-128E-Instruct", "Llama-4-Maverick-17B-128E-Instruct", _EXPERTS),
    ("Llama-4-Maverick-17B-128E-Instruct:fp8", "Llama-4-Maverick-17B-128E-Instruct-FP8", _EXPERTS),
    ("Llama-Guard-4-12B", "Llama-Guard-4-12B", _IMAGES),
    ("Llama-Guard-3-11B-Vision", "Llama-Guard-3-11B-Vision", _IMAGES),
    ("Llama-Guard-3-1B:int4", "Llama-Guard-3-1B-INT4", _PACKED),
    ("Llama-Guard-3-8B:int8", "Llama-Guard-3-8B-INT8", _PACKED),
    ("Prompt-Guard-86M", "Prompt-Guard-86M", _HF),
    ("Llama-Prompt-Guard-2-86M", "Llama-Prompt-Guard-2-86M", _HF),
    ("Llama-Prompt-Guard-2-22M", "Llama-Prompt-Guard-2-22M", _HF),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release: what it is called, where it lies at Meta, and how many files its weights are."""

    name: str
    folder: str
    shards: int
    license: str
    traits: Traits

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the files of weights."""
        return tuple(f"consolidated.{number:02}.pth" for number in range(self.shards))


def find_release(name: str) -> Release:
    """The release with that descriptor, such as `Llama3.2-1B-Instruct`, in exactly that spelling.

    Raises `InvalidRepository`: for an unknown name with the nearest ones, for one that cannot be converted with the
    address where it can be had in safetensors.
    """
    from difflib import get_close_matches

    for descriptor, repository, shards, context, license_name, folder in _TEXT:
        if name == descriptor:
            traits = Traits(
                context=context,
                tokens="llama3" if license_name == "llama3" else "llama3_1",
                rope_factor=32.0 if license_name == "llama3.2" else 8.0,
                chat=descriptor.partition(":")[0].endswith("-Instruct"),
            )
            return Release(
                name=descriptor, folder=folder or repository, shards=shards, license=license_name, traits=traits
            )
    for descriptor, repository, why in _OTHERS:
        if name == descriptor:
            raise InvalidRepository(
                f"'{descriptor}' of Meta is not converted ({why}): pull https://huggingface.co/meta-llama/{repository}"
            )
    known = {row[0].casefold(): row[0] for row in _TEXT}
    near = [known[word] for word in get_close_matches(name[:80].casefold(), known, 3, 0.5)] or ["Llama3.2-1B-Instruct"]
    raise InvalidRepository(f"Meta has no model {name[:80]!a}: write meta:NAME, such as {', '.join(near)}")


def named_release(folder: str) -> Release:
    """The release whose folder has that name, as Meta's downloaders leave it: its descriptor, or its folder at Meta.

    `Meta-` may stand before it. Raises `InvalidRepository` for any other name, and as `find_release` does.
    """
    plain = folder.removeprefix("Meta-").casefold()
    for descriptor, repository, _, _, _, elsewhere in _TEXT:
        if plain in _names(descriptor, elsewhere or repository):
            return find_release(descriptor)
    for descriptor, repository, _ in _OTHERS:
        if plain in _names(descriptor, repository):
            return find_release(descriptor)
    raise InvalidRepository(
        f"the folder has checkpoints of Meta, and its name {folder[:80]!a} does not tell of which release: "
        "rename it, for example to Llama3.2-1B-Instruct"
    )


def is_checkpoint(name: str) -> bool:
    """Whether that is the name of one of the files of weights."""
    return _WEIGHTS.fullmatch(name) is not None


def has_checkpoint(names: Iterable[str]) -> bool:
    """Whether a folder of these files has Meta's weights, and none that could be taken as they are."""
    found = tuple(names)
    return any(map(is_checkpoint, found)) and not any(name.endswith((".safetensors", ".gguf")) for name in found)


def _names(descriptor: str, folder: str) -> tuple[str, str]:
    return descriptor.replace(":", "-").casefold(), folder.casefold()
