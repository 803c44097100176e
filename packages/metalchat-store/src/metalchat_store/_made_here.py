"""Models that no remote has: what was made here out of another model has a commit that says so."""

COMMIT = "local-"


def made_here(commit: str | None) -> bool:
    """Whether a commit is that of a model which was made on this computer."""
    return commit is not None and commit.startswith(COMMIT)
