"""Models in several files, with an index: safetensors and torch's, good ones and bad ones."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from errors import raises
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import assert_same_bits

import fastlstm
from fastlstm import LSTM, Linear, Sequential, cli, load

pytest.importorskip("safetensors", reason="writes safetensors, which are not installed")

KINDS = {
    "safetensors": ("model-{:05}-of-00003.safetensors", "model.safetensors.index.json"),
    "torch": ("pytorch_model-{:05}-of-00003.bin", "pytorch_model.bin.index.json"),
}


@pytest.fixture
def model() -> Sequential:
    return Sequential({"lstm": LSTM(3, 4, num_layers=2, seed=0), "fc": Linear(4, 2, seed=1)}).eval()


def _file(kind: str, arrays: dict[str, np.ndarray]) -> bytes:
    if kind == "safetensors":
        from safetensors.numpy import save

        return save(arrays)
    import torch

    file = io.BytesIO()
    torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, file)
    return file.getvalue()


def write(folder: Path, model: Any, kind: str = "safetensors") -> tuple[Path, dict[str, str]]:
    """Write three shards and an index, whose path and map are returned."""
    if kind == "torch":
        pytest.importorskip("torch", reason="writes its files, and is not installed")
    shards, index = KINDS[kind]
    state = list(model.state_dict().items())
    where = {}
    for number in range(min(3, len(state))):
        part = dict(state[number::3])
        name = shards.format(number + 1)
        (folder / name).write_bytes(_file(kind, part))
        where |= dict.fromkeys(part, name)
    put(folder / index, where)
    return folder / index, where


def put(index: Path, where: Any) -> None:
    size = {"total_size": 1000}
    index.write_text(json.dumps({"metadata": size, "weight_map": where}, indent=2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_index_and_the_folder(kind, tmp_path, model):
    index, _ = write(tmp_path, model, kind)
    x = np.ones((5, 2, 3), np.float32)
    for path in (index, str(index), tmp_path, str(tmp_path)):
        found = load(path, batch_first=False, order=["lstm", "fc"])
        assert_same_bits(found(x), model(x))
    assert load(tmp_path, batch_first=False)(x).shape == (5, 2, 2)
    assert fastlstm.load_lstm(tmp_path).num_layers == 2
    state = fastlstm.load_state(index)
    assert state.keys() == model.state_dict().keys()
    assert_same_bits(load(index, into=model)(x), model(x))


def test_one_file_in_a_folder(tmp_path, model):
    fastlstm.save(model, tmp_path / "model.safetensors")
    assert type(load(tmp_path)) is Sequential
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(IsADirectoryError, match="it is a folder, a file is expected"):
        load(tmp_path)


def test_the_commands(tmp_path, model, capsys):
    index, _ = write(tmp_path, model)
    x, y, npz = (tmp_path / name for name in ("x.npy", "y.npy", "model.npz"))
    np.save(x, np.ones((5, 3), np.float32))
    for path in (str(index), str(tmp_path)):
        assert cli.main(["info", path]) == 0
        assert "lstm.weight_ih_l0" in capsys.readouterr().out
        assert cli.main(["run", path, str(x), "-o", str(y)]) == 0
        assert_same_bits(np.load(y), model(np.load(x)))
        assert cli.main(["convert", path, str(npz)]) == 0
        assert_same_bits(load(npz)(np.load(x)), model(np.load(x)))


FIRST, SECOND = (KINDS["safetensors"][0].format(n) for n in (1, 2))
BAD_NAMES = ["../model.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "C:x", "a\0b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_outside_the_folder(name, tmp_path, model):
    index, where = write(tmp_path, model)
    put(index, where | {"fc.bias": name})
    with pytest.raises(ValueError, match="a shard must stand beside the index") as error:
        load(tmp_path)
    assert str(error.value).startswith(f"{index}: its index names the file ")


def test_a_shard_that_is_missing_or_wrong(tmp_path, model):
    index, where = write(tmp_path, model)
    data = (tmp_path / FIRST).read_bytes()
    (tmp_path / FIRST).unlink()
    raises(lambda: load(tmp_path), ValueError,
           f"{index}: shard {FIRST!r} is missing: it is not beside the index")  # fmt: skip
    (tmp_path / FIRST).mkdir()
    raises(lambda: load(tmp_path), ValueError,
           f"{index}: shard {FIRST!r} is missing: it is not beside the index")  # fmt: skip
    (tmp_path / FIRST).rmdir()
    (tmp_path / FIRST).write_bytes(_file("safetensors", {}))
    with pytest.raises(ValueError, match=f"shard '{FIRST}' lacks '.*', which the index puts there"):
        load(tmp_path)
    (tmp_path / FIRST).write_bytes(data[:-5])
    with pytest.raises(ValueError, match=f"shard '{FIRST}': a damaged or truncated safetensors"):
        load(tmp_path)
    (tmp_path / FIRST).write_bytes(b"no file")
    raises(lambda: load(tmp_path), ValueError,
           f"{index}: shard {FIRST!r}: it is no safetensors file and none of torch")  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_no_shard(tmp_path, model):
    write(tmp_path, model)
    (tmp_path / FIRST).unlink()
    os.mkfifo(tmp_path / FIRST)
    with pytest.raises(ValueError, match="is missing"):
        load(tmp_path)


def test_tensors_that_do_not_agree(tmp_path, model):
    index, where = write(tmp_path, model)
    less = {name: shard for name, shard in where.items() if name != "fc.bias"}
    put(index, less)
    said = f"{index}: shard {where['fc.bias']!r} holds 'fc.bias', which the index does not name"
    raises(lambda: load(tmp_path), ValueError, said)
    put(index, where)
    held = {n: a for n, a in model.state_dict().items() if where[n] == SECOND}
    name = next(name for name, shard in where.items() if shard == FIRST)
    (tmp_path / SECOND).write_bytes(_file("safetensors", held | {name: model.state_dict()[name]}))
    raises(lambda: load(tmp_path), ValueError,
           f"{index}: {name!r} is in two shards, {FIRST!r} and {SECOND!r}")  # fmt: skip


NO_MAP = "a damaged index: its weight_map must be an object of names of files"
BAD = {
    "twice": (
        '{"weight_map": {"a": "x", "a": "y"}}',
        "a damaged index: the name 'a' stands in it twice",
    ),
    "a list": ('{"weight_map": ["a"]}', NO_MAP),
    "nothing": ('{"weight_map": {}}', NO_MAP),
    "numbers": ('{"weight_map": {"a": 3}}', "a damaged index: 'a' is in no file, but '3'"),
    "deep": ('{"weight_map": ' + "[" * 100000, "a damaged index: "),
    "cut off": ('{"weight_map": {"a": "x"', "a damaged index: "),
    "many": ('{"weight_map": ' + "[]," * 400000, "lists and objects of JSON; at most"),
    "bytes": ('{"weight_map": {"a": "\udcff"}}', "a damaged index: "),
}


@pytest.mark.parametrize("name", BAD)
def test_an_index_that_is_damaged(name, tmp_path):
    text, sentence = BAD[name]
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as error:
        load(index)
    assert sentence in str(error.value) and str(error.value).startswith(f"{index}: ")
    assert len(str(error.value)) < 2000


def test_an_open_index_has_no_folder(tmp_path, model):
    index, _ = write(tmp_path, model)
    said = "<BytesIO>: the shards of an index stand in its folder: give its path, no open file"
    raises(lambda: load(io.BytesIO(index.read_bytes())), ValueError, said)
    raises(lambda: load(tmp_path, key="a"), ValueError,
           f"{index}: key='a' is for torch checkpoints, which nest; this file is flat")  # fmt: skip


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_mutated_indices(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    index, _ = write(folder, Linear(2, 1, seed=0))
    text = bytearray(index.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    index.write_bytes(text)
    try:
        load(folder)
    except ValueError as error:
        assert str(error).startswith(f"{index}: ")
