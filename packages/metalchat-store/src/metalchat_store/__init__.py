"""Models as bytes: pull, verify, keep and share."""
