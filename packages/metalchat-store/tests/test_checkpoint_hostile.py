"""F-1: a checkpoint is data. Whatever a pickle asks for, nothing is run and the error is one line."""

import io
import json
import pickle
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from metalchat_store import NotAModel, UntrustedData
from metalchat_store.checkpoint import unpickler
from metalchat_store.checkpoint.model import Traits, members
from metalchat_store.checkpoint.tensors import read_tensors

pytestmark = pytest.mark.timeout(60)  # nothing here may take long; without its limits some of it would take hours

META = Path(__file__).parent / "golden" / "meta"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
EMPTY = b"ccollections\nOrderedDict\n)R"


def named(value: bytes, name: bytes = b"X\x01\x00\x00\x00w") -> bytes:
    """A pickle of a dictionary with one entry."""
    return b"\x80\x02}" + name + value + b"s."


def tensor(
    storage: bytes = STORAGE,
    offset: bytes = b"K\x00",
    shape: bytes = b"K\x04\x85",
    stride: bytes = b"K\x01\x85",
    hooks: bytes = EMPTY,
) -> bytes:
    return REBUILD + b"(" + storage + offset + shape + stride + b"\x89" + hooks + b"tR"


def zipped(index: bytes, data: Mapping[str, bytes] | None = None, root: str = "archive") -> bytes:
    """What torch.save writes around an index."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{root}/data.pkl", index)
        for name, content in ({"data/0": bytes(16)} if data is None else data).items():
            file.writestr(f"{root}/{name}", content)
    return written.getvalue()


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


CANARY = "touch canary"
_events: list[str] = []
_watching = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    watched = ("pickle.find_class", "os.system", "subprocess.Popen", "exec", "os.posix_spawn", "compile", "import")
    if _watching and event in watched:
        _events.append(f"{event} {arguments[:1]!r}")


sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[list[str]]:
    """What the interpreter is asked to run meanwhile."""
    global _watching
    _events.clear()
    _watching = True
    try:
        yield _events
    finally:
        _watching = False


def read(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    return read_tensors(path, "consolidated.00.pth")


def refused(path: Path, content: bytes) -> str:
    """The one line with which a file is refused; nothing ran."""
    path.write_bytes(content)
    with watched() as events, pytest.raises(UntrustedData) as caught:
        read_tensors(path, "consolidated.00.pth")
    assert events == []
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 300
    assert caught.value.exit_code == 6
    return line


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "checkpoint.pth"
    assert not (tmp_path / "canary").exists()


def test_a_small_tensor_is_read(path: Path) -> None:
    found = read(path, zipped(named(tensor())))
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {"w": ("F32", (4,))}


def commands() -> dict[str, object]:
    import os
    import subprocess

    call = Runs(os.system, CANARY)
    nested: object = call
    for _ in range(20):
        nested = {"inner": [nested]}
    return {
        "system": call,
        "in a dictionary": {"w": call},
        "as a key": {(call,): 1},
        "in an ordered dictionary": OrderedDict(w=call),
        "nested": nested,
        "eval": Runs(eval, "__import__('os').system('touch canary')"),
        "exec": Runs(exec, "open('canary', 'w')"),
        "open": Runs(open, "canary", "w"),
        "getattr": Runs(getattr, (), "count"),
        "import": Runs(__import__, "this"),
        "popen": Runs(subprocess.Popen, ["touch", "canary"]),
        "bytearray": Runs(bytearray, 1 << 20),
        "class": Runs,
        "exception": ValueError("x"),
        "set": {1, 2},
        "bytes": b"x",
        "complex": 1j,
        "path": Path("x"),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", sorted(commands()))
def test_what_a_pickle_wants_to_call_is_not_called(name: str, protocol: int, path: Path) -> None:
    refused(path, zipped(pickle.dumps(commands()[name], protocol)))


GLOBALS = (
    b"os system|posix system|builtins eval|builtins getattr|builtins __import__|subprocess Popen|torch load|"
    b"torch _utils._rebuild_tensor_v2|torch._utils _rebuild_tensor|torch._utils _rebuild_parameter|"
    b"torch._utils _rebuild_tensor_v2.__globals__|torch._utils _rebuild_device_tensor_from_numpy|torch FloatTensor|"
    b"torch.storage _load_from_bytes|torch.jit load|torch.hub load|torch Size|torch device|torch.nn Linear|"
    b"collections OrderedDict.fromkeys|collections defaultdict|collections.abc OrderedDict|numpy.core.multiarray "
    b"_reconstruct|numpy dtype|__builtin__ file|copyreg _reconstructor|copyreg add_extension|functools partial|"
    b"runpy _run_code|importlib import_module|sys exit|pip main|webbrowser open|ctypes CDLL|pickle loads|"
    b"torch._tensor _rebuild_from_type_v2|torch FloatStorage.__init__|torch floatStorage| FloatStorage|torch "
).split(b"|")


@pytest.mark.parametrize("words", GLOBALS, ids=bytes.decode)
@pytest.mark.parametrize("way", ["line", "stack"])
def test_no_other_name_is_known(words: bytes, way: str, path: Path) -> None:
    module, _, name = words.partition(b" ")
    lookup = b"c" + module + b"\n" + name + b"\n"
    if way == "stack":
        lookup = b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"
    line = refused(path, zipped(named(lookup + b")R")))
    assert "which can run code and is not done" in line


ALLOWED = frozenset(code[0] for code in unpickler._ACTIONS) | {ord(".")}


@pytest.mark.parametrize("code", sorted(set(range(256)) - ALLOWED))
def test_no_other_instruction_is_known(code: int, path: Path) -> None:
    line = refused(path, zipped(b"\x80\x02}" + bytes([code]) + b"\x00" * 16 + b"."))
    assert f"the instruction 0x{code:02x}, which no tensor needs" in line


HUGE = b"\x8a\x07" + b"\xff" * 6 + b"\x0f"
BAD_INDEXES = {
    "empty": b"",
    "no version": b"}.",
    "version 0": b"\x80\x00}.",
    "version 6": b"\x80\x06}.",
    "no end": b"\x80\x02}",
    "trailing": b"\x80\x02}..",
    "two values": b"\x80\x02}}.",
    "no value": b"\x80\x02.",
    "a list": b"\x80\x02].",
    "a number": b"\x80\x02K\x01.",
    "a tensor alone": b"\x80\x02" + tensor() + b".",
    "a storage alone": b"\x80\x02" + STORAGE + b".",
    "a name alone": b"\x80\x02ccollections\nOrderedDict\n.",
    "a mark": b"\x80\x02(.",
    "pop a mark": b"\x80\x02(\x85.",
    "pop nothing": b"\x80\x02\x87.",
    "no mark": b"\x80\x02}u.",
    "memo of nothing": b"\x80\x02q\x00}.",
    "memo of a mark": b"\x80\x02(q\x00}.",
    "unknown memo": b"\x80\x02h\x07.",
    "unknown long memo": b"\x80\x02j\xff\xff\xff\xff.",
    "frame beyond": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff}.",
    "text beyond": b"\x80\x02X\xff\xff\xff\xffabc.",
    "text cut": b"\x80\x02X\x08\x00\x00\x00abc.",
    "text not UTF-8": named(tensor(), b"X\x01\x00\x00\x00\xff"),
    "long number": b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".",
    "name without end": b"\x80\x02c" + b"a" * 5000,
    "odd items": b"\x80\x02}(K\x01u.",
    "items of a list": b"\x80\x02](K\x01K\x02u.",
    "items of nothing": b"\x80\x02(K\x01K\x02u.",
    "append to a dictionary": b"\x80\x02}K\x01a.",
    "append to nothing": b"\x80\x02K\x01a.",
    "a list as key": b"\x80\x02}]K\x01s.",
    "a tuple as key": b"\x80\x02}K\x01\x85K\x01s.",
    "a tensor as key": b"\x80\x02}" + tensor() + b"K\x01s.",
    "truth as key": b"\x80\x02}\x88K\x01s.",
    "a number as name": named(tensor(), b"K\x01"),
    "an empty name": named(tensor(), b"X\x00\x00\x00\x00"),
    "an escape in a name": named(tensor(), b"X\x04\x00\x00\x00\x1b[2J"),
    "a line break in a name": named(tensor(), b"X\x03\x00\x00\x00a\nb"),
    "a long name": named(tensor(), b"X\xff\x0f\x00\x00" + b"a" * 4095),
    "the same name twice": b"\x80\x02}(" + (b"X\x01\x00\x00\x00w" + tensor()) * 2 + b"u.",
    "within itself": b"\x80\x02}q\x00X\x01\x00\x00\x00wh\x00s.",
    "a list within itself": b"\x80\x02}X\x01\x00\x00\x00w]q\x00h\x00as.",
    "state of a list": b"\x80\x02]}b.",
    "state of nothing": b"\x80\x02}b.",
    "state of a tensor": named(tensor() + b"}b"),
    "state that is no dictionary": b"\x80\x02}K\x01b.",
    "a call of a number": named(b"K\x01)R"),
    "a call of a dictionary": named(b"})R"),
    "a call of a tensor": named(tensor() + b")R"),
    "a call without arguments": named(REBUILD + b")R"),
    "a call with a list": named(REBUILD + b"]R"),
    "a call of a storage type": named(b"ctorch\nFloatStorage\n(K\x04tR"),
    "an ordered dictionary of something": named(b"ccollections\nOrderedDict\n]\x85R"),
    "five arguments": named(REBUILD + b"(" + STORAGE + b"K\x00)))tR"),
    "eight arguments": named(REBUILD + b"(" + STORAGE + b"K\x00))\x89}}}tR"),
    "no storage": named(tensor(b"N")),
    "a name for a storage": named(tensor(b"ctorch\nFloatStorage\n")),
    "a reference to a number": named(tensor(b"K\x01Q")),
    "a reference to a list": named(tensor(b"]Q")),
    "a reference of four": named(tensor(STORAGE.replace(b"K\x04tQ", b"tQ"))),
    "a reference to a module": named(tensor(STORAGE.replace(b"storage", b"modules"))),
    "an ordered dictionary as type": named(tensor(STORAGE.replace(b"ctorch\nFloatStorage\n", EMPTY[:-2]))),
    "another key": named(tensor(STORAGE.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"))),
    "a key that climbs": named(tensor(STORAGE.replace(b"X\x01\x00\x00\x000", b"X\x05\x00\x00\x00../.."))),
    "a number as key of a storage": named(tensor(STORAGE.replace(b"X\x01\x00\x00\x000", b"K\x00"))),
    "too few values": named(tensor(STORAGE.replace(b"K\x04tQ", b"K\x03tQ"))),
    "too many values": named(tensor(STORAGE.replace(b"K\x04tQ", HUGE + b"tQ"))),
    "fewer than none": named(tensor(STORAGE.replace(b"K\x04tQ", b"J\xff\xff\xff\xfftQ"))),
    "truth as count": named(tensor(STORAGE.replace(b"K\x04tQ", b"\x88tQ"))),
    "another dtype": named(tensor(STORAGE.replace(b"Float", b"Half"))),
    "an offset below": named(tensor(offset=b"J\xff\xff\xff\xff")),
    "an offset beyond": named(tensor(offset=b"K\x01")),
    "an offset far beyond": named(tensor(offset=HUGE)),
    "truth as offset": named(tensor(offset=b"\x89")),
    "a shape beyond": named(tensor(shape=b"K\x05\x85")),
    "a huge shape": named(tensor(shape=HUGE + b"\x85")),
    "a product beyond all numbers": named(
        tensor(shape=b"(" + b"J\xff\xff\xff\x7f" * 8 + b"t", stride=b"(" + b"K\x01" * 8 + b"t")
    ),
    "nine dimensions": named(tensor(shape=b"(" + b"K\x01" * 9 + b"t", stride=b"(" + b"K\x01" * 9 + b"t")),
    "a shape of nothing": named(tensor(shape=b"K\x00\x85")),
    "a shape below": named(tensor(shape=b"J\xff\xff\xff\xff\x85")),
    "a shape as list": named(tensor(shape=b"]K\x04a")),
    "a shape of truth": named(tensor(shape=b"\x88\x85")),
    "more strides": named(tensor(stride=b"K\x01K\x01\x86")),
    "a stride of nothing": named(tensor(stride=b"K\x00\x85")),
    "a stride below": named(tensor(stride=b"J\xff\xff\xff\xff\x85")),
    "a stride beyond": named(tensor(stride=b"K\x02\x85")),
    "columns first": named(tensor(shape=b"K\x02K\x02\x86", stride=b"K\x01K\x02\x86")),
    "hooks": named(tensor(hooks=b"}K\x01K\x02s")),
    "hooks that are a call": named(tensor(hooks=b"K\x01")),
    "a value that is text": named(b"X\x01\x00\x00\x00x"),
    "a value that is nothing": named(b"N"),
    "a dictionary of dictionaries": named(b"}X\x01\x00\x00\x00w" + tensor() + b"s"),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_an_index_that_lies_is_refused(name: str, path: Path) -> None:
    refused(path, zipped(BAD_INDEXES[name]))


@pytest.mark.parametrize(
    "index",
    [
        b"\x80\x02" + b"(" * 150_000,
        b"\x80\x02" + b"]" * 150_000,
        b"\x80\x02]" + b"q\x00" * 100 + b"".join(b"r" + struct.pack("<I", place) for place in range(150_000)),
        b"\x80\x02K\x01" + b"h\x00\x86q\x00" * 10,
        b"\x80\x02" + bytes(3 << 20),
    ],
    ids=["marks", "lists", "memo", "pairs", "size"],
)
def test_an_index_that_grows_is_refused(index: bytes, path: Path) -> None:
    refused(path, zipped(index))


def test_a_memo_that_doubles_costs_nothing(path: Path) -> None:
    doubling = b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * 100_000 + b"."
    refused(path, zipped(doubling))


def test_a_damaged_genuine_checkpoint_is_read_or_refused_and_nothing_else(path: Path) -> None:
    whole = (META / "whole.pth").read_bytes()
    dice = random.Random(20)
    refusals: list[str] = []
    with watched() as events:
        for _ in range(600):
            data = bytearray(whole)
            for _ in range(dice.randint(1, 3)):
                # The index is at the beginning, the list of entries at the end.
                place = dice.choice([dice.randrange(6000), len(data) - 1 - dice.randrange(6000)])
                data[place] = dice.randrange(256)
            path.write_bytes(data)
            try:
                read_tensors(path, "consolidated.00.pth")
            except NotAModel as error:
                refusals.append(str(error))
    assert events == []
    assert len(refusals) > 200
    assert all(line.isprintable() for line in refusals)


def test_tensors_that_share_a_storage_make_no_larger_model_than_params_say(tmp_path: Path) -> None:
    index = b"\x80\x02}(" + b"".join(
        b"X" + struct.pack("<I", len(name)) + name + tensor()
        for name in (f"layers.{number}.attention.wq.weight".encode() for number in range(2000))
    )
    (tmp_path / "bomb.pth").write_bytes(zipped(index + b"u."))
    files = {name: META / name for name in ("params.json", "tokenizer.model")}
    files["consolidated.00.pth"] = tmp_path / "bomb.pth"
    with pytest.raises(NotAModel, match=r"'consolidated.00.pth' has no 'tok_embeddings.weight'"):
        list(members(files, Traits(context=512, tokens="llama3", rope_factor=8.0, chat=False)))


def test_no_module_of_the_store_imports_pickle() -> None:
    import subprocess

    code = (
        "import sys, metalchat_store.checkpoint.model, metalchat_store.remotes.meta, metalchat_store.pull;"
        "print([name for name in ('pickle', '_pickle', 'pickletools', 'torch', 'zipfile') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
