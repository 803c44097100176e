"""F-4 and F-5: what a hostile chat template can do, which is nothing but fail."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metalchat_prompt import (
    ChatTemplate,
    ConversationRefused,
    InvalidTemplate,
    Limits,
    PromptError,
    TemplateRefused,
    TemplateTimeout,
    TemplateTooLong,
)
from metalchat_prompt import _process as process_module
from metalchat_prompt._process import TemplateProcess, resident

REFUSED = "the model's chat template was refused: it uses something that is not allowed"

ESCAPES = """\
{{ ''.__class__.__mro__[1].__subclasses__() }}
{{ ''.__class__ }}
{{ ().__class__.__bases__[0].__subclasses__() }}
{{ [].__class__.__base__.__subclasses__()[59]('CANARY', 'w') }}
{{ {}.__class__.__init__.__globals__ }}
{{ (1).__class__ }}
{{ ''['__class__'] }}
{{ ''['__cl' ~ 'ass__'] }}
{{ ''|attr('__class__') }}
{{ ''|attr('__cl' ~ 'ass__')|attr('__mro__') }}
{{ ()|attr('\\x5f\\x5fclass\\x5f\\x5f') }}
{{ [''] | map(attribute='__class__') | list }}
{{ ['']|groupby('__class__')|list }}
{{ [{'a': 1}]|sum(attribute='__class__') }}
{{ ['']|map('attr', '__class__')|list }}
{{ ['']|selectattr('__class__')|list }}
{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}
{{ lipsum.__globals__ }}
{{ lipsum|attr('__globals__') }}
{{ lipsum(n=100000) }}
{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}
{{ cycler('a', 'b').__init__.__globals__ }}
{{ joiner.__init__.__globals__.os.popen('touch CANARY').read() }}
{{ joiner(', ') }}
{{ namespace.__init__.__globals__ }}
{{ namespace.__class__ }}
{% set ns = namespace() %}{{ ns.__class__ }}
{% set ns = namespace(__class__='x') %}
{% set ns = namespace() %}{% set ns.__class__ = 'x' %}
{% set ns = namespace({'_x': 1}) %}
{{ dict.__class__.__mro__ }}
{{ dict.__globals__ }}
{{ range.__class__ }}
{{ range.__globals__['__builtins__'] }}
{{ self.__init__.__globals__ }}
{{ self._TemplateReference__context }}
{{ self.__dict__ }}
{{ raise_exception.__globals__ }}
{{ strftime_now.__globals__['os'] }}
{{ strftime_now.__code__ }}
{{ '{0.__class__}'.format(1) }}
{{ '{0.__class__.__mro__}'.format('') }}
{{ '{x.__init__.__globals__}'.format_map({'x': namespace}) }}
{{ ('{0.__class__}'|attr('format'))(1) }}
{% set f = '{0.__class__.__init__}'.format %}{{ f(1) }}
{{ ['{0.__class__}'.format]|map('string')|list }}{{ ''.format.__self__.__class__ }}
{% include '/etc/passwd' %}
{% include ['a', 'b'] ignore missing %}
{% import 'os' as os %}{{ os.system('touch CANARY') }}
{% from 'os' import system %}
{% extends '/etc/passwd' %}
{{ messages.append(1) }}
{{ messages[0].update({'x': 1}) }}
{{ messages.__class__ }}
{{ config.__class__.__init__.__globals__ }}
{{ request.application.__globals__ }}
{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}
{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}
{% for x in [1] %}{{ loop.__class__ }}{% endfor %}
{{ tojson.__globals__ }}{{ ''.join.__self__ }}
{% if false %}{{ ''.__class__ }}{% endif %}
""".splitlines()

RUNAWAYS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a format of a gigabyte": "{{ '{:>1000000000}'.format('a') }}",
    "a product of a gigabyte": "{{ 'a' * 1000000000 }}",
    "doubling": "{% set n = namespace(t='aa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
    "much output": "{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}",
    "indentation": "{{ ('a\\n' * 100000) | indent(10000) }}",
    "a huge power": "{{ 7 ** (10 ** 8) }}",
}

FAILURES = {
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ 'a' + 1 }}": "TypeError",
    "{{ nothing.there }}": "UndefinedError",
    "{% for i in range(1000000) %}{% endfor %}": "OverflowError",
    "{% if %}": "TemplateSyntaxError",
    "{{ " + "(" * 5000 + ")" * 5000 + " }}": "RecursionError",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "RecursionError",
    "{{ '%d' % 'x' }}": "TypeError",
    "{{ [1]|tojson(indent={}) }}{{ undefined|tojson }}": "TypeError",
    "{{ 'x'|no_such_filter }}": "TemplateAssertionError",
}


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    made = TemplateProcess(Limits(seconds=20.0))
    yield made
    made.close()


@pytest.mark.parametrize("payload", ESCAPES)
def test_f4_a_template_that_reaches_out_of_the_sandbox_is_refused(
    payload: str, process: TemplateProcess, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(TemplateRefused) as caught:
        process.render(payload.replace("CANARY", str(canary)), {"messages": [{"role": "user", "content": "hi"}]})
    assert str(caught.value) == REFUSED
    assert caught.value.exit_code == 6
    assert not canary.exists()


def test_f4_has_52_payloads_or_more() -> None:
    assert len(set(ESCAPES)) >= 52


@pytest.mark.parametrize("name", RUNAWAYS)
def test_f5_a_runaway_template_ends_in_time_and_the_next_one_works(name: str) -> None:
    process = TemplateProcess(Limits(seconds=0.3, memory=256 * 2**20))
    started = time.monotonic()
    try:
        with pytest.raises((TemplateTimeout, TemplateTooLong)) as caught:
            process.render(RUNAWAYS[name], {})
        assert time.monotonic() - started < 3
        assert "took too long (more than 0.3 s)" in str(caught.value) or " MiB" in str(caught.value)
        process.limits = Limits(seconds=20.0)
        assert process.render("{{ x }}", {"x": "still here"}) == "still here"
    finally:
        process.close()


def test_f5_the_deadline_is_two_seconds_unless_told_otherwise() -> None:
    process = TemplateProcess()
    try:
        assert process.render("a", {}) == "a"
        started = time.monotonic()
        with pytest.raises(TemplateTimeout, match=r"^the model's chat template took too long \(more than 2 s\)$"):
            process.render(RUNAWAYS["nested loops"], {})
        assert time.monotonic() - started < 3.5
    finally:
        process.close()


def test_f5_output_is_counted_in_bytes(process: TemplateProcess) -> None:
    context = {"x": "é" * (2 * 2**20)}
    assert process.render("{{ x }}", context) == context["x"]
    with pytest.raises(TemplateTooLong, match=r"^the model's chat template produced more than 4 MiB$"):
        process.render("{{ x }}a", context)


@pytest.mark.parametrize("template", FAILURES)
def test_whatever_a_template_raises_is_one_error_of_one_line(template: str, process: TemplateProcess) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        process.render(template, {})
    assert str(caught.value).startswith(f"the model's chat template could not be rendered: {FAILURES[template]}")
    assert "\n" not in str(caught.value)


def test_the_message_of_raise_exception_is_shown_and_filtered(process: TemplateProcess) -> None:
    with pytest.raises(ConversationRefused) as caught:
        process.render("{{ raise_exception('roles\\x1b[31m must\\nalternate\u202e' ~ 'x' * 9999) }}", {})
    assert str(caught.value).startswith(
        "the model's chat template does not accept the conversation: roles\\x1b[31m must alternate\\x202exxx"
    )
    assert len(str(caught.value)) < 500
    assert caught.value.exit_code == 2


def test_secrets_of_the_environment_do_not_reach_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("TZ", "UTC")
    seen: dict[str, Any] = {}
    real = process_module.subprocess.Popen

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.update(kwargs["env"])
        return real(*args, **kwargs)

    monkeypatch.setattr(process_module.subprocess, "Popen", spy)
    process = TemplateProcess()
    assert process.render("ok", {}) == "ok"
    environ = Path(f"/proc/{process.pid}/environ")
    if environ.exists():
        assert b"hf_canary" not in environ.read_bytes()
    process.close()
    assert seen["TZ"] == "UTC"
    assert "hf_canary" not in seen.values()


def test_a_process_that_died_while_idle_is_replaced(process: TemplateProcess) -> None:
    assert process.render("a", {}) == "a"
    killed = process.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert process.render("b", {}) == "b"
    assert process.pid != killed


def test_a_process_that_cannot_start_is_an_error_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(PromptError, match="did not start"):
        TemplateProcess().render("a", {})


def test_a_process_that_never_gets_ready_is_an_error_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("cat"))
    monkeypatch.setattr(process_module, "_BOOT_SECONDS", 0.0)
    with pytest.raises(PromptError, match="did not start in time"):
        TemplateProcess().render("a", {})


def test_a_process_that_dies_at_every_start_is_an_error_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    with pytest.raises(InvalidTemplate, match="died"):
        TemplateProcess().render("a", {})


def test_a_process_that_answers_nonsense_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number, frame in enumerate((r"\000\000\000\002[]", r"\000\000\000\003abc", r"\377\377\377\377")):
        program = tmp_path / f"python{number}"
        program.write_text(f"#!/bin/sh\nprintf '{frame}'\nexec sleep 5\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises((InvalidTemplate, TemplateTooLong)):
            TemplateProcess().render("a", {})


def test_memory_is_watched_where_the_system_sets_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    process = TemplateProcess(Limits(seconds=5.0))
    assert process.render("a", {}) == "a"
    monkeypatch.setattr(process_module.sys, "platform", "darwin")
    monkeypatch.setattr(process_module, "resident", lambda pid: 2**40)
    with pytest.raises(TemplateTooLong, match="needed more than 512 MiB of memory"):
        process.render(RUNAWAYS["nested loops"], {})
    assert process.pid is None


def test_resident_memory_is_told_for_a_living_process() -> None:
    assert resident(os.getpid()) > 2**20
    assert resident(2**30) == 0


def test_many_threads_get_each_its_own_answer(process: TemplateProcess) -> None:
    answers: dict[int, str] = {}

    def work(number: int) -> None:
        for _ in range(20):
            answers[number] = process.render("{{ x }}{{ x }}", {"x": str(number) * 1000})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: str(number) * 2000 for number in range(8)}


def test_a_large_conversation_passes_through_the_pipe(process: TemplateProcess) -> None:
    messages = [{"role": "user", "content": "word " * 100} for _ in range(5000)]
    assert len(process.render("{{ messages | length }}", {"messages": messages})) == 4


def test_close_ends_the_process_and_a_later_rendering_starts_another() -> None:
    template = ChatTemplate("{{ messages | length }}")
    template.warm()
    first = template._process.pid
    assert first is not None
    template.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert template.render([{"role": "user", "content": "x"}]) == "1"
    second = template._process.pid
    del template
    assert second is not None
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_an_interrupted_rendering_leaves_no_answer_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    process = TemplateProcess()
    assert process.render("a", {}) == "a"
    with monkeypatch.context() as patched:

        def interrupt(*_: Any) -> Any:
            raise KeyboardInterrupt

        patched.setattr(process_module._Child, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            process.render("b", {})
    assert process.render("c", {}) == "c"
    process.close()


def test_a_conversation_that_is_no_json_is_refused(process: TemplateProcess) -> None:
    with pytest.raises(ConversationRefused, match="cannot be written as JSON"):
        process.render("a", {"x": object()})
    with pytest.raises(ConversationRefused, match="cannot be written as JSON"):
        process.render("a", {"x": "\ud800"})
