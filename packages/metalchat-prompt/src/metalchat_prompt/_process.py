"""The child process that renders templates: started, asked, timed, killed and replaced."""

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalchat_prompt.errors import (
    ConversationRefused,
    InvalidTemplate,
    PromptError,
    TemplateRefused,
    TemplateTimeout,
    TemplateTooLong,
    visible,
)

_ENVIRONMENT = ("TZ", "TZDIR", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_BOOT_SECONDS = 30.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one rendering may use: seconds, bytes of UTF-8 that come out, bytes of memory of the process."""

    seconds: float = 2.0
    output: int = 4 * 2**20
    memory: int = 512 * 2**20


class _DiedError(Exception):
    """The process ended before it answered."""


class TemplateProcess:
    """Renders templates in a child process that lives from the first use until `close`, the end of the program, or a
    rendering that breaks a limit; the next rendering then starts another. Threads take turns.
    """

    def __init__(self, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or Limits()
        self._clock = clock
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def start(self) -> None:
        """Starts the process if there is none, and returns without waiting for it."""
        with self._lock:
            self._living()

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        """The rendered text. Raises ConversationRefused if the template calls `raise_exception`, and the errors of
        templates for everything else that goes wrong.
        """
        try:
            request = json.dumps({"template": template, "context": context}, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ConversationRefused(f"the conversation cannot be written as JSON: {visible(str(error))}") from error
        with self._lock:
            for attempt in (1, 2):
                child = self._living()
                try:
                    answer = child.ask(request, self.limits, self._clock)
                except _DiedError as error:
                    self._drop()
                    # A process that died while idle is nobody's fault; one that dies twice is the template's.
                    if attempt == 2:
                        raise InvalidTemplate("the process that renders the model's chat template died") from error
                except BaseException:
                    self._drop()
                    raise
                else:
                    return _text(answer, self.limits)
        raise AssertionError("not reached")

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._drop()

    @property
    def pid(self) -> int | None:
        """The process's id while there is one."""
        child = self._child
        return None if child is None else child.popen.pid

    def _living(self) -> "_Child":
        child = self._child
        if child is not None and child.owner == os.getpid() and child.popen.poll() is None:
            return child
        self._drop()
        self._child = child = _Child(_spawn(self.limits))
        return child

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _Child:
    """One process and its pipes."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self.popen = popen
        self.owner = os.getpid()
        self.end = weakref.finalize(self, _end, popen, self.owner)
        self._ready = False
        assert popen.stdin is not None
        assert popen.stdout is not None
        self._to = popen.stdin.fileno()
        self._from = popen.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def ask(self, request: bytes, limits: Limits, clock: Callable[[], float]) -> dict[str, Any]:
        if not self._ready:
            try:
                self._receive(_Watch(self.popen.pid, clock, _BOOT_SECONDS, limits))
            except TemplateTimeout as error:
                raise PromptError("the process that renders chat templates did not start in time") from error
            self._ready = True
        watch = _Watch(self.popen.pid, clock, limits.seconds, limits)
        view = memoryview(len(request).to_bytes(4, "big") + request)
        while view:
            watch.wait(self._to, writing=True)
            try:
                view = view[os.write(self._to, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise _DiedError from error
        return self._receive(watch)

    def _receive(self, watch: "_Watch") -> dict[str, Any]:
        length = int.from_bytes(self._read(4, watch), "big")
        # JSON escapes a control character as six bytes.
        if length > 6 * watch.limits.output + 4096:
            raise _too_long(watch.limits)
        try:
            answer = json.loads(self._read(length, watch))
        except (ValueError, RecursionError) as error:
            raise _DiedError from error
        if not isinstance(answer, dict):
            raise _DiedError
        return answer

    def _read(self, count: int, watch: "_Watch") -> bytes:
        data = bytearray()
        while len(data) < count:
            watch.wait(self._from, writing=False)
            try:
                chunk = os.read(self._from, count - len(data))
            except BlockingIOError:
                continue
            if not chunk:
                raise _DiedError
            data += chunk
        return bytes(data)


class _Watch:
    """Waits for a pipe until the deadline, looking at the memory of the process where the system sets no limit."""

    def __init__(self, pid: int, clock: Callable[[], float], seconds: float, limits: Limits) -> None:
        self._pid = pid
        self._clock = clock
        self._deadline = clock() + seconds
        self.limits = limits

    def wait(self, descriptor: int, *, writing: bool) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
        while True:
            left = self._deadline - self._clock()
            if left <= 0:
                raise TemplateTimeout(f"the model's chat template took too long (more than {self.limits.seconds:g} s)")
            if poll.poll(1000 * min(left, _LOOK_SECONDS)):
                return
            if sys.platform == "darwin" and resident(self._pid) > self.limits.memory:
                raise _too_much_memory(self.limits)


def resident(pid: int) -> int:
    """The resident memory of a process in bytes, 0 if it cannot be told. macOS does not enforce RLIMIT_AS."""
    try:
        answer = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)],
            capture_output=True,
            check=False,
            timeout=1.0,
            stdin=subprocess.DEVNULL,
        )
        return 1024 * int(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def _spawn(limits: Limits) -> "subprocess.Popen[bytes]":
    settings = {
        "path": [_folder("jinja2"), _folder("markupsafe")],
        "output": limits.output,
        "memory": limits.memory,
        "cpu": limits.seconds,
    }
    program = Path(__file__).with_name("_worker.py")
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # an interrupt typed at the terminal is for the parent
        )
    except OSError as error:
        raise PromptError(f"the process that renders chat templates did not start: {visible(str(error))}") from error


def _folder(name: str) -> str:
    """The folder that a package is imported from, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise PromptError(f"the package '{name}' is not installed")
    return str(Path(spec.origin).parent.parent)


def _end(popen: "subprocess.Popen[bytes]", owner: int) -> None:
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    # After a fork the process belongs to the parent, which still talks to it.
    if os.getpid() == owner:
        popen.kill()
        popen.wait()


def _text(answer: dict[str, Any], limits: Limits) -> str:
    text = answer.get("text")
    if isinstance(text, str):
        return text
    message = visible(str(answer.get("message", "")))
    match answer.get("error"):
        case "raised":
            raise ConversationRefused(f"the model's chat template does not accept the conversation: {message}")
        case "refused":
            raise TemplateRefused("the model's chat template was refused: it uses something that is not allowed")
        case "long":
            raise _too_long(limits)
        case "memory":
            raise _too_much_memory(limits)
    raise InvalidTemplate(f"the model's chat template could not be rendered: {message}")


def _too_long(limits: Limits) -> TemplateTooLong:
    return TemplateTooLong(f"the model's chat template produced more than {_size(limits.output)}")


def _too_much_memory(limits: Limits) -> TemplateTooLong:
    return TemplateTooLong(f"the model's chat template needed more than {_size(limits.memory)} of memory")


def _size(count: int) -> str:
    return f"{count / 2**20:g} MiB"
