"""Tokens in environment variables, read and never written."""

import os
from collections.abc import Mapping

from metalchat_credentials._origins import is_hub
from metalchat_credentials.backend import BackendContext, SecretBackend, SecretKey
from metalchat_credentials.errors import InvalidSecret
from metalchat_credentials.secret import Secret

VARIABLES = ("METALCHAT_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class EnvironmentBackend:
    """The first of METALCHAT_TOKEN, HF_TOKEN and HUGGING_FACE_HUB_TOKEN that is not blank, for both purposes.

    They belong to https://huggingface.co and $HF_ENDPOINT only. A key with a `variable` is answered from that variable
    alone, whatever its address.
    """

    name = "environment"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def bind(self, context: BackendContext) -> SecretBackend:
        """The same for that environment."""
        return EnvironmentBackend(context.environ)

    def get(self, key: SecretKey) -> Secret | None:
        """Raises InvalidSecret, which names the variable, for a value that is no token."""
        if key.variable is None and not is_hub(key.url, self._environ):
            return None
        for variable in VARIABLES if key.variable is None else (key.variable,):
            if self._environ.get(variable, "").strip():
                try:
                    return Secret.parse(self._environ[variable])
                except InvalidSecret as error:
                    raise InvalidSecret(f"the value of {variable} cannot be used: {error}") from None
        return None
