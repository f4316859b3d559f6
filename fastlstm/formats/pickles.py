"""Pickles are read here without Python's unpickler, which builds and calls whatever they ask for.

Plain values become what they are, but a set becomes a list, and of a dict only the entries under
strings are kept. The name of an object to import becomes a `Global`, and nothing is imported. What
a pickle calls or instantiates becomes an `Object`, which says what was asked for, and nothing is
built. The only functions that are called are those few that the caller of `load` hands over.
"""

from __future__ import annotations

import codecs
import contextlib
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

from ..checks import short
from .budget import Budget

_LONGEST_NAME = 255
_LONGEST_NUMBER = 4300  # digits; longer ones become None, as reading takes the square of this time
_MOST_ASKED = 20


class Global:
    """The name of an object that the pickle asks to be imported."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module[:_LONGEST_NAME]}.{self.name[:_LONGEST_NAME]}"

    def is_of(self, package: str) -> bool:
        """Tell whether it stands in a package. The time does not grow with the name's length."""
        return self.module == package or self.module.startswith(f"{package}.")


class Object:
    """An object that the pickle asks to be made by a call or as an instance. It is not made.

    ``maker`` is the function or class, ``arguments`` are those of the call. ``items`` are the
    entries of a dict, or the elements of a list, that the object was given; ``state`` are its
    attributes.
    """

    __slots__ = ("arguments", "items", "maker", "state")

    def __init__(self, maker: Any, arguments: Any, items: dict[str, Any] | None = None) -> None:
        self.maker = maker if isinstance(maker, Global) else Global("unknown", "class")
        self.arguments = arguments
        self.items: dict[str, Any] | list[Any] | None = items
        self.state: Any = None


class Pickle(NamedTuple):
    """The value of a pickle, where it ends, and the names that it asks for and that are unknown."""

    value: Any
    end: int
    asked: list[str]


def load(
    data: bytes,
    start: int,
    budget: Budget,
    known: Mapping[str, Any],
    persistent: Callable[[Any], Any],
) -> Pickle:
    """Read one pickle, of any protocol.

    Parameters
    ----------
    data : bytes
    start : int
        Where it begins.
    budget : Budget
    known : dict
        The objects that take the place of globals, by their dotted names. A function among these is
        called with the budget and the arguments in the pickle.
    persistent : function
        It is given the persistent id of an object outside the pickle, and returns the object that
        takes its place.

    Returns
    -------
    Pickle

    Raises
    ------
    ValueError
        If the pickle is damaged, or takes more than the budget has.
    """
    machine = _Machine(data, start, budget, known, persistent)
    return Pickle(machine.run(), machine.at, list(machine.asked))


def _ordered_dict(budget: Budget, items: Sequence[Any] = ()) -> dict[str, Any]:
    """Do what collections.OrderedDict does; Python 2 wrote its items as a list of pairs."""
    budget.spend("copied items", len(items))
    result: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise ValueError("its pickle is damaged: an item of a dict is not a pair")
        _put(result, item)
    return result


def describe(value: Any) -> str:
    """Name a value of unknown origin, without its repr, which a file could make endless."""
    if isinstance(value, Object):
        return f"an object of {short(str(value.maker))}"
    if isinstance(value, Global):
        return f"the name {short(str(value))}"
    if value is None or type(value) is int and value.bit_length() < 64:
        return str(value)
    kind = type(value).__name__.lower().strip("_")
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _put(target: dict[str, Any], items: Sequence[Any]) -> None:
    """Put keys and values, in turn, into a dict. Keys that are no strings are left out.

    Python hashes strings with a secret; integers could be chosen so that all of them collide.
    """
    for n in range(0, len(items), 2):
        if type(items[n]) is str:
            target[items[n]] = items[n + 1]


def _encoded(budget: Budget, text: Any, encoding: Any = None) -> bytes | Object:
    """Do what _codecs.encode does, by which protocols 0 to 2 write bytes."""
    if type(text) is str and encoding in ("latin1", "latin-1"):
        budget.spend("copied items", len(text) // 16)
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode("latin-1")
    return Object(Global("_codecs", "encode"), (text, encoding))


def _reconstructed(budget: Budget, kind: Any, base: Any = None, items: Any = None) -> Object:
    """Describe what copyreg._reconstructor makes: an instance, as protocols 0 and 1 write it."""
    return Object(kind, (), items if isinstance(items, dict) else None)


_KNOWN = {
    "_codecs.encode": _encoded,
    "collections.OrderedDict": _ordered_dict,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,  # its name in Python 2, as protocols 0 to 2 write
}
_STOP = pickle.STOP[0]
_Method = TypeVar("_Method", bound="Callable[[_Machine], None]")
_Number = TypeVar("_Number", int, float)
_METHODS: dict[int, Callable[[_Machine], None]] = {}


def _opcode(*names: str) -> Callable[[_Method], _Method]:
    """Register a method as the meaning of these opcodes, which have the pickle module's names."""

    def register(method: _Method) -> _Method:
        _METHODS.update((getattr(pickle, name)[0], method) for name in names)
        return method

    return register


class _Machine:
    """The stack, the marked stacks below it, and the memo of one pickle."""

    def __init__(
        self,
        data: bytes,
        start: int,
        budget: Budget,
        known: Mapping[str, Any],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.data, self.at, self.budget = data, start, budget
        self.known, self.persistent = {**_KNOWN, **known}, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int | bytes, Any] = {}
        self.asked: dict[str, None] = {}  # a set that keeps its order

    def run(self) -> Any:
        """Return the value of the pickle."""
        data, most = self.data, self.budget.left("opcodes of pickles")
        try:
            for count in range(1, most + 1):
                code = data[self.at]
                self.at += 1
                if code == _STOP:
                    self.budget.spend("opcodes of pickles", count)
                    return self.stack.pop()
                _TABLE[code](self)
        except (UnicodeDecodeError, struct.error) as fault:
            raise ValueError(f"its pickle is damaged: {fault}") from fault
        except IndexError as fault:
            if self.at >= len(data):
                raise _truncated() from fault
            raise ValueError(f"its pickle is damaged: {fault}") from fault
        except (KeyError, TypeError, AttributeError, OverflowError) as fault:
            raise ValueError(f"its pickle is damaged: {fault}") from fault
        self.budget.spend("opcodes of pickles", most + 1)
        raise AssertionError("the budget has raised")

    # The arguments of opcodes

    def take(self, size: int) -> bytes:
        """Read the next bytes."""
        self.at += size
        if self.at > len(self.data):
            raise _truncated()
        return self.data[self.at - size : self.at]

    def whole(self, size: int) -> int:
        """Read the next whole number, which has `size` bytes and no sign."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        """Read the text up to the end of the line."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise _truncated()
        line = self.take(end - self.at)
        self.at += 1
        return line

    def number(self, convert: Callable[[bytes], _Number]) -> _Number | None:
        """Read the number that a line has in digits; None if it is too long."""
        line = self.line()
        try:
            return convert(line) if len(line) <= _LONGEST_NUMBER else None
        except ValueError as fault:
            raise ValueError(f"its pickle is damaged: {short(line)} is no number") from fault

    def since_mark(self) -> list[Any]:
        """Take off the stack what was pushed since the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    # Plain values

    @_opcode("PROTO")
    def proto(self) -> None:
        self.at += 1

    @_opcode("FRAME")
    def frame(self) -> None:
        self.at += 8

    @_opcode("NONE")
    def none(self) -> None:
        self.stack.append(None)

    @_opcode("NEWTRUE")
    def true(self) -> None:
        self.stack.append(True)

    @_opcode("NEWFALSE")
    def false(self) -> None:
        self.stack.append(False)

    @_opcode("BININT")
    def binint(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    @_opcode("BININT1")
    def binint1(self) -> None:
        self.stack.append(self.data[self.at])
        self.at += 1

    @_opcode("BININT2")
    def binint2(self) -> None:
        self.stack.append(self.whole(2))

    @_opcode("LONG1")
    def long1(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.whole(1)), "little", signed=True))

    @_opcode("LONG4")
    def long4(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.whole(4)), "little", signed=True))

    @_opcode("INT")
    def text_int(self) -> None:
        bools = {b"00": False, b"01": True}
        self.stack.append(self.number(lambda text: bools[text] if text in bools else int(text)))

    @_opcode("LONG")
    def text_long(self) -> None:
        self.stack.append(self.number(lambda text: int(text.rstrip(b"L"))))

    @_opcode("FLOAT")
    def text_float(self) -> None:
        self.stack.append(self.number(float))

    @_opcode("BINFLOAT")
    def binfloat(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    @_opcode("STRING")
    def text_string(self) -> None:
        # Escapes stay as they are written.
        self.stack.append(self.line()[1:-1].decode("latin-1"))

    @_opcode("BINSTRING")
    def binstring(self) -> None:
        self.stack.append(self.take(self.whole(4)).decode("latin-1"))

    @_opcode("SHORT_BINSTRING")
    def short_binstring(self) -> None:
        self.stack.append(self.take(self.whole(1)).decode("latin-1"))

    @_opcode("UNICODE")
    def text_unicode(self) -> None:
        self.stack.append(codecs.decode(self.line(), "raw-unicode-escape"))

    @_opcode("BINUNICODE")
    def binunicode(self) -> None:
        self.stack.append(self.take(self.whole(4)).decode("utf-8", "surrogatepass"))

    @_opcode("SHORT_BINUNICODE")
    def short_binunicode(self) -> None:
        self.stack.append(self.take(self.whole(1)).decode("utf-8", "surrogatepass"))

    @_opcode("BINUNICODE8")
    def binunicode8(self) -> None:
        self.stack.append(self.take(self.whole(8)).decode("utf-8", "surrogatepass"))

    @_opcode("BINBYTES")
    def binbytes(self) -> None:
        self.stack.append(self.take(self.whole(4)))

    @_opcode("SHORT_BINBYTES")
    def short_binbytes(self) -> None:
        self.stack.append(self.take(self.whole(1)))

    @_opcode("BINBYTES8", "BYTEARRAY8")
    def binbytes8(self) -> None:
        self.stack.append(self.take(self.whole(8)))

    # Containers

    def push(self, container: Any) -> None:
        """Push an object that takes memory of its own."""
        self.budget.spend("containers of pickles")
        self.stack.append(container)

    @_opcode("EMPTY_TUPLE")
    def empty_tuple(self) -> None:
        self.stack.append(())

    @_opcode("EMPTY_LIST", "EMPTY_SET")  # a set is a list here, as its elements may have no hash
    def empty_list(self) -> None:
        self.push([])

    @_opcode("EMPTY_DICT")
    def empty_dict(self) -> None:
        self.push({})

    @_opcode("TUPLE1")
    def tuple1(self) -> None:
        self.push((self.stack.pop(),))

    @_opcode("TUPLE2")
    def tuple2(self) -> None:
        second, first = self.stack.pop(), self.stack.pop()
        self.push((first, second))

    @_opcode("TUPLE3")
    def tuple3(self) -> None:
        third, second, first = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.push((first, second, third))

    @_opcode("TUPLE")
    def to_tuple(self) -> None:
        items = self.since_mark()
        self.push(tuple(items))

    @_opcode("LIST", "FROZENSET")
    def to_list(self) -> None:
        items = self.since_mark()
        self.stack.append(items)

    @_opcode("DICT")
    def to_dict(self) -> None:
        items = self.since_mark()
        self.push({})
        self.put(items)

    @_opcode("APPEND")
    def append(self) -> None:
        self.extend([self.stack.pop()])

    @_opcode("APPENDS", "ADDITEMS")
    def appends(self) -> None:
        self.extend(self.since_mark())

    @_opcode("SETITEM")
    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put((key, value))

    @_opcode("SETITEMS")
    def setitems(self) -> None:
        self.put(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        """Put items into the list on the stack."""
        top = target = self.stack[-1]
        if isinstance(top, Object):
            target = top.items = [] if top.items is None else top.items
        if not isinstance(target, list):
            raise ValueError(f"its pickle is damaged: it appends to {describe(top)}")
        target.extend(items)

    def put(self, items: Sequence[Any]) -> None:
        """Put keys and values, in turn, into the dict on the stack."""
        top = target = self.stack[-1]
        if isinstance(top, Object):
            target = top.items = {} if top.items is None else top.items
        if not isinstance(target, dict):
            raise ValueError(f"its pickle is damaged: it sets items of {describe(top)}")
        if len(items) % 2:
            raise ValueError("its pickle is damaged: an item of a dict is not a pair")
        _put(target, items)

    # The stack and the memo

    @_opcode("MARK")
    def mark(self) -> None:
        self.budget.spend("containers of pickles")
        self.marked.append(self.stack)
        self.stack = []

    @_opcode("POP")
    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    @_opcode("POP_MARK")
    def pop_mark(self) -> None:
        self.since_mark()

    @_opcode("DUP")
    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    @_opcode("BINPUT")
    def binput(self) -> None:
        self.remember(self.data[self.at])
        self.at += 1

    @_opcode("LONG_BINPUT")
    def long_binput(self) -> None:
        self.remember(self.whole(4))

    @_opcode("PUT")
    def text_put(self) -> None:
        self.remember(self.line())

    @_opcode("MEMOIZE")
    def memoize(self) -> None:
        self.remember(len(self.memo))

    def remember(self, key: int | bytes) -> None:
        """Keep the object on top of the stack in the memo."""
        self.budget.spend("memoised values")
        self.memo[key] = self.stack[-1]

    @_opcode("BINGET")
    def binget(self) -> None:
        self.stack.append(self.memo[self.data[self.at]])
        self.at += 1

    @_opcode("LONG_BINGET")
    def long_binget(self) -> None:
        self.stack.append(self.memo[self.whole(4)])

    @_opcode("GET")
    def text_get(self) -> None:
        self.stack.append(self.memo[self.line()])

    # Names, calls and instances

    @_opcode("GLOBAL")
    def global_(self) -> None:
        module, name = self.line(), self.line()
        self.name(module.decode(), name.decode())

    @_opcode("STACK_GLOBAL")
    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle is damaged: a global is not named by strings")
        self.name(module, name)

    def name(self, module: str, name: str) -> None:
        """Push the object that takes the place of a global."""
        full = f"{module}.{name}" if len(module) + len(name) < _LONGEST_NAME else None
        if full in self.known:
            self.stack.append(self.known[full])
            return
        self.push(Global(module, name))
        if len(self.asked) < _MOST_ASKED:
            self.asked[str(self.stack[-1])] = None

    @_opcode("EXT1", "EXT2", "EXT4")
    def extension(self) -> None:
        size = {pickle.EXT1[0]: 1, pickle.EXT2[0]: 2}.get(self.data[self.at - 1], 4)
        self.push(Global("extension", str(self.whole(size))))

    @_opcode("REDUCE", "NEWOBJ")
    def reduce(self) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        self.make(maker, arguments)

    @_opcode("NEWOBJ_EX")
    def newobj_ex(self) -> None:
        _, arguments, maker = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.make(maker, arguments)

    @_opcode("OBJ")
    def obj(self) -> None:
        maker, *arguments = self.since_mark()
        self.make(maker, tuple(arguments))

    @_opcode("INST")
    def inst(self) -> None:
        arguments = tuple(self.since_mark())
        self.global_()
        self.make(self.stack.pop(), arguments)

    def make(self, maker: Any, arguments: Any) -> None:
        """Push the result of a call of a known function; otherwise an object that is not built."""
        if type(arguments) is not tuple:
            raise ValueError(f"its pickle is damaged: it calls with {describe(arguments)}")
        if isinstance(maker, FunctionType):
            self.push(maker(self.budget, *arguments))
        elif isinstance(maker, (Global, Object)):
            maker = maker.maker if isinstance(maker, Object) else maker
            self.push(Object(maker, arguments))
        else:
            raise ValueError(f"its pickle is damaged: it calls {describe(maker)}")

    @_opcode("BUILD")
    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Object):
            self.stack[-1].state = state

    @_opcode("BINPERSID")
    def binpersid(self) -> None:
        self.push(self.persistent(self.stack.pop()))

    @_opcode("PERSID")
    def persid(self) -> None:
        self.push(self.persistent(self.line().decode("ascii")))

    def unknown(self) -> None:
        """Refuse a byte that is no opcode, or an opcode that asks for another process's memory."""
        raise ValueError(f"its pickle is damaged: it has the opcode {self.data[self.at - 1]:#04x}")


_TABLE = [_METHODS.get(code, _Machine.unknown) for code in range(256)]


def _truncated() -> ValueError:
    return ValueError("its pickle is damaged or truncated: pickle exhausted before its end")
