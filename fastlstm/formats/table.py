"""Which formats there are, and which of them a file has: told by its content, or by its suffix."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import (
    fl,
    foreign,
    json_file,
    keras_file,
    keras_writer,
    matlab_file,
    matlab_writer,
    nam,
    npz,
    onnx_file,
    rtneural,
    safetensors,
    shards,
    tflite_file,
    torch_pt,
)
from .source import Source, file_name, folder_of, opened

if TYPE_CHECKING:
    from .format import Choice, Content, Format, WrittenFormat
    from .source import ModelFile

# Formats that are read, in the order in which they are asked whether a file is theirs: the first
# bytes of a safetensors file could otherwise pass for those of a pickle.
READ: tuple[Format, ...] = (
    *(safetensors, torch_pt, npz, onnx_file, keras_file, tflite_file, matlab_file),
    *(shards, json_file, fl),
)
WRITTEN: tuple[WrittenFormat, ...] = (
    *(safetensors, torch_pt, npz, onnx_file, fl),
    *(keras_writer.MODEL, keras_writer.WEIGHTS, rtneural, nam, matlab_writer),
)


def written_format(path: Path, options: Iterable[str] = ()) -> WrittenFormat:
    """Return the format that `save` writes to a path, chosen by its suffix.

    Raises
    ------
    ValueError
        If there is none, or if it lacks one of these options.
    """
    known = {suffix: form for form in WRITTEN for suffix in form.SUFFIXES}
    end = "".join(path.suffixes).lower()  # some formats have a suffix of two parts
    form = next((known[suffix] for suffix in known if end.endswith(suffix)), None)
    if form is None:
        raise ValueError(
            f"{path}: the suffix must be one of {', '.join(known)}, got {path.suffix!r}"
        )
    has = inspect.signature(form.write).parameters
    if lacking := [name for name in options if name not in has]:
        raise ValueError(f"{path}: {' and '.join(lacking)} cannot be chosen for {form.NAME} files")
    return form


@contextmanager
def naming(path: ModelFile) -> Iterator[list[str]]:
    """Give a list of notes, the first of which is the file's name.

    A ValueError inside the block is raised anew with these notes before its message. A `path` that
    is neither a path nor a file is a TypeError.
    """
    origin = [file_name(path)]
    try:
        yield origin
    except ValueError as fault:
        raise ValueError(": ".join([*origin, str(fault)])) from fault


@contextmanager
def recognised(path: ModelFile, origin: list[str]) -> Iterator[tuple[Source, Format]]:
    """Open a file and tell its format; ValueError if it is of none."""
    if (file_of_folder := shards.in_folder(path)) is not path:
        path = file_of_folder
        origin[0] = file_name(path)
    with opened(path) as file:
        source = Source(file, folder_of(path))
        for form in READ:
            if form.recognises(source):
                break
        else:
            names = ", ".join(known.NAME for known in READ)
            fault = f"its content is of no known format; known are {names}"
            found = foreign.name(source)
            raise ValueError(f"it is {found}: {fault}" if found else fault)
        yield source, form


def read(path: ModelFile, choice: Choice, origin: list[str]) -> tuple[Content, Format]:
    """Return what a file holds, and its format; a note about the file is added to `origin`."""
    with recognised(path, origin) as (source, form):
        content = form.read(source, choice)
        if content.note:
            origin.append(content.note)
        return content, form
