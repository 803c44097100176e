"""What a hub's refusals mean to a person. The hub's own words are never shown: its error code and the status decide."""

import re

from metalchat_store._address import AddressError, redirected
from metalchat_store._http import Head, busy
from metalchat_store.errors import AccessDenied, NetworkError, Refused, RepositoryNotFound, StoreError
from metalchat_store.remotes._hub_address import HubRepository

_PATH = re.compile(
    r"/(?:api/(?:models|datasets|spaces)/|datasets/|spaces/)?([\w.-]+(?:/[\w.-]+)?)/"
    r"(?:revision|tree|resolve|preupload|commit)/",
    re.ASCII,
)
DISABLED = "Access to this resource is disabled."


def refusal(head: Head, model: HubRepository, *, what: str, authorized: bool) -> StoreError:
    """The error for an answer that is not 2xx. `what` names what was asked for; `authorized`: a credential was sent."""
    later = busy(head)
    if later is not None:
        return later
    host = model.origin.shown
    code = head.headers.get("x-error-code", "")
    add = f"metalchat credential add --host {model.origin.url}"
    if head.headers.get("x-error-message") == DISABLED:
        return AccessDenied(f"{host} has disabled '{model.name}' for everybody")
    if code == "GatedRepo":
        if not authorized:
            return AccessDenied(f"'{model.name}' needs its licence accepted at {model.url} and a credential: {add}")
        return AccessDenied(f"your account may not read '{model.name}' yet: ask for access at {model.url}")
    if head.status == 401:
        if authorized:
            return AccessDenied(f"{host} refused the credential for '{model.name}' (is it expired?): {add}")
        return AccessDenied(f"'{model.name}' does not exist at {host} or needs a credential: {add}")
    if head.status == 403:
        if authorized:
            return AccessDenied(
                f"access to '{model.name}' at {host} is denied: the credential lacks the right to read it"
            )
        return AccessDenied(f"access to '{model.name}' at {host} is denied without a credential: {add}")
    if head.status in (404, 410):
        if code == "RevisionNotFound":
            return RepositoryNotFound(f"'{model.name}' at {host} has no such revision: {what}")
        if code == "EntryNotFound":
            return RepositoryNotFound(f"'{model.name}' at {host} has no such file: {what}")
        hidden = "" if authorized else f". If it is private: {add}"
        return RepositoryNotFound(f"there is no {model.kind} '{model.name}' at {host}{hidden}")
    return NetworkError(f"{host} answered {head.status} when asked for {what}")


def check_rename(head: Head, model: HubRepository) -> None:
    """`Refused` if a redirect leads to another repository: who owns that name now is for a person to judge."""
    try:
        target = redirected(head.url, head.headers.get("location", "")) if head.redirects else ""
    except AddressError:
        return  # whoever would follow it says why not
    found = _PATH.match(target.removeprefix(model.origin.url))
    if found is not None and found[1] != model.name:
        new = model.url.removesuffix(model.name) + found[1]
        raise Refused(f"'{model.name}' is now '{found[1]}': if you trust that, use {new} instead")
