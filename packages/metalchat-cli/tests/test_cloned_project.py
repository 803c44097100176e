"""What somebody else's project may make metalchat do: its lock leads to no host that is new here, unasked."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from metalchat_store.testing import FakeHub
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]
MY_TOKEN = "hf_minemineminemineminemineminemine"


def requests(hub: FakeHub) -> int:
    return len(hub.requests)


@pytest.fixture
def cloned(cli: Cli, id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose lock names the hub, on the machine of somebody who has a token of another one."""
    monkeypatch.setenv("MY_TOKEN", MY_TOKEN)
    add = ("credential", "add", "--username", "alice", "--backend", "environment", "--secret-env", "MY_TOKEN")
    assert cli(*add, "--host", "huggingface.co").code == 0
    cli("lock")
    cli("model", "remove", id)


@pytest.mark.usefixtures("cloned")
def test_N_5_the_lock_of_a_cloned_project_leads_to_no_host_that_is_not_known(
    cli: Cli, fails: Cli, id: str, hub: FakeHub, url: str
) -> None:
    before = requests(hub)
    assert fails(8, "model", "pull", "--frozen") == (
        f"metalchat: error: the lock names {hub.url}, from which nothing was pulled here before. "
        f"If you trust it: metalchat model pull --frozen {url}"
    )
    assert requests(hub) == before
    done = cli("model", "pull", "--frozen", url)
    assert (done.code, done.out.splitlines()[0]) == (0, f"Pulling from '{url}'...")
    assert not hub.seen(MY_TOKEN[:7], roles=("hub", "cdn", "evil"))


@pytest.mark.usefixtures("cloned")
@pytest.mark.parametrize(("answer", "code"), [("yes\n", 0), ("\n", 8), ("no\n", 8), ("", 8)])
def test_N_5_a_person_is_asked_before_a_new_host_is_contacted(
    cli: Cli, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    monkeypatch.setattr("metalchat_cli.terminal.can_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    before = requests(hub)
    done = cli("model", "pull", "--frozen")
    assert done.code == code
    asked = f"The lock names {hub.url}, from which nothing was pulled here before. Connect to it? [y/N] "
    assert done.err.startswith(asked)
    assert (requests(hub) > before) == (code == 0)


@pytest.mark.usefixtures("cloned")
def test_N_5_a_host_of_another_model_or_of_a_credential_is_known(cli: Cli, id: str, hub: FakeHub) -> None:
    add = ("credential", "add", "--username", "alice", "--backend", "environment", "--secret-env", "MY_TOKEN")
    assert cli(*add, "--host", hub.url).code == 0
    before = requests(hub)
    assert cli("model", "pull", "--frozen").code == 3, "the hub was asked, and does not know the token"
    assert requests(hub) > before
    assert cli("credential", "remove", "--host", hub.url).code == 0
    cli("model", "remove", id)
    hub.add_repo("org/other", files=tiny_model(size=10_000))
    assert cli("model", "pull", f"{hub.url}/org/other").code == 0
    assert cli("model", "pull", "--frozen").code == 0
