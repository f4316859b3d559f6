"""Models in several files: shards, and an index that says in which of them each tensor is.

Hugging Face's libraries write large models so: ``model.safetensors.index.json`` beside
``model-00001-of-00003.safetensors`` and so on, or ``pytorch_model.bin.index.json`` beside files of
torch. The index is believed as little as any file: it can name files of its own folder alone, and
each shard must hold just the tensors that the index says it holds.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from ..checks import quoted, short
from . import safetensors, torch_pt
from .format import ANY, Choice, Content, Format
from .json_values import decoded, parsed
from .source import Source, State, file_name

if TYPE_CHECKING:
    from .source import ModelFile

NAME = "index of shards (.index.json)"
ORDERED = False  # an index sorts the names

# What a folder is read by, the first that is there.
_IN_FOLDERS = (
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("model.safetensors", "pytorch_model.bin"),
)
_FORMS: tuple[Format, ...] = (*(safetensors, torch_pt),)
_HEAD = 1 << 16  # bytes in which the map of an index must begin


def in_folder(path: ModelFile) -> ModelFile:
    """Return the file by which a folder is read; the path itself if it is no such folder."""
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        for name in _IN_FOLDERS:
            file = os.path.join(file_name(path), name)
            if os.path.isfile(file):
                return file
    return path


def recognises(source: Source) -> bool:
    """Tell whether a file is JSON with a map of weights, as an index has it."""
    if not re.match(rb"(\xef\xbb\xbf)?\s*\{\s*\"(metadata|weight_map)\"\s*:", source.head):
        return False
    return b'"weight_map"' in source.read(0, min(source.size, _HEAD))


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read the tensors of all shards.

    Raises
    ------
    ValueError
        If the index is damaged, names a file outside its folder, or does not agree with a shard; or
        if a shard is missing or damaged. Also if a key is given.
    ImportError
        If the shards need a library that is missing.
    """
    choice.refuse_key()
    where = _weight_map(source)
    if source.folder is None:
        raise ValueError("the shards of an index stand in its folder: give its path, no open file")
    shards: dict[str, list[str]] = {}
    for name, shard in where.items():
        shards.setdefault(shard, []).append(name)
    found = {shard: _read_shard(source.folder, shard, choice) for shard in shards}
    holders: dict[str, str] = {}
    for shard, held in found.items():
        for name in _names(held):
            if name in holders:
                raise ValueError(
                    f"{short(name)} is in two shards, {short(holders[name])} and {short(shard)}"
                )
            holders[name] = shard
    for shard, names in shards.items():
        if missing := [name for name in names if holders.get(name) != shard]:
            raise ValueError(
                f"shard {short(shard)} lacks {quoted(missing, most=5)}, which the index puts there"
            )
    for name, shard in holders.items():
        if name not in where:
            raise ValueError(
                f"shard {short(shard)} holds {short(name)}, which the index does not name"
            )
    state = State()
    for name, shard in where.items():
        if name in found[shard]:
            state[name] = found[shard][name]
        else:
            state.refused[name] = found[shard].refused[name]
    return Content(state, None)


def _names(state: State) -> dict[str, Any]:
    return {**state, **state.refused}


def _read_shard(folder: str, name: str, choice: Choice) -> State:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise ValueError(f"shard {short(name)} is missing: it is not beside the index")
    with open(path, "rb") as file:
        shard = Source(file)
        try:
            for form in _FORMS:
                if form.recognises(shard):
                    return form.read(shard, Choice(engine=choice.engine)).state
            raise ValueError("it is no safetensors file and none of torch")
        except ValueError as fault:
            raise ValueError(f"shard {short(name)}: {fault}") from fault


def _weight_map(source: Source) -> dict[str, str]:
    """Return the shard of each tensor by its name."""
    source.budget.check("bytes of a header", source.size)
    text = decoded(bytes(source.read(0, source.size)), "a damaged index")
    tree = parsed(text, source.budget, "a damaged index", has_nan=True)
    found = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(found, dict) or not found:
        raise ValueError("a damaged index: its weight_map must be an object of names of files")
    for name, shard in found.items():
        if not isinstance(shard, str):
            raise ValueError(f"a damaged index: {short(name)} is in no file, but {short(shard)}")
        if not _is_plain(shard):
            raise ValueError(
                f"its index names the file {short(shard)}; a shard must stand beside the index"
            )
    return found


def _is_plain(name: str) -> bool:
    """Tell whether a name is that of a file in the same folder."""
    return bool(name) and name not in (".", "..") and not re.search(r"[/\\:\0]", name)
