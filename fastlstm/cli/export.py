"""``fastlstm export``: write a model for a program in C, as a header or as a file."""

from __future__ import annotations

import argparse
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..checks import short
from ..files import check_writable, written_aside
from ..formats import fl, load
from ..layers import Last, Layer, ReLU, Sigmoid, Softmax, Tanh
from ..terminal import one_line, printable, show
from ..training import Forecaster, is_forecaster
from ..training.forecaster import write_fl
from .convert import told_sample_rate
from .parser import add_model, check_suffix, positive

if TYPE_CHECKING:
    from .parser import Commands

_ENGINE: Final = "numpy"  # nothing is computed, and this one is always there
_IN_A_LINE = 20  # bytes

# Layers without parameters that --order can name.
_LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer for layer in (Last, ReLU, Tanh, Sigmoid, Softmax)
}

# What no array can be called in any C or C++ up to C23 and C++23: their words, `main`, what GCC and
# Clang define unless they are told to be strict, and the names of stddef.h, which headers include.
_KEYWORDS: Final = frozenset(
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t"
    " char32_t class co_await co_return co_yield compl concept const const_cast consteval"
    " constexpr constinit continue decltype default delete do double dynamic_cast else enum"
    " explicit export extern false float for friend goto if inline int linux long main"
    " max_align_t mutable namespace new noexcept not not_eq nullptr nullptr_t offsetof operator or"
    " or_eq private protected ptrdiff_t public register reinterpret_cast requires restrict return"
    " short signed size_t sizeof static static_assert static_cast struct switch template this"
    " thread_local throw true try typedef typeid typename typeof typeof_unqual union unix unsigned"
    " using virtual void volatile wchar_t while xor xor_eq NULL".split()
)
# Nor what the library's headers have: their names, and those of stdint.h; nor what C keeps for
# compilers.
_TAKEN: Final = re.compile("fl_.*|FL_.*|fastlstm|FASTLSTM_.*|u?int.*_t|U?INT.*_.*|_[_A-Z].*")

_DESCRIPTION = """\
Write a model for a program in C or C++, as the suffix of OUT says:
  .h   a header with the model as an array of constants, for firmware and for programs of one
       file; it compiles as C11 and as C++17
  .fl  the file that the array holds, to be read or mapped into memory
The C library runs both, by fl_model_load. A forecaster, as `fastlstm train` writes it, becomes a
model that takes the inputs in their own units, and gives the forecast in those of the targets.
What the format cannot hold is an error that names it.
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "export",
        help="write a model for a program in C",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(action=_export)
    add_model(command)
    command.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help=".h or .fl file to write"
    )
    command.add_argument(
        "--name", help="what the array is called in the header (default: as the file OUT)"
    )
    command.add_argument(
        "--sample-rate",
        metavar="HZ",
        type=positive,
        help="of the signal that the model was made for, for programs to ask (default: that of "
        "MODEL, if it tells one)",
    )
    command.add_argument(
        "--order",
        metavar="PARTS",
        help="where MODEL does not tell it: in which order its parts run, with commas between; "
        f"{', '.join(_LAYERS)} are layers without parameters: lstm,Last,fc",
    )


def _export(args: argparse.Namespace) -> None:
    """Refuse what cannot be written, then read the model and write it."""
    kind = check_suffix("output", args.output, (".h", ".fl"))
    name = _name(args, kind)
    check_writable(args.output, [args.model])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data, words = _model(args)
    with written_aside(args.output) as file:
        if kind == ".fl":
            file.write(data)
        else:
            for line in header(data, name, args.model, words):
                file.write(line.encode())
    for warning in caught:
        show(f"fastlstm: warning: {one_line(warning.message)}", to="stderr")


def _name(args: argparse.Namespace, kind: str) -> str:
    """Return the name of the array in a header."""
    if args.name is None:
        name = re.sub("[^A-Za-z0-9_]", "_", re.sub("^(?=[^A-Za-z_])", "model_", args.output.stem))
        return name if _is_free(name) else f"model_{name}"
    if kind == ".fl":
        raise ValueError("--name is for headers, a .fl file has none")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", args.name):
        raise ValueError(f"--name must be a name in C, got {short(args.name)}")
    if not _is_free(args.name):
        raise ValueError(f"--name must be free for use in C and C++, got {short(args.name)}")
    return str(args.name)


def _is_free(name: str) -> bool:
    """Whether nothing else has this name in C, in C++ or in the headers of the library."""
    return name not in _KEYWORDS and not _TAKEN.fullmatch(name)


def _model(args: argparse.Namespace) -> tuple[bytes, str]:
    """Return the model's file, and the model in words."""
    buffer = io.BytesIO()
    if is_forecaster(args.model):
        given = {"--sample-rate": args.sample_rate, "--order": args.order, "--prefix": args.prefix}
        if unfit := [option for option, value in given.items() if value is not None]:
            raise ValueError(f"{args.model} is a forecaster, for which {unfit[0]} is not")
        forecaster = Forecaster.load(args.model, _ENGINE)
        write_fl(buffer, forecaster)
        return buffer.getvalue(), f"{forecaster!r}\n{forecaster.model!r}"
    options: dict[str, Any] = {}
    if args.order is not None:
        parts = [part.strip() for part in args.order.split(",")]
        options["order"] = [_LAYERS[part]() if part in _LAYERS else part for part in parts]
    else:
        options["max_bytes"] = args.max_bytes
    model = load(args.model, key=args.key, prefix=args.prefix, engine=_ENGINE, **options)
    rate = args.sample_rate
    if rate is None:
        rate = told_sample_rate(args.model, args.key)
    try:
        fl.write(buffer, model, sample_rate=rate or 0.0)
    except (ValueError, TypeError) as fault:
        raise type(fault)(f"{args.model}: {fault}") from fault
    return buffer.getvalue(), repr(model)


def header(data: bytes, name: str, origin: str, words: str) -> Iterator[str]:
    """Yield the lines of a header that holds a model's file as an array.

    Parameters
    ----------
    data : bytes
        The file.
    name : str
        Of the array.
    origin, words : str
        From which file it comes, and the model in words, for a comment.
    """
    described = [
        f"From {origin} by `fastlstm export`, for fl_model_load of fastlstm's C library.",
        "",
    ]
    described += [*words.split("\n"), "", f"{len(data)} bytes."]
    guard = f"FASTLSTM_MODEL_{name}"  # neither that of another header nor of a name like it
    # Names in a model may be anything; in a comment they may neither end it nor begin another one.
    plain = [
        printable(line)
        .encode("ascii", "replace")
        .decode()
        .replace("*/", "* /")
        .replace("/*", "/ *")
        for line in described
    ]
    yield "/* " + "\n   ".join(plain).replace("\n   \n", "\n\n") + " */\n\n"
    yield f"#ifndef {guard}\n#define {guard}\n\n#include <stddef.h>\n\n"
    yield "#ifdef __cplusplus\nalignas(64)\n#else\n_Alignas(64)\n#endif\n"
    yield f"static const unsigned char {name}[{len(data)}] = {{\n"
    for start in range(0, len(data), _IN_A_LINE):
        yield ",".join(map(str, data[start : start + _IN_A_LINE])) + ",\n"
    yield f"}};\nstatic const size_t {name}_size = sizeof {name};\n\n#endif\n"
