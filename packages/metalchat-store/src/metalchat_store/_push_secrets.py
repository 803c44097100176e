"""Files that hold an access token are not pushed: what is known to be one, or is kept where tokens are kept."""

import re

from metalchat_store.errors import Refused

_OVERLAP = 512
_VARIETY = 8  # different characters: placeholders such as hf_xxxxxxxx have fewer

# What a token starts with, the whole of it, and what it is called.
_HUB_TOKENS = ((b"hf_", re.compile(rb"hf_([A-Za-z0-9]{20,200})"), "a Hugging Face access token"),)
_TOKENS = (
    *_HUB_TOKENS,
    (b"api_org_", re.compile(rb"api_org_([A-Za-z0-9]{20,200})"), "a Hugging Face access token"),
    (b"github_pat_", re.compile(rb"github_pat_([A-Za-z0-9_]{40,200})"), "a GitHub access token"),
    (b"ghp_", re.compile(rb"ghp_([A-Za-z0-9]{30,200})"), "a GitHub access token"),
    (b"glpat-", re.compile(rb"glpat-([A-Za-z0-9_-]{20,200})"), "a GitLab access token"),
    (b"pypi-AgE", re.compile(rb"pypi-(AgE[A-Za-z0-9_-]{50,200})"), "a PyPI access token"),
    (b"sk-", re.compile(rb"sk-((?:proj-|ant-|svcacct-)[A-Za-z0-9_-]{32,200})"), "an API key"),
    (b"AKIA", re.compile(rb"AKIA([A-Z0-9]{16})(?![A-Za-z0-9])"), "an AWS access key"),
    (b" PRIVATE KEY-----", re.compile(rb"( PRIVATE KEY-----\s+[A-Za-z0-9+/=]{32,64})"), "a private key"),
)
_KEEPERS = re.compile(
    r"\.env(?:\..*)?|\.netrc|_netrc|\.pypirc|\.npmrc|\.git-credentials|id_(?:rsa|dsa|ecdsa|ed25519)", re.IGNORECASE
)
_EXAMPLES = (".example", ".sample", ".template", ".dist")


def check_keeper(name: str) -> None:
    """`Refused` for names under which programs keep secrets, whatever is in them."""
    last = name.rpartition("/")[2]
    if _KEEPERS.fullmatch(last) and not last.lower().endswith(_EXAMPLES):
        raise Refused(f"{name!a} is where secrets are kept and is not pushed: leave it out with --exclude {name!a}")


class SecretSearch:
    """Looks through the blocks of one file. `own` is a secret that is looked for as it is.

    In `huge` files, weights or tables, only tokens of hubs are looked for: that is as fast as hashing.
    """

    def __init__(self, name: str, own: bytes, *, huge: bool) -> None:
        self._name = name
        self._kinds = _HUB_TOKENS if huge else _TOKENS
        self._own = own
        self._tail = b""

    def feed(self, block: bytes) -> None:
        """The next block; `Refused`, naming the file and never the token, if one is found."""
        for text in (self._tail + block[:_OVERLAP], block):
            if self._own and self._own in text:
                raise self._found("the access token of this push")
            for start, whole, what in self._kinds:
                if start in text and any(_is_secret(found[1]) for found in whole.finditer(text)):
                    raise self._found(what)
        self._tail = (self._tail + block[-_OVERLAP:])[-_OVERLAP:]

    def _found(self, what: str) -> Refused:
        return Refused(
            f"{self._name!a} contains {what}: nothing was pushed. Remove it there, or leave the file out "
            f"with --exclude {self._name!a}"
        )


def _is_secret(text: bytes) -> bool:
    """Whether it looks random: varied, and not only small letters, as a word would be."""
    return len(set(text)) >= _VARIETY and re.search(rb"[0-9A-Z]", text) is not None
