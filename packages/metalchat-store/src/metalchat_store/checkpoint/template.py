"""The conversation format of Llama 3 as a chat template: headers, `<|eot_id|>` after each turn, functions as JSON."""

_TEMPLATE = """\
{{- bos_token }}
{%- set system = none %}
{%- set turns = messages %}
{%- if messages and messages[0].role == "system" %}
    {%- set system = messages[0].content | trim %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- if system is not none or tools %}
    {{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
    {%- if tools %}
        {{- "Environment: ipython\\n\\n" }}
    {%- endif %}
DATES    {{- system or "" }}
    {{- "<|eot_id|>" }}
{%- endif %}
{%- if tools %}
    {{- "<|start_header_id|>user<|end_header_id|>\\n\\n" }}
    {{- "Answer the user's question by making use of the following functions if needed.\\n" }}
    {{- "If none of the function can be used, please say so.\\nHere is a list of functions in JSON format:\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n" }}
    {%- endfor %}
    {{- "\\nReturn function calls in JSON format.<|eot_id|>" }}
{%- endif %}
{%- for message in turns %}
    {%- if message.role in ("tool", "ipython") %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {{- message.content if message.content is string else message.content | tojson }}
        {{- "<|eot_id|>" }}
    {%- elif message.tool_calls is defined and message.tool_calls %}
        {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
        {%- for call in message.tool_calls %}
            {%- set function = call.function if call.function is defined else call %}
            {{- '{"name": ' + (function.name | tojson) + ', "parameters": ' }}
            {{- function.arguments if function.arguments is string else function.arguments | tojson }}
            {{- "}" }}
            {%- if not loop.last %}
                {{- "; " }}
            {%- endif %}
        {%- endfor %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" + message.content | trim + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""

_DATES = """\
    {%- if date_string is defined or strftime_now is defined %}
        {{- "Cutting Knowledge Date: December 2023\\nToday Date: " }}
        {{- date_string if date_string is defined else strftime_now("%d %B %Y") }}
        {{- "\\n\\n" }}
    {%- endif %}
"""


def chat_template(*, dated: bool) -> str:
    """The template. `dated`: a system message begins with dates, as from Llama 3.1 on."""
    return _TEMPLATE.replace("DATES", _DATES if dated else "")
