"""Pickles, read without Python's unpickler, which builds and calls whatever a file asks for.

Plain values become what they are, and sets lists; of a dict the entries under strings are kept. A
name of something to import becomes a `Global`, which imports nothing. What a pickle calls or
instantiates becomes an `Object`, which says what was asked for and builds nothing. Only the few
functions that the caller of `load` hands over are ever called.
"""

import codecs
import contextlib
import pickle
import struct
from types import FunctionType
from typing import Any, NamedTuple

from ..checks import short

_LONGEST_NAME = 255
_LONGEST_NUMBER = 4300  # digits, for the time of reading grows with their square; None if longer
_MOST_ASKED = 20


class Global:
    """The name of something to import."""

    __slots__ = ("module", "name")

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __str__(self):
        return f"{self.module[:_LONGEST_NAME]}.{self.name[:_LONGEST_NAME]}"

    def is_of(self, package):
        """Tell whether it stands in a package; at once, however long its name is."""
        return self.module == package or self.module.startswith(f"{package}.")


class Object:
    """What a pickle makes by a call or as an instance: of what, from what; never built.

    ``maker`` is a `Global`; ``items`` are a dict's entries that it was given, or a list's;
    ``state`` its attributes.
    """

    __slots__ = ("arguments", "items", "maker", "state")

    def __init__(self, maker, arguments, items=None):
        self.maker = maker if isinstance(maker, Global) else Global("unknown", "class")
        self.arguments, self.items, self.state = arguments, items, None


class Pickle(NamedTuple):
    """A pickle's value, where it ends, and names of what it asks for beyond what is known."""

    value: Any
    end: int
    asked: list


def load(data, start, budget, known, persistent):
    """Read one pickle, of any protocol.

    Parameters
    ----------
    data : bytes
    start : int
        Where it begins.
    budget : Budget
    known : dict
        What globals stand for, by their dotted names; a function among these is called with the
        budget and the pickle's arguments.
    persistent : function
        Is given the persistent id of what stands outside the pickle, and returns what stands for
        it.

    Returns
    -------
    Pickle

    Raises
    ------
    ValueError
        If it is damaged, or takes more than the budget has.
    """
    machine = _Machine(data, start, budget, known, persistent)
    return Pickle(machine.run(), machine.at, list(machine.asked))


def _ordered_dict(budget, items=()):
    """What collections.OrderedDict stands for; Python 2 wrote its items as a list of pairs."""
    budget.spend("copied items", len(items))
    result = {}
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise ValueError("its pickle is damaged: an item of a dict is not a pair")
        _put(result, item)
    return result


def describe(value):
    """Name a value of unknown origin; never by a repr, which a file could make endless."""
    if isinstance(value, Object):
        return f"an object of {short(str(value.maker))}"
    if isinstance(value, Global):
        return f"the name {short(str(value))}"
    if value is None or type(value) is int and value.bit_length() < 64:
        return str(value)
    kind = type(value).__name__.lower().strip("_")
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _put(target, items):
    """Put keys and values, in turn, into a dict; keys that are no strings are left out.

    Python hashes strings with a secret; integers could be chosen so that all of them collide.
    """
    for n in range(0, len(items), 2):
        if type(items[n]) is str:
            target[items[n]] = items[n + 1]


def _encoded(budget, text, encoding=None):
    """_codecs.encode, by which protocols 0 to 2 write bytes."""
    if type(text) is str and encoding in ("latin1", "latin-1"):
        budget.spend("copied items", len(text) // 16)
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode("latin-1")
    return Object(Global("_codecs", "encode"), (text, encoding))


def _reconstructed(budget, kind, base=None, items=None):
    """copyreg._reconstructor: an instance as protocols 0 and 1 make it."""
    return Object(kind, (), items if isinstance(items, dict) else None)


_KNOWN = {
    "_codecs.encode": _encoded,
    "collections.OrderedDict": _ordered_dict,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,  # its name in Python 2, as protocols 0 to 2 write
}
_STOP = pickle.STOP[0]
_METHODS = {}


def _opcode(*names):
    """Register a method as the meaning of these opcodes, by the pickle module's names."""

    def register(method):
        _METHODS.update((getattr(pickle, name)[0], method) for name in names)
        return method

    return register


class _Machine:
    """The stack, the marked stacks below it, and the memo of one pickle."""

    def __init__(self, data, start, budget, known, persistent):
        self.data, self.at, self.budget = data, start, budget
        self.known, self.persistent = _KNOWN | known, persistent
        self.stack, self.marked, self.memo, self.asked = [], [], {}, {}

    def run(self):
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

    # What is read behind an opcode

    def take(self, size):
        """The next bytes."""
        self.at += size
        if self.at > len(self.data):
            raise _truncated()
        return self.data[self.at - size : self.at]

    def whole(self, size):
        """The next whole number of so many bytes, without a sign."""
        return int.from_bytes(self.take(size), "little")

    def line(self):
        """The text up to the end of the line."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise _truncated()
        line = self.take(end - self.at)
        self.at += 1
        return line

    def number(self, convert):
        """The number of a line, in digits."""
        line = self.line()
        try:
            return convert(line) if len(line) <= _LONGEST_NUMBER else None
        except ValueError as fault:
            raise ValueError(f"its pickle is damaged: {short(line)} is no number") from fault

    def since_mark(self):
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    # Plain values

    @_opcode("PROTO")
    def proto(self):
        self.at += 1

    @_opcode("FRAME")
    def frame(self):
        self.at += 8

    @_opcode("NONE")
    def none(self):
        self.stack.append(None)

    @_opcode("NEWTRUE")
    def true(self):
        self.stack.append(True)

    @_opcode("NEWFALSE")
    def false(self):
        self.stack.append(False)

    @_opcode("BININT")
    def binint(self):
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    @_opcode("BININT1")
    def binint1(self):
        self.stack.append(self.data[self.at])
        self.at += 1

    @_opcode("BININT2")
    def binint2(self):
        self.stack.append(self.whole(2))

    @_opcode("LONG1")
    def long1(self):
        self.stack.append(int.from_bytes(self.take(self.whole(1)), "little", signed=True))

    @_opcode("LONG4")
    def long4(self):
        self.stack.append(int.from_bytes(self.take(self.whole(4)), "little", signed=True))

    @_opcode("INT")
    def text_int(self):
        bools = {b"00": False, b"01": True}
        self.stack.append(self.number(lambda text: bools[text] if text in bools else int(text)))

    @_opcode("LONG")
    def text_long(self):
        self.stack.append(self.number(lambda text: int(text.rstrip(b"L"))))

    @_opcode("FLOAT")
    def text_float(self):
        self.stack.append(self.number(float))

    @_opcode("BINFLOAT")
    def binfloat(self):
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    @_opcode("STRING")
    def text_string(self):
        self.stack.append(self.line()[1:-1].decode("latin-1"))  # escapes stay as they are written

    @_opcode("BINSTRING")
    def binstring(self):
        self.stack.append(self.take(self.whole(4)).decode("latin-1"))

    @_opcode("SHORT_BINSTRING")
    def short_binstring(self):
        self.stack.append(self.take(self.whole(1)).decode("latin-1"))

    @_opcode("UNICODE")
    def text_unicode(self):
        self.stack.append(codecs.decode(self.line(), "raw-unicode-escape"))

    @_opcode("BINUNICODE")
    def binunicode(self):
        self.stack.append(self.take(self.whole(4)).decode("utf-8", "surrogatepass"))

    @_opcode("SHORT_BINUNICODE")
    def short_binunicode(self):
        self.stack.append(self.take(self.whole(1)).decode("utf-8", "surrogatepass"))

    @_opcode("BINUNICODE8")
    def binunicode8(self):
        self.stack.append(self.take(self.whole(8)).decode("utf-8", "surrogatepass"))

    @_opcode("BINBYTES")
    def binbytes(self):
        self.stack.append(self.take(self.whole(4)))

    @_opcode("SHORT_BINBYTES")
    def short_binbytes(self):
        self.stack.append(self.take(self.whole(1)))

    @_opcode("BINBYTES8", "BYTEARRAY8")
    def binbytes8(self):
        self.stack.append(self.take(self.whole(8)))

    # Containers

    def push(self, container):
        """Push what takes memory of its own."""
        self.budget.spend("containers of pickles")
        self.stack.append(container)

    @_opcode("EMPTY_TUPLE")
    def empty_tuple(self):
        self.stack.append(())

    @_opcode("EMPTY_LIST", "EMPTY_SET")  # what is in a set may not be hashed
    def empty_list(self):
        self.push([])

    @_opcode("EMPTY_DICT")
    def empty_dict(self):
        self.push({})

    @_opcode("TUPLE1")
    def tuple1(self):
        self.push((self.stack.pop(),))

    @_opcode("TUPLE2")
    def tuple2(self):
        second, first = self.stack.pop(), self.stack.pop()
        self.push((first, second))

    @_opcode("TUPLE3")
    def tuple3(self):
        third, second, first = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.push((first, second, third))

    @_opcode("TUPLE")
    def to_tuple(self):
        items = self.since_mark()
        self.push(tuple(items))

    @_opcode("LIST", "FROZENSET")
    def to_list(self):
        items = self.since_mark()
        self.stack.append(items)

    @_opcode("DICT")
    def to_dict(self):
        items = self.since_mark()
        self.push({})
        self.put(items)

    @_opcode("APPEND")
    def append(self):
        self.extend([self.stack.pop()])

    @_opcode("APPENDS", "ADDITEMS")
    def appends(self):
        self.extend(self.since_mark())

    @_opcode("SETITEM")
    def setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.put((key, value))

    @_opcode("SETITEMS")
    def setitems(self):
        self.put(self.since_mark())

    def extend(self, items):
        """Put items into the list on the stack."""
        target = self.stack[-1]
        if isinstance(target, Object):
            target.items = target = [] if target.items is None else target.items
        if not isinstance(target, list):
            raise ValueError(f"its pickle is damaged: it appends to {describe(self.stack[-1])}")
        target.extend(items)

    def put(self, items):
        """Put keys and values, in turn, into the dict on the stack."""
        target = self.stack[-1]
        if isinstance(target, Object):
            target.items = target = {} if target.items is None else target.items
        if not isinstance(target, dict):
            raise ValueError(f"its pickle is damaged: it sets items of {describe(self.stack[-1])}")
        if len(items) % 2:
            raise ValueError("its pickle is damaged: an item of a dict is not a pair")
        _put(target, items)

    # The stack and the memo

    @_opcode("MARK")
    def mark(self):
        self.budget.spend("containers of pickles")
        self.marked.append(self.stack)
        self.stack = []

    @_opcode("POP")
    def pop(self):
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    @_opcode("POP_MARK")
    def pop_mark(self):
        self.since_mark()

    @_opcode("DUP")
    def dup(self):
        self.stack.append(self.stack[-1])

    @_opcode("BINPUT")
    def binput(self):
        self.remember(self.data[self.at])
        self.at += 1

    @_opcode("LONG_BINPUT")
    def long_binput(self):
        self.remember(self.whole(4))

    @_opcode("PUT")
    def text_put(self):
        self.remember(self.line())

    @_opcode("MEMOIZE")
    def memoize(self):
        self.remember(len(self.memo))

    def remember(self, key):
        """Keep what is on the stack in the memo."""
        self.budget.spend("memoised values")
        self.memo[key] = self.stack[-1]

    @_opcode("BINGET")
    def binget(self):
        self.stack.append(self.memo[self.data[self.at]])
        self.at += 1

    @_opcode("LONG_BINGET")
    def long_binget(self):
        self.stack.append(self.memo[self.whole(4)])

    @_opcode("GET")
    def text_get(self):
        self.stack.append(self.memo[self.line()])

    # Names, calls and instances

    @_opcode("GLOBAL")
    def global_(self):
        module, name = self.line(), self.line()
        self.name(module.decode(), name.decode())

    @_opcode("STACK_GLOBAL")
    def stack_global(self):
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle is damaged: a global is not named by strings")
        self.name(module, name)

    def name(self, module, name):
        """Push what a global stands for."""
        full = f"{module}.{name}" if len(module) + len(name) < _LONGEST_NAME else None
        if full in self.known:
            self.stack.append(self.known[full])
            return
        self.push(Global(module, name))
        if len(self.asked) < _MOST_ASKED:
            self.asked[str(self.stack[-1])] = None

    @_opcode("EXT1", "EXT2", "EXT4")
    def extension(self):
        size = {pickle.EXT1[0]: 1, pickle.EXT2[0]: 2}.get(self.data[self.at - 1], 4)
        self.push(Global("extension", str(self.whole(size))))

    @_opcode("REDUCE", "NEWOBJ")
    def reduce(self):
        arguments, maker = self.stack.pop(), self.stack.pop()
        self.make(maker, arguments)

    @_opcode("NEWOBJ_EX")
    def newobj_ex(self):
        _, arguments, maker = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.make(maker, arguments)

    @_opcode("OBJ")
    def obj(self):
        maker, *arguments = self.since_mark()
        self.make(maker, tuple(arguments))

    @_opcode("INST")
    def inst(self):
        arguments = tuple(self.since_mark())
        self.global_()
        self.make(self.stack.pop(), arguments)

    def make(self, maker, arguments):
        """Push what a call gives: of a known function its result, else an object not built."""
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
    def build(self):
        state = self.stack.pop()
        if isinstance(self.stack[-1], Object):
            self.stack[-1].state = state

    @_opcode("BINPERSID")
    def binpersid(self):
        self.push(self.persistent(self.stack.pop()))

    @_opcode("PERSID")
    def persid(self):
        self.push(self.persistent(self.line().decode("ascii")))

    def unknown(self):
        """Refuse what is no opcode, or asks for memory of another process."""
        raise ValueError(f"its pickle is damaged: it has the opcode {self.data[self.at - 1]:#04x}")


_TABLE = [_METHODS.get(code, _Machine.unknown) for code in range(256)]


def _truncated():
    return ValueError("its pickle is damaged or truncated: pickle exhausted before its end")
