"""Writes what `transformers` makes of conversations, for the tests beside it to compare with.

Run by hand with an interpreter that has transformers and tokenizers: `python make.py`. Tokenizers are trained here, and
the templates are this project's own writing of the formats, so nothing of a published model is copied.
"""

import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
CORPUS = (
    "The quick brown fox jumps over the lazy dog. What is the weather in Paris today? It is sunny, 21 degrees.\n"
    "You are a helpful assistant.\n\nPlease answer the user's question; call a function if one of them helps.\n"
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}} '
    '{"type": "function", "parameters": {}}\n'
    "def main():\n    print('hello, world')\n    return 0\n\nüber Straße naïve café 東京 тест\n"
) * 4
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(special, markup):
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([CORPUS], trainer)
    made.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, normalized=False) for token in markup])
    return made


def llama3():
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    made = byte_level([f"<|{name}|>" for name in names], [])
    begin = "<|begin_of_text|>"
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
    )
    return made


def chatml():
    markup = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    return byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], markup)


def sentencepiece(*, metaspace):
    """Llama 2's kind: with the older normaliser, or with the Metaspace pre-tokenizer that marks the first word only."""
    special = ["<unk>", "<s>", "</s>"]
    base = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if metaspace else "always")
    base.train_from_iterator(
        [CORPUS.replace("東京", "")],
        trainers.BpeTrainer(
            vocab_size=480, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
        ),
    )
    document = json.loads(base.to_str())
    document["added_tokens"] = []
    made = Tokenizer.from_str(json.dumps(document))
    if metaspace:
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        made.pre_tokenizer = None
        document = json.loads(made.to_str())
        document["pre_tokenizer"] = None
        made = Tokenizer.from_str(json.dumps(document))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    made.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


LLAMA3_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- set rest = messages %}
{%- set system = "" %}
{%- if messages[0].role == "system" %}
    {%- set system = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: " + date_string + "\\n\\n" + system }}
{%- if tools %}
    {{- "\\n\\nHere are the functions, one JSON schema each:\\n\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "<|eot_id|>" }}
{%- for message in rest %}
    {%- if message.role in ("tool", "ipython") %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif "tool_calls" in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("one call at a time, please") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
        {%- generation %}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + "}" }}
        {{- "<|eot_id|>" }}
        {%- endgeneration %}
    {%- else %}
        {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" + message.content | trim + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""

CHATML_TEMPLATE = """\
{%- macro schema(tool) %}{{ tool | tojson }}{% endmacro %}
{%- set seen = namespace(system=false) %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
        {%- set seen.system = true %}
    {%- endif %}
    {{- '# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' ~ schema(tool) }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nAnswer with <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if loop.first and seen.system %}
        {% continue %}
    {% endif %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n' }}
        {%- if message.reasoning_content and loop.last %}
            {{- '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content.split('</think>')[-1].lstrip('\\n') if message.role == 'assistant' else message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

LLAMA2_TEMPLATE = """\
{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}
    {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
    {% set rest = messages %}
    {% set system = '' %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
    {% endif %}
    {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
    {%- else %}
{{ ' ' + message['content'].strip() + ' ' + eos_token }}
    {%- endif %}
{% endfor %}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city, e.g. <b>Zürich</b> & 'Genève'.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
                "required": ["city"],
            },
        },
    }
]
CALL = {"type": "function", "id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "n": 2}}}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


PLAIN = {
    "one user": [said("user", "What is the weather in Paris today?")],
    "system": [said("system", "You are a helpful assistant."), said("user", "Hello, world!")],
    "turns": [
        said("system", " Be brief.\n"),
        said("user", "  über 東京?\n\nTwo lines\t and  spaces  "),
        said("assistant", "Café 🎉, naïve."),
        said("user", "def main():\n    return 0"),
        said("assistant", ""),
        said("user", "тест é"),
    ],
    "short": [said("user", "a"), said("assistant", "user"), said("user", "im")],
    "brackets": [said("user", "a < b"), said("assistant", "b > a <"), said("user", "|> or <|? <s ><x>")],
    "answered": [said("user", "Hi"), said("assistant", "Hello.")],
}
WITH_TOOLS = {
    "tools": [said("system", "Call functions."), said("user", "Weather in Zürich?")],
    "call and result": [
        said("user", "Weather in Zürich?"),
        said("assistant", "", tool_calls=[CALL]),
        said("tool", '{"degrees": 21, "sky": "sunny"}', tool_call_id="c1", name="get_weather"),
    ],
}
REASONING = {
    "reasoning": [
        said("user", "Hi"),
        said("assistant", "<think>\nold thought\n</think>\n\nHello."),
        said("user", "And?"),
        said("assistant", "So.", reasoning_content="new thought"),
    ]
}
MODELS = {
    "llama3": (llama3, LLAMA3_TEMPLATE, "<|begin_of_text|>", "<|eot_id|>", PLAIN | WITH_TOOLS),
    "chatml": (chatml, CHATML_TEMPLATE, None, "<|im_end|>", PLAIN | WITH_TOOLS | REASONING),
    "llama2": (lambda: sentencepiece(metaspace=False), LLAMA2_TEMPLATE, "<s>", "</s>", PLAIN),
    "llama2-metaspace": (lambda: sentencepiece(metaspace=True), LLAMA2_TEMPLATE, "<s>", "</s>", PLAIN),
}
TEXTS = ["This is a test.", " leading", "a\n\nb", "東京 🎉", "", "x  y"]


def cases(tokenizer, conversations):
    for name, messages in conversations.items():
        for generation_prompt in (True, False):
            for variables in ({}, {"date_string": "1 Jan 2030"}, {"enable_thinking": False}):
                for tools in (None, TOOLS) if name in WITH_TOOLS else (None,):
                    options = {"tools": tools, "add_generation_prompt": generation_prompt, **variables}
                    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
                    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
                    yield {
                        "name": name,
                        "messages": messages,
                        "tools": tools,
                        "generation_prompt": generation_prompt,
                        "variables": variables,
                        "text": text,
                        "ids": ids,
                    }


def distinct(found):
    """The cases, without those that a variable changes nothing about."""
    kept = {}
    for case in found:
        kept.setdefault((case["name"], case["generation_prompt"], case["tools"] is None, case["text"]), case)
    return list(kept.values())


def main():
    for name, (make, template, bos, eos, conversations) in MODELS.items():
        library = make()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=library, bos_token=bos, eos_token=eos, chat_template=template
        )
        written = {
            "transformers": transformers.__version__,
            "bos_token": bos,
            "eos_token": eos,
            "chat_template": template,
            "texts": [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS],
            "cases": distinct(cases(tokenizer, conversations)),
        }
        (HERE / f"{name}.tokenizer.json").write_text(json.dumps(json.loads(library.to_str()), ensure_ascii=False))
        (HERE / f"{name}.json").write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
