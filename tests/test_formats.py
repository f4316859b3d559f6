"""Model files: exact numbers from files that torch wrote, round trips, inference, hostile files."""

import importlib.util
import inspect
import io
import itertools
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import lstm_shapes

import fastlstm
from fastlstm import cli, formats
from fastlstm.formats import load, load_lstm, load_notes, load_state, save, structure
from fastlstm.formats.format import ANY, Content
from fastlstm.formats.source import State

DATA = Path(__file__).parent / "data"
HAS_SAFETENSORS = importlib.util.find_spec("safetensors") is not None
SAFETENSORS = pytest.param(
    ".safetensors",
    marks=pytest.mark.skipif(not HAS_SAFETENSORS, reason="needs the safetensors library"),
)
SUFFIXES = [".npz", SAFETENSORS, ".pt"]


def rule(k, *shape):
    """The numbers that data/make_torch_files.py gave to its k-th tensor."""
    return (((np.arange(np.prod(shape, dtype=int)) + k) % 31 - 15) / 8).reshape(shape)


def by_rule(shapes):
    return {name: rule(k, *shape) for k, (name, shape) in enumerate(shapes.items())}


def zeros(shapes, prefix="", dtype="float32"):
    return {prefix + name: np.zeros(shape, dtype) for name, shape in shapes.items()}


def assert_same(state, expected, dtype=None):
    """Names in order, shapes, dtypes and bits."""
    assert list(state) == list(expected)
    for name, array in expected.items():
        array = array.astype(dtype or array.dtype)
        assert state[name].dtype == array.dtype and state[name].shape == array.shape, name
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def make_model(dtype="float32"):
    """A model with a layer of every kind that can stand in a chain."""
    seeds = itertools.count(1)
    layers = {
        "embedding": fastlstm.Embedding(11, 3, padding_idx=2, dtype=dtype, seed=next(seeds)),
        "encoder": fastlstm.Sequential(
            fastlstm.LSTM(3, 5, 2, True, True, 0.25, True, 2, dtype=dtype, seed=next(seeds)),
            fastlstm.Dropout(0.5),
            fastlstm.LSTM(4, 3, bias=False, batch_first=True, dtype=dtype, seed=next(seeds)),
            fastlstm.Tanh(),
        ),
        "last": fastlstm.Last(batch_first=True),
        "fc": fastlstm.Linear(3, 6, dtype=dtype, seed=next(seeds)),
        "relu": fastlstm.ReLU(),
        "out": fastlstm.Linear(6, 4, bias=False, dtype=dtype, seed=next(seeds)),
        "sigmoid": fastlstm.Sigmoid(),
        "softmax": fastlstm.Softmax(1),
    }
    return fastlstm.Sequential(layers)


def chain():
    """A model whose structure its names and shapes tell."""
    return fastlstm.Sequential(
        {
            "embedding": fastlstm.Embedding(11, 3, seed=1),
            "rnn": fastlstm.Sequential(
                {"lstm": fastlstm.LSTM(3, 5, 2, bidirectional=True, seed=2)}
            ),
            "fc": fastlstm.Linear(10, 4, seed=3),
        }
    )


# Files that torch wrote


@pytest.mark.parametrize("name", ["lstm", "lstm_legacy"])
def test_torch_state_dict(name):
    shapes = {}
    for layer, end in itertools.product("01", ["", "_reverse"]):
        end = f"_l{layer}{end}"
        shapes["weight_ih" + end] = (16, 4 if layer == "1" else 3)
        shapes["weight_hh" + end] = (16, 2)
        shapes["bias_ih" + end] = shapes["bias_hh" + end] = (16,)
        shapes["weight_hr" + end] = (2, 4)
    assert_same(load_state(DATA / f"{name}.pt"), by_rule(shapes), "float32")
    model = load(DATA / f"{name}.pt")
    assert repr(model) == (
        "LSTM(3, 4, proj_size=2, num_layers=2, batch_first=undecided, bidirectional=True)"
    )
    assert not model.training
    assert_same(model.state_dict(), by_rule(shapes), "float32")


@pytest.mark.parametrize(
    "name",
    ["small_protocol4", "small_legacy_protocol1", "small_legacy_protocol5", "small_no_checksums"],
)
def test_torch_pickle_protocols_and_missing_checksums(name):
    assert_same(load_state(DATA / f"{name}.pt"), by_rule(lstm_shapes(2, 3)), "float32")


@pytest.mark.parametrize("name", ["views", "views_legacy"])
def test_torch_views_and_dtypes(name):
    state = load_state(DATA / f"{name}.pt")
    base, tied = rule(0, 4, 6), rule(1, 3, 2)
    expected = {
        "offset": base[1:3],
        "strided": base[::2, 1::2],
        "transposed": base.T,
        "tied": tied,
        "tied_too": tied,
        "parameter": rule(2, 2, 3),
        "buffer": rule(3, 2),
        "half": rule(4, 5, 7),
        "bfloat16": rule(5, 5, 7),
        "float64": rule(6, 2, 2),
        "int64": np.array([-1, 2**40]),
        "uint8": np.array([0, 255], np.uint8),
        "flags": np.array([True, False]),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3)),
    }
    single = {
        n: a.astype("float32") if a.dtype == "float64" and n != "float64" else a
        for n, a in expected.items()
    }
    assert_same(state, single)
    assert np.shares_memory(state["tied"], state["tied_too"])
    assert np.shares_memory(state["offset"], state["transposed"])
    state["tied"][0, 0] = 99  # the arrays are the caller's, not views of something read-only
    assert state["tied_too"][0, 0] == 99


@pytest.mark.parametrize("key", [None, "model_state"])
@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_legacy"])
def test_torch_checkpoint_opens_by_itself(name, key):
    path = DATA / f"{name}.pt"
    assert_same(load_state(path, key=key), by_rule(lstm_shapes(2, 3)), "float32")
    assert_same(load(path, key=key).state_dict(), by_rule(lstm_shapes(2, 3)), "float32")
    assert_same(load_lstm(path, key=key).state_dict(), by_rule(lstm_shapes(2, 3)), "float32")


def test_lightning_checkpoint():
    shapes = {f"lstm.{name}": shape for name, shape in lstm_shapes(2, 3).items()}
    shapes |= {"fc.weight": (1, 3), "fc.bias": (1,)}
    expected = by_rule({f"model.{name}": shape for name, shape in shapes.items()})
    assert_same(load_state(DATA / "lightning.pt"), expected, "float32")
    model = load(DATA / "lightning.pt", batch_first=False)
    assert_same(model.state_dict(), expected, "float32")
    lstm = load_lstm(DATA / "lightning.pt", batch_first=True)
    assert repr(lstm) == "LSTM(2, 3, batch_first=True)" and not lstm.training
    x = rule(3, 4, 2, 2).astype("float32")
    weight, bias = expected["model.fc.weight"], expected["model.fc.bias"]
    hidden = lstm(x.swapaxes(0, 1))[0].swapaxes(0, 1)
    np.testing.assert_allclose(model(x), hidden @ weight.T + bias, rtol=1e-5)


def test_pickled_modules():
    assert_same(load_state(DATA / "module.pt"), by_rule(lstm_shapes(2, 3)), "float32")
    own = {"fc.weight": (1, 3), "fc.bias": (1,)}
    shapes = {"steps": (2,), **own} | {f"lstm.{n}": s for n, s in lstm_shapes(2, 3).items()}
    shapes |= {f"tied{name[2:]}": shape for name, shape in own.items()}
    expected = by_rule(shapes)
    expected |= {name: expected[f"tied{name[2:]}"] for name in own}  # filled last under that name
    state = load_state(DATA / "module_legacy.pt", key="net")
    assert_same(state, expected, "float32")
    assert np.shares_memory(state["fc.weight"], state["tied.weight"])
    assert load_lstm(DATA / "module_legacy.pt").batch_first  # which a whole module tells


def test_torchscript():
    shapes = {f"lstm.{name}": shape for name, shape in lstm_shapes(2, 3).items()}
    expected = by_rule(shapes | {"fc.weight": (1, 3), "fc.bias": (1,)})
    assert_same(load_state(DATA / "scripted.pt"), expected, "float32")


# Live torch


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_live_torch_state_dicts(torch, tmp_path, zipped, protocol):
    torch.manual_seed(protocol)
    module = torch.nn.ModuleDict(
        {
            "lstm": torch.nn.LSTM(3, 4, 2, bidirectional=True, dtype=torch.float64),
            "norm": torch.nn.BatchNorm1d(8),
        }
    )
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save(module.state_dict(), tmp_path / "a.pt", **options)
    torch.save(dict(module.named_parameters()), tmp_path / "b.pt", **options)
    expected = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert_same(load_state(tmp_path / "a.pt"), expected)
    parameters = {name: expected[name] for name, _ in module.named_parameters()}
    assert_same(load_state(tmp_path / "b.pt"), parameters)
    lstm = load_lstm(tmp_path / "a.pt", batch_first=False)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y, _ = module["lstm"](x)
    np.testing.assert_allclose(lstm(x.numpy())[0], y.detach().numpy(), atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_opens_what_we_write(torch, tmp_path, dtype):
    model = fastlstm.LSTM(3, 4, 2, bidirectional=True, proj_size=2, dtype=dtype, seed=0)
    save(model, tmp_path / "model.pt")
    for mmap in (False, True):
        state = torch.load(tmp_path / "model.pt", weights_only=True, mmap=mmap)
        assert_same({name: tensor.numpy() for name, tensor in state.items()}, model.state_dict())
    module = torch.nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2, dtype=getattr(torch, dtype))
    module.load_state_dict(state)
    big = fastlstm.Sequential({"häuf": fastlstm.Linear(300, 70000 // 300, dtype=dtype, seed=0)})
    save(big, tmp_path / "big.pth")
    state = torch.load(tmp_path / "big.pth", weights_only=True)
    assert_same({name: tensor.numpy() for name, tensor in state.items()}, big.state_dict())


# Saving and loading


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("suffix", [".npz", SAFETENSORS])
def test_round_trip_with_structure(tmp_path, suffix, dtype):
    model = make_model(dtype).eval()
    save(model, tmp_path / f"model{suffix}")
    again = load(tmp_path / f"model{suffix}", engine="numpy")
    assert_same(again.state_dict(), model.state_dict())
    assert structure.describe(again) == structure.describe(model)
    assert repr(again) == repr(model)
    assert not any(layer.training for _, layer in again.named_layers())
    assert again["encoder"][0].engine == "numpy"
    indices = np.array([[0, 2, 10, 4], [1, 1, 9, 3]])
    here = structure.build(structure.describe(model), engine="numpy").eval()
    here.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(again(indices, lengths=[4, 2]), here(indices, lengths=[4, 2]))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "model",
    [
        fastlstm.LSTM(2, 3, seed=0),
        fastlstm.LSTM(2, 5, 3, bias=False, bidirectional=True, proj_size=2, seed=0),
        fastlstm.LSTMCell(2, 3, bias=False, dtype="float64", seed=0),
        fastlstm.Linear(2, 3, seed=0),
        chain(),
    ],
    ids=["LSTM", "stack", "cell", "linear", "chain"],
)
def test_round_trip_of_every_format(tmp_path, suffix, model):
    path = tmp_path / f"model{suffix}"
    save(model, str(path))
    again = load(str(path), batch_first=False)
    again._untold = ""  # what a .pt file leaves open
    assert_same(again.state_dict(), model.state_dict())
    assert repr(again) == repr(model)
    assert sorted(load_state(path)) == sorted(model.state_dict())
    assert os.listdir(tmp_path) == [path.name]  # nothing is left beside it


def test_npz_is_numpys(tmp_path):
    model = chain()
    save(model, tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        entry = json.loads(file["__structure__"].item())
        state = {name: file[name] for name in file if name != "__structure__"}
    assert_same(state, model.state_dict())
    assert entry == {"version": 1, "structure": structure.describe(model)}


def test_plain_npz_of_arrays(tmp_path):
    state = fastlstm.LSTM(2, 3, seed=0).state_dict()
    state["weight_ih_l0"] = np.asfortranarray(state["weight_ih_l0"])
    state["bias_ih_l0"] = rule(0, 12).astype(np.float16)
    state["bias_hh_l0"] = rule(1, 12).astype(">f4")
    np.savez(tmp_path / "plain.npz", **state)
    widened = {name: a.astype("float32") for name, a in state.items()}
    assert_same(load_state(tmp_path / "plain.npz"), widened)
    assert_same(load(tmp_path / "plain.npz").state_dict(), widened)


def test_safetensors_of_others(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    state = fastlstm.LSTM(2, 3, seed=0).state_dict()
    state["bias_hh_l0"] = rule(1, 12).astype(np.float16)
    library.save_file(state, tmp_path / "a.safetensors", {"format": "np"})
    state["bias_hh_l0"] = state["bias_hh_l0"].astype("float32")
    loaded = load_state(tmp_path / "a.safetensors")
    assert_same({name: loaded[name] for name in state}, state)
    assert_same(load(tmp_path / "a.safetensors").state_dict(), state)


def test_safetensors_bfloat16_is_widened(tmp_path):
    pytest.importorskip("safetensors")
    numbers = np.concatenate([rule(0, 31), [np.inf, -0.0, 2.0**-126]]).astype("float32")
    header = {"x": {"dtype": "BF16", "shape": [2, 17], "data_offsets": [0, 68]}}
    text = json.dumps(header).encode()
    data = (numbers.view("<u4") >> 16).astype("<u2").tobytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert_same(load_state(path), {"x": numbers.reshape(2, 17)})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_content_tells_the_format(tmp_path, suffix):
    model = fastlstm.LSTM(2, 3, seed=0)
    save(model, tmp_path / f"model{suffix}")
    os.replace(tmp_path / f"model{suffix}", tmp_path / "model.bin")
    assert_same(load(tmp_path / "model.bin").state_dict(), model.state_dict())


def test_equal_models_give_equal_torch_files(tmp_path):
    for name in "ab":
        save(fastlstm.LSTM(2, 3, seed=0), tmp_path / f"{name}.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"model{suffix}"
    save(fastlstm.LSTM(2, 3, seed=0), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(fastlstm.LSTM(2, 3, seed=1), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_saving_refuses(tmp_path):
    with pytest.raises(
        ValueError, match=r"must be one of .*\.safetensors.*\.pt.*\.npz.*, got '.h5'"
    ):
        save(fastlstm.Tanh(), tmp_path / "model.h5")
    with pytest.raises(TypeError, match="model must be a layer, got dict"):
        save({}, tmp_path / "model.npz")

    class Mine(fastlstm.Linear):
        pass

    with pytest.raises(TypeError, match="the structure of Mine cannot be stored; known are LSTM"):
        save(fastlstm.Sequential(Mine(2, 3)), tmp_path / "model.npz")
    save(fastlstm.Sequential(Mine(2, 3)), tmp_path / "model.pt")
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ImportError, match="pip install safetensors"):
        save(fastlstm.LSTM(2, 3), path)
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ImportError, match="pip install safetensors"):
        load(path)


def test_torch_files_need_no_torch(tmp_path):
    code = (
        "import sys; from fastlstm import formats\n"
        f"model = formats.load({str(DATA / 'lstm.pt')!r}, engine='numpy')\n"
        f"formats.save(model, {str(tmp_path / 'again.pt')!r})\n"
        "print(sorted({'torch', 'safetensors', 'numba'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
    assert_same(load_state(tmp_path / "again.pt"), load_state(DATA / "lstm.pt"))


# Nested checkpoints


def write_pt(path, value=None, *, data=None, members=()):
    """Write a .pt zip: of a nested dict of arrays, or of a given pickle; `members` are added."""
    storages = []

    def opcodes(value):
        if isinstance(value, dict):
            items = b"".join(opcodes(k) + opcodes(v) for k, v in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, np.ndarray):
            storages.append(value.astype("<f4").tobytes())
            return tensor(value.shape, key=str(len(storages) - 1), count=value.size)
        return pickle.dumps(value, 2)[2:-1]

    data = b"\x80\x02" + opcodes(value) + b"." if data is None else data
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", data)
        for key, content in enumerate(storages):
            file.writestr(f"x/data/{key}", content)
        for name, content in members:
            with warnings.catch_warnings():  # of two members with one name
                warnings.simplefilter("ignore", UserWarning)
                file.writestr(name, content)


def tensor(shape, strides=None, offset=0, key="0", count=4, storage="torch\nFloatStorage"):
    """The opcodes of a tensor: its storage's persistent id, and what rebuilds it."""
    if strides is None:
        strides = tuple(int(np.prod(shape[n + 1 :], dtype=int)) for n in range(len(shape)))
    plain = [pickle.dumps(part, 2)[2:-1] for part in ("storage", key, "cpu", count)]
    place = b"".join(pickle.dumps(part, 2)[2:-1] for part in (offset, shape, strides))
    persistent = b"(" + plain[0] + f"c{storage}\n".encode() + b"".join(plain[1:]) + b"tQ"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + place + hooks + b"tR"


def test_key_chooses_among_nested_state_dicts(tmp_path):
    path = tmp_path / "nested.pt"
    one, two = np.full((2, 2), 1.0), np.full((2, 2), 2.0)
    tree = {"class_weights": np.full(3, 3.0), "ema": {"model": {"w": one}}, "model": {"w": two}}
    write_pt(path, tree | {"state": {0: {"momentum": one}}, "loss": np.array(0.5)})
    assert_same(load_state(path, key="ema.model"), {"w": one}, "float32")
    assert_same(load_state(path, key="model"), {"w": two}, "float32")
    top = {"class_weights": np.full(3, 3.0), "loss": np.array(0.5)}
    assert_same(load_state(path, key=""), top, "float32")
    listed = "'' (2 tensors), 'model' (1 tensors), 'ema.model' (1 tensors)"
    with pytest.raises(
        ValueError, match=re.escape(f"several state dicts, choose one with key=: {listed}")
    ):
        load_state(path)
    save(fastlstm.Linear(1, 1), tmp_path / "flat.npz")
    for function in (load, load_lstm, load_notes, load_state):
        with pytest.raises(ValueError, match=re.escape(f"has the key 'ema'; it holds {listed}")):
            function(path, key="ema")
        with pytest.raises(ValueError, match="flat.npz: key='model' is for torch checkpoints"):
            function(tmp_path / "flat.npz", key="model")


def test_notes_are_of_the_whole_file(tmp_path):
    """Whichever state dict is chosen; of what is no plain value there are none."""
    path, one = tmp_path / "lightning.pt", {"weight": rule(0, 2, 3), "bias": rule(1, 2)}
    hyper = {"sample_rate": 16000, "name": "amp", "mean": rule(0, 3), "sizes": [1, 2]}
    write_pt(path, {"state_dict": one, "ema": {"model": one}, "hyper_parameters": hyper})
    for key in ("state_dict", "ema.model"):
        assert load_notes(path, key=key) == {"sample_rate": 16000, "name": "amp"}
    with pytest.raises(ValueError, match="it holds several state dicts, choose one with key=: "):
        load_notes(path)
    line = [str(path), "--key", "ema.model"]
    assert cli.main(["convert", *line, str(tmp_path / "m.fl")]) == 0
    assert cli.main(["export", *line, "-o", str(tmp_path / "n.fl")]) == 0
    for name in ("m.fl", "n.fl"):
        assert load_notes(tmp_path / name)["sample_rate"] == 16000


@pytest.mark.parametrize("beside", [{"rng": rule(0, 9)}, {"mean": rule(0, 3), "std": rule(1, 3)}])
def test_what_stands_beside_a_state_dict_is_none(tmp_path, beside):
    state = by_rule(lstm_shapes(2, 3))
    write_pt(tmp_path / "x.pt", {**beside, "model": state, "stats": {"class_weights": rule(0, 4)}})
    assert_same(load_state(tmp_path / "x.pt"), state, "float32")
    assert repr(load(tmp_path / "x.pt", batch_first=False)) == "LSTM(2, 3)"


def test_load_lstm_takes_the_one_state_dict_with_an_lstm(tmp_path):
    state = {f"rnn.{name}": array for name, array in by_rule(lstm_shapes(2, 3)).items()}
    write_pt(tmp_path / "x.pt", {"body": state, "head": {"fc.weight": rule(0, 1, 3)}})
    assert repr(load_lstm(tmp_path / "x.pt", batch_first=False)) == "LSTM(2, 3)"
    several = "several state dicts, choose one with key=: 'body' (4 tensors), 'head' (1 tensors)"
    for function in (load, load_state):
        with pytest.raises(ValueError, match=re.escape(several)):
            function(tmp_path / "x.pt")


def test_one_dict_under_two_names_is_one(tmp_path):
    data = b"\x80\x02}(X\x01\0\0\0a}qcX\x01\0\0\0w" + tensor((4,)) + b"sX\x01\0\0\0bhcu."
    write_pt(tmp_path / "x.pt", data=data, members=[("x/data/0", bytes(16))])
    assert_same(load_state(tmp_path / "x.pt"), {"w": np.zeros(4, "float32")})


@pytest.mark.parametrize(
    "value, message",
    [
        ([1.5], "expected a state dict, got a list; save model.state_dict()"),
        (rule(0, 2), "expected a state dict, got a tensor"),
        ({"epoch": 3}, "it holds no tensors, so no state dict"),
        ({"loss": np.array(0.5)}, "it holds no tensors, so no state dict"),
    ],
)
def test_files_without_state_dict(tmp_path, value, message):
    write_pt(tmp_path / "x.pt", value)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_state(tmp_path / "x.pt")


def test_legacy_files_of_python_2(tmp_path):
    """They have byte strings as names, and the items of an OrderedDict as a list of pairs."""
    entry = tensor((2, 2)).replace(b"X\x07\0\0\0storage", b"U\x07storage")
    entry = entry.replace(b"tQ", b"NtQ")  # no view of another storage
    tree = b"\x80\x02ccollections\nOrderedDict\n(]]U\x01wa" + entry + b"aatR."
    machine = {"little_endian": True}
    pickles = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, machine, ["0"])]
    pickles.insert(3, tree)
    numbers = rule(0, 2, 2).astype("<f4")
    data = b"".join(pickles) + struct.pack("<q", 4) + numbers.tobytes()
    (tmp_path / "x.pt").write_bytes(data)
    assert_same(load_state(tmp_path / "x.pt"), {"w": numbers})


# Formats are equal modules


def test_formats_are_equal_modules():
    for name in ("recognises", "read"):
        signatures = {str(inspect.signature(getattr(form, name))) for form in formats.table.READ}
        assert len(signatures) == 1
    for form in formats.table.WRITTEN:
        parameters = inspect.signature(form.write).parameters.values()
        assert [p.name for p in parameters if p.default is p.empty] == ["file", "model"]


def test_a_format_is_one_module_and_one_line_in_a_table(tmp_path, monkeypatch):
    """This one is made up: the structure in the first line of a text, then the numbers."""

    class text:
        NAME, ORDERED = "text", False

        def recognises(source):
            return source.head.startswith(b"numbers of ")

        def read(source, choice=ANY):
            choice.refuse_key()
            first, *lines = source.read(0, source.size).decode().split("\n")
            state = State()
            state["weight"] = np.array([[float(line) for line in lines]])
            return Content(state, json.loads(first.removeprefix("numbers of ")), "it is mine")

    monkeypatch.setattr(formats.table, "READ", (*formats.table.READ, text))
    path = tmp_path / "model.txt"
    description = LINEAR | {"bias": False, "dtype": "float64"}
    path.write_text(f"numbers of {json.dumps(description)}\n3\n4")
    model = load(path)
    assert repr(model) == "Linear(in_features=2, out_features=1, bias=False)"
    np.testing.assert_array_equal(model([[1.0, 2.0]]), [[11.0]])
    path.write_text(f"numbers of {json.dumps(description)}\n3")
    with pytest.raises(ValueError, match="model.txt: it is mine: its structure needs 2 numbers"):
        load(path)
    with pytest.raises(ValueError, match="model.txt: key='a' is for torch checkpoints"):
        load(path, key="a")
    (tmp_path / "other.txt").write_text("words")
    with pytest.raises(ValueError, match="known are safetensors, torch, npz, .*text"):
        load(tmp_path / "other.txt")


# Descriptions of unknown origin

LINEAR = {"layer": "Linear", "in_features": 2, "out_features": 1, "bias": True, "dtype": "float32"}


@pytest.mark.parametrize(
    "description, message",
    [
        ([], 'a layer must be an object with a "layer"'),
        ({"layer": 3}, 'a layer must be an object with a "layer"'),
        ({"layer": "os.system"}, "an unknown layer 'os.system'; known are LSTM"),
        ({"layer": "Layer"}, "an unknown layer 'Layer'"),
        (
            LINEAR | {"seed": 1},
            "gives Linear the arguments 'bias', 'dtype', 'in_features', 'out_fe",
        ),
        ({"layer": "Linear"}, "gives Linear the arguments none, expected 'bias'"),
        (LINEAR | {"in_features": True}, "gives Linear in_features of type bool, expected int"),
        (LINEAR | {"in_features": 2.0}, "gives Linear in_features of type float, expected int"),
        (LINEAR | {"bias": 1}, "gives Linear bias of type int, expected bool"),
        (LINEAR | {"in_features": -2}, "in_features must be greater than zero, got -2"),
        (LINEAR | {"dtype": "object"}, 'dtype must be "float32" or "float64"'),
        ({"layer": "Dropout", "p": float("nan")}, "dropout should be a number in range [0, 1]"),
        ({"layer": "Sequential"}, "a Sequential must have children alone"),
        ({"layer": "Sequential", "children": [LINEAR]}, "a Sequential must have children alone"),
        ({"layer": "Sequential", "children": {"a.b": LINEAR}}, "a name must be a string without"),
    ],
)
def test_descriptions_are_checked(description, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        structure.build(description)


def test_arguments_are_those_of_the_constructors():
    """Files hold these; one that goes, or changes name or type, would make files unreadable."""
    whole, number, switch, text = (int,), (float,), (bool,), (str,)
    maybe = (bool, type(None))
    expected = {
        "LSTM": {
            "input_size": whole,
            "hidden_size": (int, list),
            "num_layers": whole,
            "bias": switch,
            "batch_first": maybe,
            "dropout": number,
            "bidirectional": switch,
            "proj_size": whole,
            "reverse": switch,
            "learn_initial_state": switch,
            "dtype": text,
        },
        "LSTMCell": {
            "input_size": whole,
            "hidden_size": whole,
            "bias": switch,
            "learn_initial_state": switch,
            "dtype": text,
        },
        "Linear": {"in_features": whole, "out_features": whole, "bias": switch, "dtype": text},
        "Embedding": {
            "num_embeddings": whole,
            "embedding_dim": whole,
            "padding_idx": (int, type(None)),
            "dtype": text,
        },
        "Dropout": {"p": number},
        "ReLU": {},
        "Tanh": {},
        "Sigmoid": {},
        "Softmax": {"dim": whole},
        "Last": {"batch_first": maybe, "bidirectional": maybe, "reverse": maybe},
    }
    for kind, arguments in expected.items():
        found = {name: a.types for name, a in structure._arguments(kind).items()}
        assert found.items() >= arguments.items()
    assert structure._LAYERS.keys() >= expected.keys()


def test_an_argument_that_is_left_out_has_its_default(tmp_path):
    """Files that were written before the layer had this argument leave it out."""
    lstm = fastlstm.LSTM(2, 3, seed=0).eval()
    arrays = lstm.state_dict()
    short = {"layer": "LSTM", "input_size": 2, "hidden_size": 3}
    text = json.dumps({"version": 1, "structure": short})
    np.savez(path := tmp_path / "x.npz", **arrays, __structure__=np.array(text.encode()))
    again = load(path)
    assert structure.describe(again) == structure.describe(lstm)
    x = rule(1, 5, 2, 2).astype("float32")
    np.testing.assert_array_equal(again(x)[0], lstm(x)[0])
    assert load(path, into=fastlstm.LSTM(2, 3)).hidden_size == 3
    with pytest.raises(ValueError, match="the LSTM has batch_first=False in the file, True in"):
        load(path, into=fastlstm.LSTM(2, 3, batch_first=True))
    huge = short | {"hidden_size": 10**9}
    with pytest.raises(ValueError, match="its structure needs 4000000008000000000 numbers or more"):
        structure.build(huge, state=arrays)


def test_descriptions_do_not_nest_endlessly():
    description = LINEAR
    for _ in range(17):
        description = {"layer": "Sequential", "children": {"0": description}}
    with pytest.raises(ValueError, match="nests more than 16 Sequentials"):
        structure.build(description)
    assert structure.build(description["children"]["0"]).num_parameters == 3


# Hostile and damaged files

BOMB = 1 << 40  # numbers; nobody has so much memory
LAST = b"0."  # pop what the call returned, and stop
RAN = []


def fire(*_):
    """What a hostile pickle below would call."""
    RAN.append(True)


def pt(data=None, members=(), **storages):
    """A maker of a .pt file with this pickle."""
    added = [(f"x/data/{key.removeprefix('s')}", content) for key, content in storages.items()]
    return lambda path: write_pt(path, data=data, members=[*members, *added])


def one(entry):
    """A pickle of {"w": entry}."""
    return b"\x80\x02}X\x01\0\0\0w" + entry + b"s."


def npz(**entries):
    """A maker of an .npz file with these members, and a valid bias."""

    def make(path):
        bias = io.BytesIO()
        np.save(bias, np.zeros(1))
        with zipfile.ZipFile(path, "w") as file:
            for name, content in (entries | {"bias": bias.getvalue()}).items():
                file.writestr(f"{name}.npy", content)

    return make


def npy(descr, shape, data=b"", order="False"):
    header = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def entry(text):
    """The bytes of the structure's member."""
    file = io.BytesIO()
    np.save(file, np.array(text.encode()))
    return file.getvalue()


def safetensors(header, data=b"", size=None):
    """A maker of a .safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if size is None else size

    def make(path):
        pytest.importorskip("safetensors")
        path.write_bytes(struct.pack("<Q", size) + text + data)

    return make


def legacy(*pickles, data=b"", protocol=2):
    """A maker of a legacy stream: ready pickles as bytes, everything else is pickled."""
    parts = [p if isinstance(p, bytes) else pickle.dumps(p, protocol) for p in pickles]
    return lambda path: path.write_bytes(b"".join(parts) + data)


def zipped(name, content, method, changes=()):
    """A maker of a zip file with this member; `changes` are those of its entry's fields."""

    def make(path):
        with zipfile.ZipFile(path, "w", method) as file:
            file.writestr(name, content)
        for field in changes:
            path.write_bytes(directory(field, changes[field])(path.read_bytes()))

    return make


def stored(name, change):
    """A maker of a changed copy of a file of torch's."""
    return lambda path: path.write_bytes(change((DATA / f"{name}.pt").read_bytes()))


def replaced(name, old, new):
    def change(data):
        assert data.count(old) == 1
        return data.replace(old, new)

    return stored(name, change)


def flipped(where):
    def change(data):
        return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]

    return change


def directory(field, value, which=0):
    """Overwrite a field of an entry of a zip's central directory: (offset, format)."""
    offset, form = field

    def change(data):
        data, start = bytearray(data), 0
        for _ in range(which + 1):
            start = data.index(b"PK\x01\x02", start + 1)
        struct.pack_into(form, data, start + offset, value)
        return bytes(data)

    return change


def swallowed(data):
    """All entries of a zip's central directory but the first become that one's comment."""
    first, second = (m.start() for m in itertools.islice(re.finditer(b"PK\1\2", data), 2))
    end = data.index(b"PK\6\6") if b"PK\6\6" in data else data.index(b"PK\5\6")
    return directory((32, "<H"), end - second)(data)


FLAGS, METHOD, SIZE, REAL, PLACE = (8, "<H"), (10, "<H"), (20, "<I"), (24, "<I"), (42, "<I")

MAGIC, MACHINE = 0x1950A86A20F9469CFC6C, {"little_endian": True}
LEGACY_TENSOR = one(tensor((2, 2)).replace(b"tQ", b"NtQ"))
FIRE = f"c{__name__}\nfire\n".encode()
NESTED_JSON = "[" * 100_000
HUGE_LSTM = {
    "version": 1,
    "structure": {
        "layer": "LSTM",
        "input_size": 1,
        "hidden_size": 1 << 20,
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
        "proj_size": 0,
        "dtype": "float64",
    },
}
SAVE = "save model.state_dict(); it asks for "
REFUSED = "which is refused: only plain numbers are loaded, never code"

HOSTILE = {
    # pickles that would run code
    "call": (pt(one(FIRE + b")R")), f"it asks for '{__name__}.fire', {REFUSED}"),
    "system": (pt(one(b"cos\nsystem\n(X\x01\0\0\0wtR")), f"it asks for 'os.system', {REFUSED}"),
    "eval": (pt(one(b"c__builtin__\neval\n")), f"it asks for '__builtin__.eval', {REFUSED}"),
    "protocol 4": (
        pt(b"\x80\x04\x8c\x02os\x8c\x06system\x93."),
        f"it asks for 'os.system', {REFUSED}",
    ),
    "dotted name": (
        pt(b"\x80\x04\x8c\x05torch\x8c\x0fhub.os.popen(1)\x93."),
        f"it asks for 'torch.hub.os.popen(1)', {REFUSED}",
    ),
    "global of a list": (pt(b"\x80\x04]]\x93."), "a global is not named by strings"),
    "unknown storage": (
        pt(one(tensor((4,), storage="torch\nQInt8Storage"))),
        "entry 'w' has numbers of type 'QInt8Storage', which NumPy lacks",
    ),
    "INST": (pt(b"(ios\nsystem\n."), f"got an object of 'os.system'; {SAVE}'os.system', {REFUSED}"),
    "OBJ": (pt(b"(cos\nsystem\no."), f"got an object of 'os.system'; {SAVE}'os.system', {REFUSED}"),
    "NEWOBJ": (
        pt(b"cos\nsystem\n)\x81."),
        f"got an object of 'os.system'; {SAVE}'os.system', {REFUSED}",
    ),
    "NEWOBJ_EX": (
        pt(b"cos\nsystem\n)}\x92."),
        f"got an object of 'os.system'; {SAVE}'os.system', {REFUSED}",
    ),
    "call a result": (
        pt(b"cos\nsystem\n)R)R."),
        f"got an object of 'os.system'; {SAVE}'os.system', {REFUSED}",
    ),
    "a weight": (
        pt(b"}(X\1\0\0\0w" + tensor((4,)) + b"X\4\0\0\0bias" + FIRE + b")Ru.", s0=bytes(16)),
        f"entry 'bias' is an object of '{__name__}.fire', which is not opened: only plain numbers",
    ),
    "EXT1": (pt(b"\x82\x01."), "expected a state dict, got the name 'extension.1'"),
    "call a storage": (
        pt(b"ctorch\nFloatStorage\n)R."),
        "its pickle is damaged: it calls a storagetype",
    ),
    "call a string": (pt(b"X\x01\0\0\0w)R."), "its pickle is damaged: it calls a str"),
    "call with a list": (pt(FIRE + b"]R."), "its pickle is damaged: it calls with a list"),
    "build a function": (
        pt(b"ctorch._utils\n_rebuild_tensor_v2\n}b."),
        "expected a state dict, got a function",
    ),
    "text persistent id": (pt(b"Pstorage\n."), "a storage is not described as torch does it"),
    # pickles that would take memory or the stack
    "bytearray": (pt(b"\x96" + struct.pack("<Q", BOMB) + b"."), "its pickle is damaged or trunc"),
    "bytes": (pt(b"B" + struct.pack("<I", 2**32 - 1) + b"."), "its pickle is damaged or truncated"),
    "string": (pt(b"\x8d" + struct.pack("<Q", BOMB) + b"."), "its pickle is damaged or truncated"),
    "memo": (pt(b"]r" + struct.pack("<I", 2**32 - 1) + b"."), "expected a state dict, got a list"),
    "deep": (pt(b"]" + b"\x85" * 20_000 + b"."), "expected a state dict, got a tuple"),
    "deep key": (pt(b"})" + b"\x85" * 120_000 + b"Ns."), "it holds no tensors, so no state dict"),
    "deep dicts": (pt(b"}X\x01\0\0\0a" * 20_000 + b"N" + b"s" * 20_000 + b"."), "holds no tensors"),
    "itself": (pt(b"}q\0X\x01\0\0\0ah\0s."), "it holds no tensors, so no state dict"),
    "deep count": (
        pt(one(tensor((4,), count=4).replace(b"K\x04tQ", b")" + b"\x85" * 20_000 + b"tQ"))),
        "storage '0' must hold a count of numbers, got a tuple",
    ),
    "large pickle": (
        zipped("x/data.pkl", b"N", zipfile.ZIP_STORED, {SIZE: 1 << 27, REAL: 1 << 27}),
        "member 'x/data.pkl' of 134217728 bytes overlaps what follows it",
    ),
    # damaged pickles
    "empty pickle": (pt(b""), "its pickle is damaged or truncated: pickle exhausted"),
    "empty stack": (pt(b"\x80\x02a."), "its pickle is damaged"),
    "no mark": (pt(b"\x80\x02]e."), "its pickle is damaged"),
    "no memo": (pt(b"\x80\x02h\x05."), "its pickle is damaged"),
    "no pairs": (
        pt(b"ccollections\nOrderedDict\n(](]]etR."),
        "its pickle is damaged: an item of a dict is not a pair",
    ),
    "odd escape": (pt(b"co\\s\nsystem\n."), "it asks for 'o\\\\s.system'"),
    "items of a list": (pt(b"]NNs."), "it sets items of a list"),
    "append to an int": (pt(b"K\1Na."), "its pickle is damaged"),
    "odd items": (pt(b"}(Nu."), "its pickle is damaged: an item of a dict is not a pair"),
    "persistent string": (pt(one(b"X\x01\0\0\0wQ")), "its pickle is damaged"),
    "long key": (pt(one(tensor((4,), key="k" * 300))), "a storage's key must be a short string"),
    "other storage": (
        pt(one(tensor((4,)).replace(b"storage", b"starage"))),
        "a storage is not described as torch does it",
    ),
    "two dtypes": (
        pt(b"](" + tensor((1,)) + tensor((1,), storage="torch\nIntStorage") + b"e."),
        "storage '0' is described in two ways",
    ),
    "tensor of a string": (
        pt(one(b"ctorch._utils\n_rebuild_tensor_v2\n(X\0\0\0\0K\0))\x89NtR")),
        "a tensor must be a view of a storage, got a str",
    ),
    "parameter of a string": (
        pt(one(b"ctorch._utils\n_rebuild_parameter\n(X\0\0\0\0\x89NtR")),
        "a Parameter must hold a tensor, got a str",
    ),
    # tensors that do not lie in their storages
    "shape": (pt(one(tensor((BOMB,)))), "does not lie within its storage of 4 numbers"),
    "shape of no strides": (
        pt(one(tensor((BOMB, BOMB), (0, 0))), s0=bytes(16)),
        f"the tensors name {BOMB**2} numbers, many times those that are stored",
    ),
    "offset": (pt(one(tensor((2,), offset=3))), "shape (2,), strides (1,) and offset 3 does not"),
    "offset of nothing": (pt(one(tensor((0,), offset=5))), "offset 5 does not lie within"),
    "stride": (pt(one(tensor((2, 2), (3, 1)))), "does not lie within its storage of 4 numbers"),
    "negative offset": (pt(one(tensor((2,), offset=-1))), "must be whole numbers from 0 to"),
    "negative stride": (pt(one(tensor((2,), (-1,)))), "must be whole numbers from 0 to"),
    "negative shape": (pt(one(tensor((-2,), (1,)))), "must be whole numbers from 0 to"),
    "shape of floats": (pt(one(tensor((2.0,), (1,)))), "must be whole numbers from 0 to"),
    "huge stride": (
        pt(one(tensor((1,), (1 << 70,)))),
        "must be whole numbers from 0 to 2814749767",
    ),
    "huge and empty": (
        pt(one(tensor((0, 1 << 62), (1, 1)))),
        "must be whole numbers from 0 to 281",
    ),
    "large and empty": (
        pt(one(tensor((0,) + (1 << 40,) * 3, (1,) * 4)), s0=bytes(16)),
        "array is too big",
    ),
    "strides": (pt(one(tensor((2, 2), (1,)))), "as many strides as dimensions, at most 32, got 1"),
    "dimensions": (pt(one(tensor((1,) * 40))), "at most 32, got 40 and 40"),
    "count": (pt(one(tensor((2,), count=-4))), "storage '0' must hold a count of numbers, got -4"),
    "repeated": (
        pt(
            b"}("
            + b"".join(b"X\1\0\0\0%c" % c + tensor((1 << 20,), (0,)) for c in range(65, 85))
            + b"u.",
            s0=bytes(16),
        ),
        "the tensors name 20971520 numbers, many times those that are stored",
    ),
    "no storage": (pt(one(tensor((2, 2)))), "storage '0' is missing"),
    "bomb": (
        pt(one(tensor((BOMB,), count=BOMB)), s0=bytes(16)),
        f"storage '0' must have {4 * BOMB} bytes for {BOMB} numbers of type float32, got 16",
    ),
    "short storage": (pt(one(tensor((2, 2))), s0=bytes(12)), "must have 16 bytes for 4 numbers"),
    "big-endian": (
        pt(one(tensor((2, 2))), [("x/byteorder", b"big")], s0=bytes(16)),
        'it was written on a big-endian machine (byteorder "big"); load it with torch',
    ),
    "byteorder": (pt(one(tensor((2, 2))), [("x/byteorder", b"huge")]), "its member byteorder is"),
    "two pickles": (pt(b"N.", [("y/data.pkl", b"N.")]), "it holds 2 members named data.pkl"),
    # zips
    "truncated zip": (stored("lstm", lambda data: data[:-30]), "a damaged or truncated zip file"),
    "half a zip": (stored("lstm", lambda data: data[:3000]), "a damaged or truncated zip file"),
    "flipped number": (
        stored("lstm", flipped(4000)),
        "is damaged: its checksum is wrong",
    ),
    "two of a name": (pt(b"N.", [("x/data.pkl", b"N.")]), "two members of the zip file have the n"),
    "same place": (
        stored("lstm", directory(PLACE, 0, 2)),
        "overlaps what follows it: there is room",
    ),
    "overlap": (
        stored("lstm", lambda d: directory(SIZE, 1800)(directory(REAL, 1800)(d))),
        "member 'lstm/data.pkl' of 1800 bytes overlaps what follows it: there is room for 16",
    ),
    "lost members": (
        stored("lstm", swallowed),
        "bytes after 'lstm/data.pkl' belong to no member",
    ),
    "long comment": (
        stored("lstm", directory((32, "<H"), 65535)),
        "a damaged or truncated zip file: its directory is damaged",
    ),
    "two sizes": (stored("lstm", directory(REAL, 2**31)), "has two sizes"),
    "outside": (stored("lstm", directory(PLACE, 2**31)), "a damaged"),
    "encrypted": (
        stored("lstm", directory(FLAGS, 0x801)),
        "member 'lstm/data.pkl' is encrypted or compressed by another method than deflate",
    ),
    "renamed": (stored("lstm", directory((46, "<B"), 65)), "is not where its directory says"),
    "compressed": (
        zipped("x/data.pkl", b"N." * 999, zipfile.ZIP_BZIP2),
        "member 'x/data.pkl' is encrypted or compressed by another method than deflate",
    ),
    "deflated": (
        zipped("x/data.pkl", b"N." * 999, zipfile.ZIP_DEFLATED, {REAL: 1997}),
        "member 'x/data.pkl' is damaged: it does not inflate to 1997 bytes",
    ),
    "inflated bytes": (
        zipped("x/data.pkl", b"N." * 999, zipfile.ZIP_DEFLATED, {REAL: 1 << 27}),
        "it has 134217728 or more bytes of a pickle; at most 67108864 are read",
    ),
    # legacy streams
    "not torch's": (legacy({"a": 1}), "it is a pickle, but not one of torch's"),
    "numpy pickle": (legacy({"a": np.zeros(1)}, protocol=3), "but not one of torch's"),
    "protocol": (legacy(MAGIC, 1002), "torch's protocol version must be 1001, got 1002"),
    "old big-endian": (legacy(MAGIC, 1001, {"little_endian": False}), "on a big-endian machine"),
    "old code": (legacy(MAGIC, 1001, MACHINE, FIRE + b")R.", []), f"it asks for '{__name__}.fire'"),
    "old keys": (legacy(MAGIC, 1001, MACHINE, LEGACY_TENSOR, ["1"]), "list of its storages is dam"),
    "old lists": (legacy(MAGIC, 1001, MACHINE, LEGACY_TENSOR, [[]]), "list of its storages is"),
    "old missing": (
        legacy(MAGIC, 1001, MACHINE, LEGACY_TENSOR, []),
        "storage '0' is missing",
    ),
    "old view": (
        legacy(MAGIC, 1001, MACHINE, one(tensor((2,)).replace(b"tQ", b"(K\1K\1ttQ"))),
        "a storage is not described as torch does it",
    ),
    "old count": (
        legacy(MAGIC, 1001, MACHINE, LEGACY_TENSOR, ["0"], data=struct.pack("<q4f", 5, 1, 2, 3, 4)),
        "storage '0' must have 4 numbers, got 5",
    ),
    "old bomb": (
        legacy(MAGIC, 1001, MACHINE, one(tensor((BOMB,), count=BOMB)), ["0"], data=bytes(99)),
        "it is truncated: storage '0' ends at byte 4398046511",
    ),
    "old truncated": (stored("lstm_legacy", lambda data: data[:-1]), "it is truncated: storage"),
    "old half": (stored("lstm_legacy", lambda data: data[:999]), "its pickle is damaged or trunc"),
    # npz
    "objects": (
        npz(weight=npy("|O", (2,), b"cos\nsystem\n.")),
        "entry 'weight' is not a plain arr",
    ),
    "records": (npz(weight=npy([("a", "<f4")], (1,), bytes(4))), "is not a plain array of numbers"),
    "long double": (npz(weight=npy("<f16", (1,), bytes(16))), "is not a plain array of numbers"),
    "no header": (npz(weight=b"abc"), "entry 'weight' is not a plain array of numbers"),
    "npz bomb": (
        npz(weight=npy("<f8", (BOMB, BOMB))),
        f"entry 'weight' of shape ({BOMB}, {BOMB}) and type float64 must have",
    ),
    "short array": (npz(weight=npy("<f4", (3,), bytes(8))), "must have 12 bytes, got 8"),
    "deep header": (npz(weight=npy("<f4", "(" * 9999)), "is not a plain array of numbers"),
    "compressed npz": (
        lambda path: np.savez_compressed(path, weight=np.zeros(9 << 20)),
        "it has 75497600 or more inflated bytes; at most ",
    ),
    "not JSON": (npz(__structure__=entry("{")), "its structure is damaged JSON"),
    "deep JSON": (npz(__structure__=entry(NESTED_JSON)), "its structure is damaged JSON"),
    "JSON list": (
        npz(__structure__=entry("[1]")),
        "must be an object of a version and a structure",
    ),
    "newer version": (
        npz(__structure__=entry('{"version": 2, "structure": {}}')),
        "its structure was written by a newer fastlstm: install that to read it",
    ),
    "older version": (
        npz(__structure__=entry('{"version": 0, "structure": {}}')),
        "its structure must have version 1, got 0",
    ),
    "no text": (npz(__structure__=npy("<f8", (), bytes(8))), "'__structure__' must be one string"),
    "bad text": (npz(__structure__=npy("|S2", (), b"\xff{")), "its structure is damaged JSON"),
    "structure bomb": (
        npz(__structure__=entry(json.dumps(HUGE_LSTM))),
        "its structure needs 4398050705408 numbers or more, the file holds 1",
    ),
    "wrong arrays": (
        npz(
            __structure__=entry(json.dumps({"version": 1, "structure": LINEAR})),
            extra=npy("<f4", (3,), bytes(12)),
        ),
        'Missing key(s) in state_dict: "weight".\n\tUnexpected key(s) in state_dict: "extra".',
    ),
    # safetensors
    "header size": (safetensors({}, size=BOMB), "a damaged or truncated safetensors file"),
    "header": (safetensors(b"{]"), "a damaged or truncated safetensors file"),
    "deep safetensors": (safetensors(b'{"a":' + b"[" * 9999), "a damaged or truncated safetensors"),
    "tensor bomb": (
        safetensors({"w": {"dtype": "F32", "shape": [BOMB], "data_offsets": [0, 4 * BOMB]}}),
        "a damaged or truncated safetensors file",
    ),
    "shared bytes": (
        safetensors(
            {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)
        ),
        "a damaged or truncated safetensors file",
    ),
    "safetensors code": (
        safetensors({"__metadata__": {"fastlstm": '{"version": 1, "structure": {"layer": "os"}}'}}),
        "its structure has an unknown layer 'os'",
    ),
    # no model files at all
    "empty": (lambda path: path.write_bytes(b""), "of no known format; known are safetensors, to"),
    "text": (lambda path: path.write_text("Hello, world"), "its content is of no known format"),
    "other zip": (zipped("a.txt", b"Hello", zipfile.ZIP_STORED), "its content is of no known form"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    make, message = HOSTILE[name]
    path = tmp_path / "hostile.npz"
    make(path)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) < 2000
    assert not RAN
    # A pickle's opcode is one byte and may make one object, of 64 bytes or so with its place.
    assert peak < 2_000_000 + 150 * size


# Random damage


STORED = ["views", "small_no_checksums", "small_legacy_protocol5"]


@pytest.fixture(scope="module", params=[*SUFFIXES, *STORED])
def valid(request, tmp_path_factory):
    """A valid file of each form: its bytes, a path for damaged ones, whether it has checksums."""
    folder = tmp_path_factory.mktemp("damaged")
    if request.param in STORED:
        content = (DATA / f"{request.param}.pt").read_bytes()
        return content, folder / "damaged", request.param == "views"
    model = fastlstm.Sequential({"lstm": fastlstm.LSTM(1, 2, seed=0), "fc": fastlstm.Linear(2, 1)})
    save(model, folder / f"valid{request.param}")
    content = (folder / f"valid{request.param}").read_bytes()
    return content, folder / "damaged", request.param != ".safetensors"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_random_damage_is_a_value_error_or_arrays(valid, data):
    content, path, checked = valid
    places = st.integers(0, len(content) - 1)
    if data.draw(st.booleans()):
        damaged = content[: data.draw(places)]
    else:
        damaged = bytearray(content)
        for place, byte in data.draw(
            st.dictionaries(places, st.integers(0, 255), max_size=4)
        ).items():
            damaged[place] = byte
    path.write_bytes(damaged)
    try:
        state = load_state(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
        return
    assert all(type(array) is np.ndarray and array.dtype != object for array in state.values())
    if checked:
        path.write_bytes(content)
        assert_same(state, load_state(path))
        path.write_bytes(damaged)
    with warnings.catch_warnings():  # a changed dropout of one layer is warned of
        warnings.simplefilter("ignore", UserWarning)
        try:
            load(path, engine="numpy")
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")


def test_structure_of_layers_that_do_not_go_together():
    cell = structure.describe(fastlstm.LSTMCell(3, 4))
    children = {"cell": cell, "relu": {"layer": "ReLU"}}
    with pytest.raises(ValueError, match="^its structure cannot be built: Sequential: 'cell' "):
        structure.build({"layer": "Sequential", "children": children})
