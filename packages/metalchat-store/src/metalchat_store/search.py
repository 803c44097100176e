"""The search of a Hugging Face hub: names, downloads, licences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from metalchat_store._address import AddressError, Origin, origin_of
from metalchat_store._answers import AnswerError, Json, typed
from metalchat_store._backoff import Backoff
from metalchat_store._fetching import Means
from metalchat_store._http import MIB, Answer, Http, busy
from metalchat_store.errors import AccessDenied, InvalidRepository, NetworkError
from metalchat_store.remote import Authorizer

HUB = "https://huggingface.co"
MOST = 100
_SERVICE = "a Hugging Face hub"
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,15}Z")
_LIMIT = 16 * MIB
_QUERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A model that a search found. `name` is what the hub says, and may hold anything: show it with care.

    `repository` is the address to pull from. `gated`: the licence has to be accepted first. `updated` is a date and
    time in UTC, as in `2026-01-31T12:00:00.000Z`.
    """

    repository: str
    name: str
    downloads: int | None = None
    license: str | None = None
    gated: bool | None = None
    updated: str | None = None


def search(query: str, limit: int, *, hub: str | None, authorize: Authorizer | None, means: Means) -> tuple[Hit, ...]:
    """Ask the hub once; answers that say "later" are waited for. Raises as `Store.search` does."""
    if not 1 <= limit <= MOST:
        raise InvalidRepository(f"a search gives 1 to {MOST} models, not {limit}")
    if not query.strip() or len(query) > _QUERY or not query.isprintable():
        raise InvalidRepository(f"a search is for visible characters, at most {_QUERY}")
    home = _hub(hub or means.environ.get("HF_ENDPOINT") or HUB)
    wanted = [("search", query), ("limit", limit), ("sort", "downloads"), ("direction", "-1")]
    wanted += [("expand", key) for key in ("downloads", "gated", "lastModified", "tags")]
    url = f"{home.url}/api/models?{urlencode(wanted)}"
    own = means.client if isinstance(means.client, Http) else Http(clock=means.clock)
    backoff = Backoff(sleep=means.sleep or _sleep, message=_silent)
    try:
        while True:
            try:
                answer = own.fetch(url, home=home, authorize=authorize or _nobody, limit=_LIMIT)
                return tuple(_hits(_accepted(answer), home))[:limit]
            except NetworkError as error:
                backoff.failed(home.shown, error)
    finally:
        if own is not means.client:
            own.close()


def _hub(address: str) -> Origin:
    try:
        return origin_of(address.rstrip("/"))
    except AddressError as error:
        raise InvalidRepository(f"the address of the hub is not valid: {error}") from error


def _accepted(answer: Answer) -> Answer:
    later = busy(answer)
    if later is not None:
        raise later
    if answer.status in (401, 403):
        add = f"metalchat credential add --host {answer.origin.url}"
        raise AccessDenied(f"{answer.origin.shown} refused the search (is the credential expired?): {add}")
    if answer.status != 200:
        raise NetworkError(f"{answer.origin.shown} answered {answer.status} when asked for models")
    return answer


def _hits(answer: Answer, home: Origin) -> Iterator[Hit]:
    try:
        for item in typed(answer.json(_SERVICE), list, "the list of models"):
            entry = typed(item, dict, "a model")
            name = typed(entry.get("id"), str, "'id'")
            if len(name) > 256:
                raise AnswerError("'id' is too long")
            downloads, gated, tags = entry.get("downloads"), entry.get("gated"), entry.get("tags")
            updated = entry.get("lastModified")
            yield Hit(
                repository=f"{home.url}/{name}",
                name=name,
                downloads=downloads if isinstance(downloads, int) and not isinstance(downloads, bool) else None,
                license=_license(tags),
                gated=gated in ("auto", "manual", True) if isinstance(gated, bool | str) else None,
                updated=updated if isinstance(updated, str) and _DATE.fullmatch(updated) else None,
            )
    except AnswerError as error:
        raise answer.unlike(_SERVICE, str(error)) from error


def _license(tags: Json) -> str | None:
    for tag in tags if isinstance(tags, list) else []:
        if isinstance(tag, str) and tag.startswith("license:"):
            name = tag.removeprefix("license:")
            return name if _LICENSE.fullmatch(name) else None
    return None


def _sleep(seconds: float) -> None:
    import time

    time.sleep(seconds)


def _nobody(_url: str) -> str | None:
    return None


def _silent(_text: str) -> None:
    return None
