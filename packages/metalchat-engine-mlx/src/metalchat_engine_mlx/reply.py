"""From drawn tokens to what the answer says: text, reasoning, tool calls, and where it stops."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metalchat_engine import StopStrings

if TYPE_CHECKING:
    from metalchat_prompt import Detokenizer, OutputEvent, OutputParser


class Reply:
    """One answer's tokens in, its events out. `stop` are the request's stop strings, `own_stop` the chat format's."""

    def __init__(
        self, text: "Detokenizer", parser: "OutputParser", *, stop: Sequence[str] = (), own_stop: Sequence[str] = ()
    ) -> None:
        self._text, self._parser = text, parser
        self._asked = tuple(stop)
        self._stop = StopStrings((*stop, *own_stop))

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._stop.found is not None

    @property
    def stop(self) -> str | None:
        """The stop string of the request that ended the answer."""
        return self._stop.found if self._stop.found in self._asked else None

    @property
    def called(self) -> bool:
        """Whether there is a tool call that waits for its result."""
        return self._parser.called

    def push(self, token: int) -> "Sequence[OutputEvent]":
        """Take the next token."""
        mark = self._parser.tokens.get(token)
        if mark is None:
            text = self._stop.push(self._text.push(token))
            return self._parser.push(text) if text else ()
        # A mark may be a stop string, or end one.
        text = self._stop.push(self._text.flush() + mark)
        if self.stopped:
            return self._parser.push(text)
        text += self._stop.flush()
        return self._parser.push(text.removesuffix(mark), (token,))

    def finish(self, *, truncated: bool) -> "Sequence[OutputEvent]":
        """No token is to come; `truncated` says that the model had more to say."""
        events = self._rest()
        return (*events, *self._parser.finish(truncated=truncated or self.stop is not None))

    def _rest(self) -> "Sequence[OutputEvent]":
        """What was held back, which nothing can continue."""
        if self.stopped:
            return ()
        text = self._stop.push(self._text.flush())
        if not self.stopped:
            text += self._stop.flush()
        return self._parser.push(text)
