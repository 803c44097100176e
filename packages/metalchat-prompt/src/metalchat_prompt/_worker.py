"""The program of the child process that renders chat templates; it imports jinja2 and nothing of this package.

Started as `python -I -S _worker.py JSON`, where JSON holds `path` (folders to import jinja2 from) and the limits
`output` (bytes), `memory` (bytes) and `cpu` (seconds a request). Frames on both pipes are a length of four bytes,
big-endian, and that much JSON. Its first frame says that it is ready. A request has `template` and `context`; an
answer has `text`, or `error` (refused, raised, invalid, long, memory) and perhaps `message`.
"""

import json
import os
import sys
from typing import Any

settings = json.loads(sys.argv[1])
sys.path.extend(settings["path"])

import datetime  # noqa: E402 - the path comes first
import resource  # noqa: E402 - the path comes first

from jinja2 import nodes  # noqa: E402 - it is found on that path
from jinja2.exceptions import SecurityError, TemplateError  # noqa: E402 - it is found on that path
from jinja2.ext import Extension, loopcontrols  # noqa: E402 - it is found on that path
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402 - it is found on that path
from jinja2.utils import Namespace  # noqa: E402 - it is found on that path

REMOVED = ("lipsum", "cycler", "joiner")
CACHED = 8


class RaisedError(TemplateError):
    """The template called raise_exception."""


class TooLongError(Exception):
    """The output passed its limit."""


class Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares the attribute so

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which reaching for an attribute that starts with `_` ends the rendering at once."""

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def unsafe_undefined(self, obj: object, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise SecurityError(attribute)
        return super().unsafe_undefined(obj, attribute)


class PlainNamespace(Namespace):
    """A namespace that holds no name starting with `_`."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            check_name(name)
        Namespace.__init__(args[0], values)

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def __setitem__(self, name: str, value: object) -> None:
        check_name(name)
        super().__setitem__(name, value)


def check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(name)


def raise_exception(message: object) -> None:
    raise RaisedError(str(message))


def strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def environment() -> Environment:
    made = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    for name in REMOVED:
        del made.globals[name]
    names: dict[str, Any] = {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": make_dict,
        "namespace": PlainNamespace,
    }
    made.globals.update(names)
    return made


def compile_template(made: Environment, source: str) -> Any:
    """Refuses before anything runs what no chat template needs: other templates, and Python's own machinery."""
    tree = made.parse(source)
    if next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None) is not None:
        raise SecurityError("another template")
    names = list(tree.find_all(nodes.Name))
    own = {node.name for node in names if node.ctx != "load"}
    if any(node.name in REMOVED and node.name not in own for node in names):
        raise SecurityError("a function of jinja2 that chat templates do not have")
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = node.attr if isinstance(node, nodes.Getattr) else node.arg
        if isinstance(name, nodes.Const):
            name = name.value
        if isinstance(name, str) and name.startswith("__"):
            raise SecurityError(name)
    return made.from_string(tree)


def render(made: Environment, compiled: dict[str, Any], request: dict[str, Any], limit: int) -> str:
    source = request["template"]
    template = compiled.pop(source, None) or compile_template(made, source)
    compiled[source] = template
    if len(compiled) > CACHED:
        del compiled[next(iter(compiled))]
    pieces = []
    length = 0
    for piece in template.generate(request["context"]):
        length += len(piece)
        if length > limit:
            raise TooLongError
        pieces.append(piece)
    return "".join(pieces)


def answer(made: Environment, compiled: dict[str, Any], request: dict[str, Any], limit: int) -> bytes:
    try:
        text = render(made, compiled, request, limit)
        if len(text.encode()) > limit:
            raise TooLongError
        return json.dumps({"text": text}, ensure_ascii=False).encode()
    except SecurityError:
        failure = {"error": "refused"}
    except RaisedError as error:
        failure = {"error": "raised", "message": str(error.message)[:1000]}
    except TooLongError:
        failure = {"error": "long"}
    except MemoryError:
        failure = {"error": "memory"}
    except BaseException as error:  # noqa: BLE001 - a template can raise anything, and the process must go on
        failure = {"error": "invalid", "message": f"{type(error).__name__}: {error}"[:1000]}
    return json.dumps(failure).encode()


def limit_self(kind: int, value: int) -> None:
    try:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    except (OSError, ValueError):
        return  # not enforced on this system; the parent's deadline and its look at our memory remain


def receive(count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = os.read(0, count - len(data))
        if not chunk:
            os._exit(0)
        data += chunk
    return bytes(data)


def send(data: bytes) -> None:
    view = memoryview(len(data).to_bytes(4, "big") + data)
    while view:
        view = view[os.write(1, view) :]


def main() -> None:
    limit_self(resource.RLIMIT_CORE, 0)
    limit_self(resource.RLIMIT_FSIZE, 0)
    limit_self(resource.RLIMIT_NOFILE, 16)
    limit_self(resource.RLIMIT_AS, settings["memory"])
    made = environment()
    compiled: dict[str, Any] = {}
    send(b"{}")
    while True:
        request = json.loads(receive(int.from_bytes(receive(4), "big")))
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit_self(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + settings["cpu"]) + 2)
        send(answer(made, compiled, request, settings["output"]))


if __name__ == "__main__":
    main()
