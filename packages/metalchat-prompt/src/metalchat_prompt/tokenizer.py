"""A tokenizer.json, loaded defensively: text to token ids and back."""

import base64
import binascii
import json
import re
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from metalchat_prompt import _panics
from metalchat_prompt._control import ControlTokens
from metalchat_prompt._files import parse_object
from metalchat_prompt._plain import PlainTokenizer, plain_tokenizer
from metalchat_prompt.errors import ConversationRefused, InvalidTokenizer, visible

if TYPE_CHECKING:
    import tokenizers

SIZE_LIMIT = 100 * 2**20

_CUTS = (re.compile(rb'"truncation"\s*:\s*[^\sn0-9]'), re.compile(rb'"padding"\s*:\s*[^\sn0-9]'))
_ESCAPES = re.compile(rb"\\+u")
_LARGE = re.compile(rb":\s*[0-9]{8}")
_MAX_ID = 2**24  # the library writes a vocabulary down with room for all ids below the largest

_T = TypeVar("_T")
# Some parts fail only when they are used.
_PROBE = "Text: 12 words,\n über 東京."
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token that is matched in text before the model of the tokenizer sees it."""

    id: int
    content: str
    special: bool
    normalized: bool

    @property
    def control(self) -> bool:
        """Whether spelling it out in a message would be an injection.

        All special tokens, and those with punctuation in them, such as `<think>`. White space, letters and words that
        were merely added to a vocabulary (Gemma's `\\n\\n`, DeepSeek's `ü`) are ordinary text.
        """
        return self.special or _PUNCTUATION.search(self.content) is not None


class Tokenizer:
    """A tokenizer of the `tokenizers` library. Truncation and padding are never applied; safe to share between threads.

    Everything that the library raises, its panics included, becomes InvalidTokenizer; text that is no Unicode is
    ConversationRefused.
    """

    def __init__(self, data: bytes, *, what: str = "tokenizer.json") -> None:
        if len(data) > SIZE_LIMIT:
            raise InvalidTokenizer(f"'{what}' could not be used: it is larger than {SIZE_LIMIT // 2**20} MiB")
        self._what = what
        data = data.removeprefix(b"\xef\xbb\xbf")
        self._quiet = True
        if _delicate(data):
            data = _harmless(data, what)
        self._library = self._guarded(_load, data)
        parts = self._guarded(_panics.parts, self._library)
        _panics.check_templates(parts, what)
        self.decode(self.encode_document(_PROBE))
        self._quiet = _panics.doubtful(parts)
        found = self._guarded(self._library.get_added_tokens_decoder)
        self.added: tuple[AddedToken, ...] = tuple(
            AddedToken(id=index, content=token.content, special=token.special, normalized=token.normalized)
            for index, token in sorted(found.items())
        )
        self.special_ids: frozenset[int] = frozenset(token.id for token in self.added if token.special)
        self._by_content = {token.content: token for token in self.added}
        self.control = self._control(token for token in self.added if token.control)
        self.control_special = self._control(token for token in self.added if token.special)
        self._plain: PlainTokenizer | None = None
        self._lock = threading.Lock()

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included."""
        return self._guarded(self._library.get_vocab_size)

    def id(self, token: str) -> int | None:
        """The id of exactly this token."""
        return self._guarded(self._library.token_to_id, token)

    def token(self, index: int) -> str | None:
        """The token of an id, as the vocabulary spells it."""
        if not 0 <= index < 2**32:
            return None
        return self._guarded(self._library.id_to_token, index)

    def added_token(self, content: str) -> AddedToken | None:
        """The added token that is spelt `content`."""
        return self._by_content.get(content)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of `text`; nothing is put before or after it.

        With `special`, control tokens spelt out in the text are recognised; otherwise text is only text.
        """
        if special or not self.control.found(text):
            return self._encoding(self._library, text).ids
        return self.encode_pieces([text])

    def encode_document(self, text: str) -> list[int]:
        """The ids of `text` with what the tokenizer's post-processing adds; control tokens are recognised."""
        return self._encoding(self._library, text, document=True).ids

    def encode_pieces(self, pieces: Sequence["str | AddedToken"]) -> list[int]:
        """The ids of one text, of which only the given tokens are control tokens, whatever the strings spell out."""
        plain = self._plain_tokenizer()
        text = "".join(piece if isinstance(piece, str) else plain.sentinels[piece.id] for piece in pieces)
        return [plain.ids.get(index, index) for index in self._encoding(plain.library, text).ids]

    def control_spans(self, text: str) -> list[tuple[int, int, AddedToken]]:
        """Where the tokenizer itself sees a control token in `text`: start, end and token, in order."""
        encoding = self._encoding(self._library, text)
        by_id = {token.id: token for token in self.added if token.control}
        spans = []
        for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            token = by_id.get(index)
            # The model may give such an id as well, as that of what it does not know: that is no match.
            if token is not None and self._spells(text[start:end], token):
                spans.append((start, end, token))
        return spans

    def normalize(self, text: str) -> str:
        """`text` as the tokenizer's normaliser leaves it."""
        normalizer = self._library.normalizer
        return text if normalizer is None else self._guarded(normalizer.normalize_str, text)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; ids outside the vocabulary are left out."""
        known = [index for index in ids if 0 <= index < 2**32]
        if not known:
            return ""  # some decoders of the library panic at nothing
        return self._guarded(self._library.decode, known, skip_special_tokens=skip_special)

    def to_json(self) -> str:
        """The tokenizer as a tokenizer.json, with neither truncation nor padding."""
        return self._guarded(self._library.to_str)

    @property
    def decoder(self) -> dict[str, Any] | None:
        """The description of the decoder, as tokenizer.json has it; None if tokens are joined by spaces."""
        decoder = self._library.decoder
        return None if decoder is None else json.loads(self._guarded(decoder.__getstate__))

    def _encoding(self, library: "tokenizers.Tokenizer", text: str, *, document: bool = False) -> "tokenizers.Encoding":
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConversationRefused("the text has half a surrogate pair in it, which is no character") from error
        return self._guarded(library.encode, text, add_special_tokens=document)

    def _control(self, tokens: Iterable[AddedToken]) -> ControlTokens:
        tokens = tuple(tokens)
        normalized = [token.content for token in tokens if token.normalized] if self._library.normalizer else []
        contents = [token.content for token in tokens]
        return ControlTokens(contents, normalized=normalized, normalize=self.normalize)

    def _spells(self, text: str, token: AddedToken) -> bool:
        if token.content in text:
            return True
        return token.normalized and self.normalize(token.content).lstrip("▁ ") in self.normalize(text)

    def _plain_tokenizer(self) -> PlainTokenizer:
        with self._lock:
            if self._plain is None:
                self._plain = self._guarded(plain_tokenizer, self._library, self.added)
            return self._plain

    def _guarded(self, call: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        try:
            return _panics.quietly(call, *args, **kwargs) if self._quiet else call(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            reason = visible(str(error)) or type(error).__name__
            raise InvalidTokenizer(f"'{self._what}' could not be used: {reason}") from error


def _load(data: bytes) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer as Library

    library = Library.from_buffer(data)
    library.no_truncation()
    library.no_padding()
    return library


def _delicate(data: bytes) -> bool:
    """Whether truncation, padding, a precompiled map or a very large number is set, or might be hidden by an escape.

    The library checks JSON itself, and takes half a second for a large vocabulary; reading all of it here as well would
    take as long again. A key with a number is a token of the vocabulary.
    """
    return (
        b"recompiled" in data
        or _LARGE.search(data) is not None
        or any(cut.search(data) for cut in _CUTS)
        or any(len(found[0]) % 2 == 0 for found in _ESCAPES.finditer(data))
    )


def _harmless(data: bytes, what: str) -> bytes:
    """The file without truncation and padding. Raises InvalidTokenizer for what would abort the process."""
    document = parse_object(data, what)
    _check_charsmaps(document.get("normalizer"), what)
    _check_ids(document.get("model"), what)
    document["truncation"] = document["padding"] = None
    return json.dumps(document, ensure_ascii=False).encode()


def _check_ids(model: object, what: str) -> None:
    """Refuses a token whose id leaves room for more tokens than memory has."""
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    for token, index in vocabulary.items() if isinstance(vocabulary, dict) else ():
        if isinstance(index, int) and index > _MAX_ID:
            raise InvalidTokenizer(
                f"'{what}' could not be used: the token '{visible(token)}' has an id above {_MAX_ID}"
            )


def _check_charsmaps(normalizer: object, what: str) -> None:
    """Refuses a precompiled map whose table is said to be longer than it is: the library would abort the process."""
    if not isinstance(normalizer, dict):
        return
    inner = normalizer.get("normalizers")
    for part in inner if isinstance(inner, list) else ():
        _check_charsmaps(part, what)
    charsmap = normalizer.get("precompiled_charsmap")
    if not charsmap:
        return
    try:
        table = base64.b64decode(charsmap, validate=True)
        size = struct.unpack("<I", table[:4])[0]
    except (TypeError, ValueError, binascii.Error, struct.error) as error:
        raise InvalidTokenizer(f"'{what}' could not be used: 'precompiled_charsmap' is not valid") from error
    if size > len(table) - 4 or size % 4:
        raise InvalidTokenizer(f"'{what}' could not be used: 'precompiled_charsmap' is cut short")
