"""Which addresses a token without an address of its own belongs to."""

from collections.abc import Mapping

from metalchat_credentials.errors import InvalidURL
from metalchat_credentials.url import Url, parse_url

_HUB = Url(scheme="https", host="huggingface.co")


def is_hub(url: Url, environ: Mapping[str, str]) -> bool:
    """`url` has the origin of https://huggingface.co or of $HF_ENDPOINT. An $HF_ENDPOINT that is no address is none."""
    if url.origin == _HUB.origin:
        return True
    try:
        return url.origin == parse_url(environ.get("HF_ENDPOINT", "").strip()).origin
    except InvalidURL:
        return False
