"""What a hub's refusal of something that was sent to it means to a person."""

from metalchat_store._answers import AnswerError, parse_json
from metalchat_store._http import Answer, busy
from metalchat_store.errors import AccessDenied, NetworkError, NotFound, PushConflict, StoreError
from metalchat_store.remotes._hub_address import HubRepository
from metalchat_store.remotes._hub_errors import DISABLED, check_rename, refusal

_SHOWN = 200


def write_refusal(answer: Answer, repository: HubRepository, *, what: str) -> StoreError:
    """The error for an answer that is not 2xx to a request that carried a credential. `what` was being sent.

    Raises `Refused` itself where the repository has another name now.
    """
    host = repository.origin.shown
    if answer.redirects:
        check_rename(answer, repository)
        return NetworkError(f"{host} redirects {what}, which is not followed: nothing is sent anywhere else")
    if answer.status in (409, 412):
        return PushConflict(f"'{repository.name}' at {host} changed during the push: push again")
    code = answer.headers.get("x-error-code", "")
    add = f"metalchat credential add --write --host {repository.origin.url}"
    closed = code == "GatedRepo" or answer.headers.get("x-error-message") == DISABLED
    if code == "RevisionNotFound":
        return NotFound(f"'{repository.name}' at {host} has no such branch: push without --revision")
    if closed or answer.status in (404, 410) or busy(answer) is not None:
        return refusal(answer, repository, what=what, authorized=True)
    if answer.status == 401:
        return AccessDenied(f"{host} refused the credential for '{repository.name}' (is it expired?): {add}")
    if answer.status == 403:
        return AccessDenied(
            f"the credential for {host} may not write to '{repository.name}': it needs the role 'write' there: {add}"
        )
    if answer.status == 413:
        return NetworkError(f"{host} does not accept {what}: it is too large")
    return NetworkError(f"{host} refused {what} ({answer.status}){said(answer)}")


def said(answer: Answer) -> str:
    """The hub's own words about a request that it understood but refuses, quoted, plain and short."""
    try:
        value = parse_json(answer.data)
    except AnswerError:
        return ""
    text = value.get("error") if isinstance(value, dict) else None
    return quoted(text) if isinstance(text, str) else ""


def quoted(text: str) -> str:
    """Words of a server, as the end of a message: visible ASCII and nothing else."""
    plain = " ".join("".join(c if " " <= c <= "~" else " " for c in text).split())
    return f': it says "{plain[:_SHOWN]}"' if plain else ""
