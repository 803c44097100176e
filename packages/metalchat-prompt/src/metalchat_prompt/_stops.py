"""The tokens that end a model's turn."""

from collections.abc import Iterable

from metalchat_prompt.tokenizer import Tokenizer

_TURN_ENDS = (
    "</s>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|eot|>",
    "<|eom|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<turn|>",
    "<eos>",
    "<|end|>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
)


def stop_ids(tokenizer: Tokenizer, named: Iterable[str]) -> frozenset[int]:
    """The ids of the tokens in `named` and of the ends of turn known by name, as far as they are added tokens.

    In the harmony format (`<|channel|>`) `<|end|>` ends one message of several in a turn, so it does not stop there.
    """
    ends = {*named, *_TURN_ENDS}
    if tokenizer.added_token("<|return|>") and tokenizer.added_token("<|channel|>"):
        ends.discard("<|end|>")
    found = (tokenizer.added_token(content) for content in ends)
    return frozenset(token.id for token in found if token is not None)
