"""A machine for the few pickle opcodes that describe tensors; it calls nothing, imports nothing and builds no objects.

A pickle is a program. Of its instructions this machine knows those that put numbers, texts, tuples, lists and
dictionaries together, and of all names those of a tensor, its storages and an ordered dictionary. Anything else,
whatever it might do, is refused by its name before anything after it is looked at.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from metalchat_store.checkpoint.archive import Malformed

MAX_PICKLE = 2 << 20
_MAX_MEMO = 100_000
_MAX_TEXT = 4096
_MAX_STACK = 100_000

DTYPES = {
    "torch.BFloat16Storage": ("BF16", 2),
    "torch.HalfStorage": ("F16", 2),
    "torch.FloatStorage": ("F32", 4),
    "torch.DoubleStorage": ("F64", 8),
    "torch.LongStorage": ("I64", 8),
    "torch.IntStorage": ("I32", 4),
    "torch.ShortStorage": ("I16", 2),
    "torch.CharStorage": ("I8", 1),
    "torch.ByteStorage": ("U8", 1),
    "torch.BoolStorage": ("BOOL", 1),
}
"""Storage types: the dtype as safetensors names it, and its bytes a value."""

_TENSOR = "torch._utils._rebuild_tensor_v2"
_ORDERED = "collections.OrderedDict"
_ALLOWED = frozenset(DTYPES) | {_TENSOR, _ORDERED}


@dataclass(frozen=True, slots=True)
class Name:
    """A global that is allowed; nothing was looked up."""

    text: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`count` values of a dtype in the entry `data/<key>`."""

    dtype: str
    width: int
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Pickled:
    """A tensor: contiguous values of a storage from `offset` on, in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


class _Mark:
    """Where a group of values begins on the stack."""


_MARK = _Mark()


def tensors(data: bytes) -> dict[str, Pickled]:
    """The tensors by name that a pickled state dictionary describes. Raises `Malformed`."""
    if len(data) > MAX_PICKLE:
        raise Malformed(f"its index is larger than {MAX_PICKLE >> 20} MiB")
    value = _Machine(data).run()
    if not isinstance(value, dict):
        raise Malformed("it does not hold a dictionary of tensors")
    found: dict[str, Pickled] = {}
    for name, tensor in value.items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 256:
            raise Malformed("a tensor has a name that is not plain")
        if not isinstance(tensor, Pickled):
            raise Malformed(f"{name[:60]!a} is not a tensor")
        found[name] = tensor
    return found


class _Machine:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        if self._take(1) != b"\x80" or not 2 <= self._take(1)[0] <= 5:
            raise Malformed("its index is not a pickle of version 2 to 5")
        while True:
            code = self._take(1)
            if code == b".":
                break
            action = _ACTIONS.get(code)
            if action is None:
                raise Malformed(f"its index has the instruction 0x{code[0]:02x}, which no tensor needs")
            action(self)
            if len(self._stack) > _MAX_STACK or len(self._memo) > _MAX_MEMO:
                raise Malformed("its index is too complicated")
        if self._at != len(self._data) or len(self._stack) != 1:
            raise Malformed("its index does not end as it should")
        return self._stack[0]

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> object:
        if not self._stack or self._stack[-1] is _MARK:
            raise Malformed("its index is damaged")
        return self._stack.pop()

    def group(self) -> list[object]:
        """Everything since the last mark, which goes too."""
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise Malformed("its index is damaged")

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])

    def text(self, length: int) -> str:
        if length > _MAX_TEXT:
            raise Malformed("its index holds a text that is too long")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("its index holds a text that is not UTF-8") from None

    def line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 257)
        if end < 0:
            raise Malformed("its index is damaged")
        line = self.text(end - self._at)
        self._at = end + 1
        return line

    def integer(self) -> int:
        length = self._take(1)[0]
        if length > 9:
            raise Malformed("its index holds a number that is too large")
        return int.from_bytes(self._take(length), "little", signed=True)

    def real(self) -> float:
        return float(struct.unpack(">d", self._take(8))[0])

    def frame(self) -> None:
        if self.number("<Q") > len(self._data) - self._at:
            raise Malformed("its index is damaged")

    def put(self, place: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise Malformed("its index is damaged")
        self._memo[place] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, place: int) -> None:
        if place not in self._memo:
            raise Malformed("its index is damaged")
        self.push(self._memo[place])

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def named(self, module: object, name: object) -> None:
        full = f"{module}.{name}"
        if not isinstance(module, str) or not isinstance(name, str) or "." in name or full not in _ALLOWED:
            raise Malformed(f"it calls {full[:80]!a}, which can run code and is not done")
        self.push(Name(full))

    def named_by_stack(self) -> None:
        name, module = self.pop(), self.pop()
        self.named(module, name)

    def set_items(self, values: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not dict or len(values) % 2:
            raise Malformed("its index is damaged")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int):
                raise Malformed("its index has a key that is not a name")
            if key in target:
                raise Malformed(f"its index names {str(key)[:60]!a} twice")
            target[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def extend(self, values: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is not list:
            raise Malformed("its index is damaged")
        target.extend(values)

    def append(self) -> None:
        self.extend([self.pop()])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if function == Name(_ORDERED) and arguments == ():
            self.push({})
        elif function == Name(_TENSOR) and type(arguments) is tuple:
            self.push(_tensor(arguments))
        else:
            raise Malformed("its index calls something with arguments that no tensor has")

    def build(self) -> None:
        """An ordered dictionary's own attributes, such as the versions of its modules, which are not needed."""
        state = self.pop()
        if type(state) is not dict or not self._stack or type(self._stack[-1]) is not dict:
            raise Malformed("its index sets the state of something that is not a dictionary")

    def persistent(self) -> None:
        self.push(_storage(self.pop()))

    def _take(self, count: int) -> bytes:
        data = self._data[self._at : self._at + count]
        if len(data) != count:
            raise Malformed("its index ends too early")
        self._at += count
        return data


def _storage(value: object) -> Storage:
    """What a reference to a storage says: ('storage', type, key, device, number of values)."""
    if type(value) is tuple and len(value) == 5:
        mark, kind, key, device, count = value
        known = isinstance(kind, Name) and kind.text in DTYPES and isinstance(device, str)
        plain = isinstance(key, str) and len(key) <= 9 and key.isascii() and key.isdecimal()
        if mark == "storage" and known and plain and type(count) is int and 0 <= count < 1 << 48:
            dtype, width = DTYPES[kind.text]
            return Storage(dtype, width, key, count)
    raise Malformed("a tensor refers to something that is not a storage")


def _tensor(arguments: tuple[object, ...]) -> Pickled:
    """A tensor that lies within its storage without gaps; `Malformed` for any other."""
    if len(arguments) not in (6, 7):
        raise Malformed("a tensor is not described as it should be")
    storage, offset, shape, strides, _, hooks = arguments[:6]
    if hooks != {} or arguments[6:] not in ((), ({},), (None,)):
        raise Malformed("a tensor has hooks or attributes, which are not read")
    sizes, steps = _sizes(shape), _sizes(strides)
    if not isinstance(storage, Storage) or not isinstance(offset, int) or isinstance(offset, bool):
        raise Malformed("a tensor is not described as it should be")
    if sizes is None or steps is None or len(sizes) != len(steps):
        raise Malformed("a tensor has sizes that are not valid")
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(steps), strict=True):
        if stride != expected and size != 1:
            raise Malformed("a tensor does not lie in one piece")
        expected *= size
    if offset < 0 or offset + expected > storage.count:
        raise Malformed("a tensor is larger than its storage")
    return Pickled(storage, offset, sizes)


def _sizes(value: object) -> tuple[int, ...] | None:
    """A tuple of at most eight numbers above 0; None for anything else."""
    if not isinstance(value, tuple) or len(value) > 8:
        return None
    found = tuple(item for item in value if isinstance(item, int) and not isinstance(item, bool) and 0 < item < 1 << 40)
    return found if len(found) == len(value) else None


_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"(": lambda machine: machine.push(_MARK),
    b"}": lambda machine: machine.push({}),
    b"]": lambda machine: machine.push([]),
    b")": lambda machine: machine.push(()),
    b"t": lambda machine: machine.push(tuple(machine.group())),
    b"\x85": lambda machine: machine.tuple_of(1),
    b"\x86": lambda machine: machine.tuple_of(2),
    b"\x87": lambda machine: machine.tuple_of(3),
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b"J": lambda machine: machine.push(machine.number("<i")),
    b"K": lambda machine: machine.push(machine.number("<B")),
    b"M": lambda machine: machine.push(machine.number("<H")),
    b"\x8a": lambda machine: machine.push(machine.integer()),
    b"G": lambda machine: machine.push(machine.real()),
    b"X": lambda machine: machine.push(machine.text(machine.number("<I"))),
    b"\x8c": lambda machine: machine.push(machine.text(machine.number("<B"))),
    b"c": lambda machine: machine.named(machine.line(), machine.line()),
    b"\x93": lambda machine: machine.named_by_stack(),
    b"\x95": lambda machine: machine.frame(),
    b"q": lambda machine: machine.put(machine.number("<B")),
    b"r": lambda machine: machine.put(machine.number("<I")),
    b"\x94": lambda machine: machine.memoize(),
    b"h": lambda machine: machine.get(machine.number("<B")),
    b"j": lambda machine: machine.get(machine.number("<I")),
    b"Q": lambda machine: machine.persistent(),
    b"R": lambda machine: machine.reduce(),
    b"s": lambda machine: machine.set_item(),
    b"u": lambda machine: machine.set_items(machine.group()),
    b"a": lambda machine: machine.append(),
    b"e": lambda machine: machine.extend(machine.group()),
    b"b": lambda machine: machine.build(),
}
