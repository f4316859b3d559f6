"""What the readers open, what they leave closed, and how much a file may ask of them."""

import argparse
import collections
import dataclasses
import enum
import functools
import io
import json
import os
import pathlib
import pickle
import struct
import sys
import tempfile
import tracemalloc
import types
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastlstm
from fastlstm.formats import budget as budgets
from fastlstm.formats import load, load_lstm, load_state, pickles, save, torch_pt, torch_state_dicts
from fastlstm.formats.dtypes import numbers
from fastlstm.formats.source import Source

RAN = []


class Attack:
    """An object whose pickle asks for a call."""

    def __reduce__(self):
        return RAN.append, ("it ran",)


class Sly:
    """An object that does something when its attributes are set."""

    def __getstate__(self):
        return "its state"

    def __setstate__(self, state):
        RAN.append(state)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Config:
    rate: float = 0.1
    sizes: tuple = (1, 2)


class Ordered(collections.OrderedDict):
    pass


class Mine(dict):
    pass


class Slots:
    __slots__ = ("size",)

    def __init__(self):
        self.size = 1


def a_function():
    pass


def objects(torch):
    """What people save beside a state dict, by name."""
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.tag = "mine"
    tensor = torch.ones(3)
    tensor.tag = "mine"
    lstm = torch.nn.LSTM(1, 1)
    optimizer = torch.optim.Adam(lstm.parameters())
    for weight in lstm.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    return {
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "layout": torch.strided,
        "set": {1, "a"},
        "frozenset": frozenset({2}),
        "counter": collections.Counter("aab"),
        "bytes": b"abc",
        "bytearray": bytearray(b"abc"),
        "complex": 1 + 2j,
        "parameter": parameter,
        "tensor": tensor,
        "namespace": argparse.Namespace(rate=0.1, sizes={"a": [1]}),
        "simple namespace": types.SimpleNamespace(rate=0.1),
        "path": pathlib.PurePosixPath("/models/a"),
        "numpy float": np.float64(3),
        "numpy integer": np.int64(3),
        "numpy array": np.arange(3.0),
        "numpy objects": np.array([None, {}], object),
        "numpy records": np.zeros(2, [("a", "f4")]),
        "numpy generator": np.random.default_rng(0),
        "dataclass": Config(),
        "class": Config,
        "enum": Colour.RED,
        "defaultdict": collections.defaultdict(list, a=[1]),
        "OrderedDict": collections.OrderedDict(a=1),
        "OrderedDict of its own": Ordered(a=1),
        "deque": collections.deque([1], 5),
        "partial": functools.partial(print, 1),
        "function": a_function,
        "builtin": len,
        "slots": Slots(),
        "attack": Attack(),
        "sly": Sly(),
        "optimiser": optimizer,
        "optimiser state": optimizer.state_dict(),
        "nested": [[[{"a": [torch.zeros(2)]}]], (1, [2])],
        "other keys": {1: 2, (1, 2): 3, b"a": 1, None: 2, 1.5: 3},
        "ellipsis": ...,
        "slice": slice(1, 2),
        "large integer": 2**700,
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.zeros(2, device="meta"),
        "storage": torch.zeros(3).untyped_storage(),
        "loss": torch.nn.CrossEntropyLoss(),
    }


def saved(torch, value, **options):
    """What torch.save writes, as an open file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, file, **options)
    file.seek(0)
    return file


def assert_equal(state, expected):
    """Names in order, shapes, dtypes and bits, of a state dict of torch's."""
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        array = tensor.numpy() if hasattr(tensor, "numpy") else tensor
        assert state[name].dtype == array.dtype and state[name].shape == array.shape, name
        np.testing.assert_array_equal(state[name], array, err_msg=name)


@pytest.fixture
def weights(torch):
    """The state dict of an LSTM(2, 3)."""
    torch.manual_seed(0)
    return torch.nn.LSTM(2, 3).state_dict()


# Objects of any kind stay closed (kind 3)


@pytest.mark.filterwarnings("ignore:.* beside the LSTM's own parameters")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", range(6))
def test_objects_beside_a_state_dict_are_not_opened(torch, weights, protocol, zipped):
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    for name, value in objects(torch).items():
        try:
            beside = saved(torch, {name: value, "model": weights}, **options)
        except (TypeError, pickle.PicklingError):  # protocols 0 and 1 lack some
            assert protocol < 2, name
            continue
        if name == "loss" and protocol == 0 and not zipped:
            continue  # its source is in the file, in lines, which torch cannot read either
        assert_equal(load_state(beside), weights)
        inside = saved(torch, {**weights, name: value}, **options)
        assert_equal(load_lstm(inside).state_dict(), weights)
    assert not RAN


def test_a_checkpoint_of_everything(torch, weights):
    value = {"model": weights, "rest": objects(torch)}
    assert_equal(load_state(saved(torch, value), key="model"), weights)
    assert_equal(load(saved(torch, value), key="model").state_dict(), weights)
    assert not RAN


@pytest.mark.parametrize("kind", [Ordered, Mine, collections.defaultdict, dict])
def test_a_state_dict_of_any_kind_of_dict(torch, weights, kind):
    for protocol in range(6):
        value = kind()
        value.update(weights)
        assert_equal(load_state(saved(torch, value, pickle_protocol=protocol)), weights)


def test_an_object_in_the_place_of_a_weight_is_named(torch, weights):
    value = {**weights, "bias_hh_l0": Attack(), "note": Attack()}
    for function in (load, load_lstm, load_state):
        with pytest.raises(
            ValueError, match="entry 'bias_hh_l0' is an object of '.*append'|getattr"
        ):
            function(saved(torch, value))
    assert not RAN


def test_a_file_of_objects_alone_names_them(torch):
    with pytest.raises(ValueError) as error:
        load(saved(torch, {"a": Attack(), "b": [pathlib.PurePosixPath("/a")]}))
    assert "it holds no tensors, so no state dict; it asks for " in str(error.value)
    assert "'pathlib.PurePosixPath'" in str(error.value)
    with pytest.raises(
        ValueError, match="expected a state dict, got an object of '.*Config'; save"
    ):
        load(saved(torch, Config()))
    with pytest.raises(
        ValueError, match="expected a state dict, got a list; save model.state_dict"
    ):
        load(saved(torch, [1.5, "a"]))
    with pytest.raises(ValueError, match="expected a state dict, got None; save"):
        load(saved(torch, None))
    assert not RAN


def test_numpy_arrays_are_weights(torch, weights):
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    arrays["weight_hh_l0"] = np.asfortranarray(arrays["weight_hh_l0"])
    arrays["bias_ih_l0"] = arrays["bias_ih_l0"].astype(">f4")
    arrays["bias_hh_l0"] = np.arange(12).astype(np.float16)
    expected = {name: array.astype("f4") for name, array in arrays.items()}
    for protocol in (1, 2, 3, 4, 5):
        state = load_state(saved(torch, arrays, pickle_protocol=protocol))
        assert_equal(state, expected)
        state["bias_ih_l0"][0] = 1  # the caller's own


def test_numpy_arrays_among_tensors_are_objects(torch, weights):
    mixed = {**weights, "history": np.ones((2, 3)), "bias_hh_l0": weights["bias_hh_l0"].numpy()}
    for value in (mixed, {"model": mixed, "rates": np.ones(4)}):
        assert_equal(load(saved(torch, value)).state_dict(), weights)
        assert_equal(load_lstm(saved(torch, value)).state_dict(), weights)


@pytest.mark.parametrize("lost", ["weight_hh_l0", "weight_ih_l0"])
def test_a_weight_that_is_not_read_is_why_there_is_no_lstm(torch, weights, lost):
    sparse = {**weights, lost: weights[lost].to_sparse()}
    for prefix in ("", "enc."):
        state = {prefix + name: tensor for name, tensor in sparse.items()}
        with pytest.raises(ValueError, match=f"entry '{prefix}{lost}' is a sparse tensor"):
            load_lstm(saved(torch, state))


def test_an_lstm_beside_other_tensors_of_its_module(torch, weights):
    beside = {**weights, "h_0": torch.ones(3), "attention": torch.ones(2, 2)}
    with pytest.warns(UserWarning, match="what 'h_0', 'attention' beside .* left out"):
        assert_equal(load_lstm(saved(torch, beside)).state_dict(), weights)
    with pytest.raises(ValueError, match="it holds no LSTM"):
        load_lstm(saved(torch, {**weights, "weight_hh_l0_scale": torch.ones(12, 3)}))


def test_state_dicts_in_lists_are_found_where_there_are_no_others(torch, weights):
    other = {name: tensor + 1 for name, tensor in weights.items()}
    for value in ([weights, 3], (3, weights), {"epoch": 3, "nets": [{"rate": 0.1}, weights]}):
        assert_equal(load_state(saved(torch, value)), weights)
        assert_equal(load(saved(torch, value)).state_dict(), weights)
    value = {"model": weights, "best": [other, (weights,)], "history": [[0.1, 0.2], []]}
    assert_equal(load_state(saved(torch, value)), weights)
    assert_equal(load_state(saved(torch, value), key="best.0"), other)
    assert_equal(load_state(saved(torch, value), key="best.1.0"), weights)
    value = {"a": {"b.c": weights}, "also": weights}
    for key in ("a.b.c", "also"):  # one dict under two names, one of them with a dot
        assert_equal(load_state(saved(torch, value), key=key), weights)
    with pytest.raises(ValueError, match="several state dicts, choose one with key=: '0' .*, '1' "):
        load_state(saved(torch, [weights, other]))
    tensors = load_state(saved(torch, list(weights.values())))
    assert_equal(tensors, dict(zip("0123", weights.values(), strict=True)))


def test_tensors_of_other_devices_and_of_old_files(torch):
    class Elsewhere:
        def __reduce__(self):
            array = np.arange(3, dtype="f4")
            function = torch._utils._rebuild_device_tensor_from_numpy
            return function, (array, torch.float32, "xla:0", False)

    expected = {"weight": np.arange(3, dtype="f4")}
    assert_equal(load_state(saved(torch, {"weight": Elsewhere()})), expected)
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + STORAGE + b"K\1K\3\x85K\1\x85tR"
    content = pt(b"}" + text("weight") + tensor + b"s.", np.arange(-1, 3, dtype="<f4").tobytes())
    assert_equal(load_state(io.BytesIO(content)), expected)


# Whole modules and TorchScript


def network(torch):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(6, 1)
            self.embedding = torch.nn.Embedding(9, 2)
            self.lstm = torch.nn.LSTM(2, 3, 2, bidirectional=True, batch_first=True)
            self.register_buffer("passing", torch.ones(1), persistent=False)
            self.register_buffer("steps", torch.tensor(3))
            self.register_parameter("none", None)
            self.scale = torch.nn.Parameter(torch.full((1,), 2.0))
            self.blocks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(1, 1))])
            self.tied = self.fc
            self.plain = torch.ones(4)

        def forward(self, x):
            return self.fc(self.lstm(self.embedding(x))[0])

    torch.manual_seed(1)
    globals()["Network"] = Network
    Network.__qualname__ = "Network"
    return Network()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_whole_modules_give_their_state_dict(torch, protocol, zipped):
    module = network(torch)
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    for value in (module, {"epoch": 3, "net": module, "ema": {"rate": 0.5}}):
        state = load_state(saved(torch, value, **options))
        assert_equal(state, module.state_dict())
        assert np.shares_memory(state["fc.weight"], state["tied.weight"])
    lstm = load_lstm(saved(torch, module, **options), batch_first=True)
    x = torch.randn(4, 5, 2)
    expected = module.lstm(x)[0].detach().numpy()
    np.testing.assert_allclose(lstm(x.numpy())[0], expected, atol=1e-6)


def test_whole_modules_tell_how_their_batch_lies(torch):
    for wish in (True, False):
        lstm = torch.nn.LSTM(2, 3, batch_first=wish)
        module = torch.nn.Sequential(collections.OrderedDict(lstm=lstm, fc=torch.nn.Linear(3, 1)))
        x = torch.randn(4, 5, 2)
        for value in (module, {"net": module}):
            model = load(saved(torch, value))
            assert model["lstm"].batch_first is wish
            expected = module.fc(lstm(x)[0]).detach().numpy()
            np.testing.assert_allclose(model(x.numpy()), expected, atol=1e-6)
            assert load_lstm(saved(torch, value)).batch_first is wish
            with pytest.raises(
                ValueError, match=f"batch_first={not wish} contradicts its structure"
            ):
                load(saved(torch, value), batch_first=not wish)


def test_a_pickled_layer_loads_as_a_model(torch):
    module = torch.nn.LSTM(2, 3)
    assert_equal(load(saved(torch, module)).state_dict(), module.state_dict())
    wrapped = torch.nn.DataParallel(module)
    assert list(load_state(saved(torch, wrapped))) == [f"module.{n}" for n in module.state_dict()]


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript(torch, how):
    module = torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.LSTM(2, 3, 2))
    example = (torch.zeros(2, 3, dtype=torch.long),) if how == "trace" else ()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(getattr(torch.jit, how)(module, *example), file)
    file.seek(0)
    assert_equal(load_state(file), module.state_dict())
    file.seek(0)
    assert_equal(load_lstm(file).state_dict(), module[1].state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_frozen_torchscript_is_named(torch):
    file = io.BytesIO()
    torch.jit.save(torch.jit.freeze(torch.jit.script(torch.nn.Linear(1, 1).eval())), file)
    file.seek(0)
    with pytest.raises(
        ValueError, match="a frozen TorchScript module, whose weights are constants"
    ):
        load(file)


# Tensors of every kind


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
)
def test_every_float_of_8_bits_is_widened(torch, name):
    codes = torch.arange(256, dtype=torch.uint8)
    expected = codes.view(getattr(torch, name)).float().numpy()
    np.testing.assert_array_equal(numbers(bytes(range(256)), name), expected)
    zeros = expected == 0
    signs = np.signbit(numbers(bytes(range(256)), name)[zeros])
    np.testing.assert_array_equal(signs, np.signbit(expected[zeros]))


@pytest.mark.parametrize("zipped", [True, False])
def test_every_type_that_numpy_holds(torch, zipped):
    widened = dict.fromkeys(
        "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float16 bfloat16".split(),
        torch.float32,
    )
    widened["complex32"] = torch.complex64
    kept = "float32 float64 uint8 uint16 uint32 uint64 int8 int16 int32 int64 bool complex64"
    dtypes = widened | {name: getattr(torch, name) for name in kept.split()}
    whole = torch.tensor([[0, 1, 2], [3, 5, 7]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex32 is an experiment of torch's
        value = {name: whole.to(getattr(torch, name)) for name in dtypes}
        expected = {name: value[name].to(dtype) for name, dtype in dtypes.items()}
    state = load_state(saved(torch, value, _use_new_zipfile_serialization=zipped))
    assert_equal(state, expected)


def test_views_of_wider_types(torch):
    base = torch.arange(24, dtype=torch.int32).to(torch.uint16).reshape(4, 6)
    value = {"a": base[1:, ::2], "b": base.T}
    state = load_state(saved(torch, value))
    assert_equal(state, value)
    assert np.shares_memory(state["a"], state["b"])


@pytest.mark.parametrize("zipped", [True, False])
def test_expanded_tensors_stay_small(torch, zipped):
    value = {"weight": torch.ones(1).expand(3000, 4000), "row": torch.arange(9.0)[:3].expand(2, 3)}
    file = saved(torch, value, _use_new_zipfile_serialization=zipped)
    tracemalloc.start()
    state = load_state(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_equal({"row": state["row"]}, {"row": value["row"]})
    assert state["weight"].shape == (3000, 4000) and state["weight"][-1, -1] == 1
    assert peak < 200_000
    for name in value:  # else one number would change many
        assert not state[name].flags.writeable
    model = fastlstm.Linear(3, 2, bias=False)
    model.load_state_dict({"weight": state["row"]})
    np.testing.assert_array_equal(model.weight, [[0, 1, 2], [0, 1, 2]])


def test_tied_weights_are_read_once(torch):
    weight = torch.ones(500, 400)
    value = {f"{n}.weight": weight for n in range(20)} | {"half.weight": weight[:250]}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        file = saved(torch, value, **options)
        tracemalloc.start()
        state = load_state(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert all(np.shares_memory(state["0.weight"], array) for array in state.values())
        assert peak < 4.5 * weight.numel() * 4


def refused(torch):
    """Tensors that are not read, and what the error says of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        complex_numbers = torch.ones(2, dtype=torch.complex64)
        return {
            "sparse": (torch.eye(3).to_sparse(), "a sparse tensor"),
            "compressed": (torch.eye(3).to_sparse_csr(), "a sparse tensor"),
            "blocks": (torch.eye(2).to_sparse_bsr((1, 1)), "a sparse tensor"),
            "quantised": (
                torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
                "a quantised tensor",
            ),
            "nested": (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "a nested"),
            "meta": (torch.zeros(2, device="meta"), "a meta tensor, which has a shape and no n"),
            "conjugate": (complex_numbers.conj(), "a conjugate or negated view; save resolve_c"),
            "negated": (complex_numbers.conj().imag, "a conjugate or negated view"),
            "type": (torch.zeros(2, dtype=torch.bits8), "has numbers of type 'bits8', which Nu"),
            "unset": (torch.nn.parameter.UninitializedParameter(), "has no numbers"),
            "strings": (np.array(["a"]), "a NumPy array of other than plain numbers"),
        }


def test_tensors_that_are_not_read_matter_where_they_are_wanted(torch, weights):
    for value, message in refused(torch).values():
        for name in ("fc.weight", "scale"):
            for function in (load_state, load):
                with pytest.raises(ValueError, match=f"entry '{name}' (is )?.*{message}"):
                    function(saved(torch, {**weights, name: value}))
            assert_equal(load_lstm(saved(torch, {**weights, name: value})).state_dict(), weights)
        with pytest.raises(ValueError, match=f"entry 'bias_hh_l0' .*{message}"):
            load_lstm(saved(torch, {**weights, "bias_hh_l0": value}))
        with pytest.raises(ValueError, match=f"entry 'b.weight_hh_l0' .*{message}"):
            both = {f"{prefix}.{n}": tensor for prefix in "ab" for n, tensor in weights.items()}
            load_lstm(saved(torch, {**both, "b.weight_hh_l0": value}), prefix="b")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_modules_are_named(torch):
    layers = {"lstm": torch.nn.LSTM(2, 3), "fc": torch.nn.Linear(3, 1)}
    module = torch.nn.Sequential(collections.OrderedDict(layers))
    with torch.no_grad():
        module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.LSTM, torch.nn.Linear})
    for value in (module.state_dict(), module):
        for function in (load_state, load):
            with pytest.raises(ValueError, match="entry '(lstm|fc).*quantised"):
                function(saved(torch, value))


def test_a_tensor_of_a_class_of_its_own_is_named(torch, weights):
    class Own(torch.Tensor):
        pass

    globals()["Own"] = Own
    Own.__qualname__ = "Own"
    own = torch.ones(12).as_subclass(Own)
    with pytest.raises(ValueError, match="entry 'bias_hh_l0' is of the class '.*Own'"):
        load(saved(torch, {**weights, "bias_hh_l0": own}))


def test_safetensors_of_every_type(torch, weights):
    save_file = pytest.importorskip("safetensors.torch").save
    value = {
        "eight": torch.arange(4.0).to(torch.float8_e4m3fn),
        "other": torch.arange(4.0).to(torch.float8_e5m2),
        "wide": torch.ones(2, dtype=torch.complex64),
        "whole": torch.arange(3).to(torch.uint16),
    }
    expected = value | {n: value[n].float() for n in ("eight", "other")}
    state = load_state(io.BytesIO(save_file(value)))
    assert_equal({name: state[name] for name in value}, expected)
    header = {"w": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}
    for n, (name, tensor) in enumerate(weights.items()):
        begin = 2 + 4 * sum(t.numel() for t in list(weights.values())[:n])
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + 4 * tensor.numel()],
        }
    text = json.dumps(header).encode()
    data = b"\0\0" + b"".join(tensor.numpy().tobytes() for tensor in weights.values())
    data = struct.pack("<Q", len(text)) + text + data
    with pytest.raises(
        ValueError, match="entry 'w' has numbers of type F8_E8M0, which NumPy lacks"
    ):
        load_state(io.BytesIO(data))
    state = load_lstm(io.BytesIO(data)).state_dict()
    assert_equal(state, weights)


# Files: open ones, bytes, other forms (kinds 3 and 4)


@pytest.fixture(params=[".npz", ".pt", ".safetensors"])
def content(request, tmp_path):
    """The bytes of a model's file of each form."""
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    save(fastlstm.LSTM(2, 3, seed=0), tmp_path / f"model{request.param}")
    return (tmp_path / f"model{request.param}").read_bytes()


STATE = fastlstm.LSTM(2, 3, seed=0).state_dict()


class Download:
    """A file that can be read once, from its beginning, in pieces."""

    def __init__(self, content):
        self.file = io.BytesIO(content)

    def read(self, size=-1):
        return self.file.read(size)


class Slow(io.RawIOBase):
    """A raw file that gives a few bytes at a time."""

    def __init__(self, content):
        self.file = io.BytesIO(content)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, *where):
        return self.file.seek(*where)

    def readinto(self, buffer):
        return self.file.readinto(memoryview(buffer)[:1000])


class Terse(io.BytesIO):
    """A file whose seek returns nothing."""

    def seek(self, *where):
        super().seek(*where)


class Readable(pathlib.PurePosixPath):
    """A path that can be read, as py.path's."""

    def read(self, mode="r"):
        raise AssertionError("a path is opened")


@pytest.mark.parametrize("form", [io.BytesIO, Download, Slow, Terse])
def test_open_files_are_read(content, form):
    assert_equal({n: load_state(form(content))[n] for n in STATE}, STATE)
    assert_equal(load(form(content)).state_dict(), STATE)
    assert_equal(load_lstm(form(content)).state_dict(), STATE)


def test_a_path_that_can_be_read_is_a_path(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    assert_equal(load_lstm(Readable(tmp_path / "x")).state_dict(), STATE)
    with tempfile.NamedTemporaryFile() as file, tempfile.SpooledTemporaryFile() as spooled:
        for opened in (file, spooled):
            opened.write(content)
            opened.seek(0)
            assert_equal(load_lstm(opened).state_dict(), STATE)


def test_an_open_file_is_read_from_where_it_stands_and_stays_open(content, tmp_path):
    (tmp_path / "x").write_bytes(b"something before" + content)
    with open(tmp_path / "x", "rb") as file, open(tmp_path / "x", "rb", buffering=0) as raw:
        for opened in (file, raw):
            opened.seek(16)
            for _ in range(2):  # it stands there again
                assert_equal(load_lstm(opened).state_dict(), STATE)
            assert not opened.closed and opened.tell() == 16
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    with pytest.raises(ValueError, match="^<BytesIO>: it is empty from where it stands on"):
        load(file)


def test_faults_name_the_open_file(content, tmp_path):
    with pytest.raises(ValueError, match="^<BytesIO>: "):
        load(io.BytesIO(content[:-40]))
    (tmp_path / "damaged").write_bytes(content[:-40])
    with open(tmp_path / "damaged", "rb") as file:
        with pytest.raises(ValueError, match=f"^{tmp_path}/damaged: "):
            load(file)
    with open(os.open(tmp_path / "damaged", os.O_RDONLY), "rb") as file:
        with pytest.raises(ValueError, match="^<BufferedReader>: "):
            load(file)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_refused_and_stay_out_of_the_message(content, kind):
    for function in (load, load_lstm, load_state):
        with pytest.raises(TypeError) as error:
            function(kind(content * 100))
        assert str(error.value) == (
            "path must be a str, a path-like or a binary file, got "
            f"{kind.__name__}; io.BytesIO(...) makes a file of bytes"
        )


def test_what_is_no_path_is_refused(content, tmp_path):
    for wrong in (3, None, True, 1.5, ["a"]):
        with pytest.raises(
            TypeError, match="^path must be .*, got (int|NoneType|bool|float|list)$"
        ):
            load_state(wrong)
    with pytest.raises(TypeError, match='^a file must be open for bytes, as open.path, "rb"'):
        load_state(io.StringIO("text"))
    for text in (content.decode("latin-1") * 50, "a" * 5000):
        with pytest.raises(ValueError, match="^path must be the name of a file, got a str of") as e:
            load_state(text)
        assert len(str(e.value)) < 200
    with pytest.raises(IsADirectoryError, match="it is a folder, a file is expected"):
        load(tmp_path / "..")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "gone.pt")


def test_forecasters_are_read_from_open_files(tmp_path):
    standardizer = fastlstm.training.Standardizer([1.0], [2.0])
    model = fastlstm.Sequential(fastlstm.LSTM(1, 2, seed=0), fastlstm.Last(), fastlstm.Linear(2, 1))
    fastlstm.training.Forecaster(model, standardizer, window=3).save(tmp_path / "f.npz")
    content = (tmp_path / "f.npz").read_bytes()
    read = fastlstm.training.Forecaster.load(io.BytesIO(content))
    assert_equal(read.model.state_dict(), model.state_dict())
    assert fastlstm.training.is_forecaster(io.BytesIO(content))
    for function in (fastlstm.training.Forecaster.load, fastlstm.training.is_forecaster):
        with pytest.raises(TypeError, match="^path must be .*, got bytes; io.BytesIO") as error:
            function(content)
        assert len(str(error.value)) < 200


def rezipped(content, method, level=None):
    """A zip file packed again, as people do it, with folders of its own."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        with zipfile.ZipFile(packed, "w", method, compresslevel=level) as new:
            new.writestr("folder/", "")
            new.writestr("__MACOSX/folder/._a.npy", "of the Finder")
            for name in old.namelist():
                new.writestr(name, old.read(name))
    return packed.getvalue()


@pytest.mark.parametrize("level", [1, 9])
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_deflated_files(tmp_path, suffix, level):
    save(fastlstm.LSTM(2, 3, seed=0), tmp_path / f"a{suffix}")
    content = rezipped((tmp_path / f"a{suffix}").read_bytes(), zipfile.ZIP_DEFLATED, level)
    state = load_state(io.BytesIO(content))
    assert_equal(state, STATE)
    state["bias_ih_l0"][0] = 1  # the caller's own
    assert_equal(load(io.BytesIO(content)).state_dict(), STATE)


def test_savez_compressed(tmp_path):
    arrays = STATE | {"zeros": np.zeros((300, 400)), "order": np.asfortranarray(np.eye(3, 4))}
    arrays |= {"z": np.array([1 + 2j, 3], np.complex64), "none": np.zeros((0, 3)), "s": np.array(1)}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    assert_equal(load_state(tmp_path / "x.npz"), arrays)
    np.savez_compressed(tmp_path / "y.npz", **STATE)
    assert_equal(load(tmp_path / "y.npz").state_dict(), STATE)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_are_named(tmp_path, method):
    np.savez(tmp_path / "x.npz", **STATE)
    content = rezipped((tmp_path / "x.npz").read_bytes(), method)
    with pytest.raises(
        ValueError, match="'weight_ih_l0.npy' is encrypted or compressed by another"
    ):
        load(io.BytesIO(content))


def zip_of(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


TAR = b"model.pt\0" + bytes(248) + b"ustar\x0000" + bytes(300)
FOREIGN = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a git-LFS pointer, not the file: fetch that with `git lfs pull`",
    ),
    "html": (b"<!DOCTYPE html>\n<html><head>", "an HTML page, as a failed download leaves it"),
    "html in small letters": (b"\n  <html lang='en'>", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "an XML file"),
    "json list": (b"[[1.5, 2], [3, 4]]", "JSON"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1", "the beginning of an ONNX model"),
    "saved model": (b"\x08\x01\x12\xc8\x01", "a TensorFlow SavedModel (.pb)"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\3", "compressed by gzip (.gz, .tar.gz); unpack it first"),
    "bzip2": (b"BZh91AY&SY", "compressed by bzip2"),
    "xz": (b"\xfd7zXZ\0\0\4", "compressed by xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "compressed by Zstandard"),
    "tar": (TAR, "a tar archive; unpack it first"),
    "gguf": (b"GGUF\3\0\0\0", "a GGUF file"),
    "npy": (b"\x93NUMPY\1\0v\0{'descr'", "a single array without a name (.npy)"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file (.mat) that is cut"),
    "zip": (zip_of(**{"model.pt": "", "readme.txt": ""}), "a zip file of 'model.pt', 'readme.txt'"),
    "large zip": (zip_of(**dict.fromkeys(map(str, range(9)), "")), "'4' and 4 more"),
    "empty zip": (zip_of(), "an empty zip file"),
    "text": ("name,größe\na,1\n".encode(), "text"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_named_as_what_they_are(tmp_path, name):
    content, words = FOREIGN[name]
    (tmp_path / "model.pt").write_bytes(content)
    for function in (load, load_lstm, load_state):
        with pytest.raises(ValueError) as error:
            function(tmp_path / "model.pt")
        message = str(error.value)
        assert message.startswith(f"{tmp_path}/model.pt: it is ") and words in message
        assert (
            "its content is of no known format; known are safetensors, torch, npz, ONNX" in message
        )


def test_files_of_their_own_libraries_are_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    (tmp_path / "a").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ValueError, match="its graph has no outputs"):
        load(tmp_path / "a")


def test_pickles_of_others_are_named():
    for protocol in (2, 3, 4, 5):
        for value in ({"weight": np.zeros(3)}, [1], Config()):
            content = pickle.dumps(value, protocol)
            with pytest.raises(ValueError, match="it is a pickle, but not one of torch's"):
                load(io.BytesIO(content))


def test_random_bytes_are_of_no_known_format():
    content = bytes(np.random.default_rng(0).integers(0, 256, 600, np.uint8))
    with pytest.raises(
        ValueError, match="^<BytesIO>: its content is of no known format; known are"
    ):
        load(io.BytesIO(content))


# The members of an .npz file (kind 30)


def npz(tmp_path, **members):
    """Write an .npz file of these members beside an LSTM's."""
    np.savez(tmp_path / "x.npz", **STATE)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return tmp_path / "x.npz"


def header(text):
    text = text.encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "text",
    [
        "(((",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-20, 1), }\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2**70,), }\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (((, }\n",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }\n",
        "{'descr': '<U9999999', 'fortran_order': False, 'shape': (), }\n",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (), }\n",
        "{'descr': '<f4'}\n",
        "",
    ],
)
def test_odd_entries_matter_where_they_are_wanted(tmp_path, text):
    path = npz(tmp_path, **{"note.npy": header(text)})
    for function in (load, load_state):
        with pytest.raises(ValueError, match="x.npz: entry 'note' is not a plain array of numbers"):
            function(path)
    assert_equal(load_lstm(path).state_dict(), STATE)
    np.savez(tmp_path / "x.npz", **{n: a for n, a in STATE.items() if n != "bias_hh_l0"})
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("bias_hh_l0.npy", header(text))
    with pytest.raises(
        ValueError, match="x.npz: entry 'bias_hh_l0' is not a plain array of numbers"
    ):
        load_lstm(path)


def test_two_members_of_one_name(tmp_path):
    array = io.BytesIO()
    np.save(array, np.ones(2))
    for names in (["w", "w.npy"], ["w.npy", "w"]):
        path = npz(tmp_path, **dict.fromkeys(names, array.getvalue()))
        with pytest.raises(ValueError, match="its members 'w' and 'w.npy' are two arrays of one"):
            load_state(path)
    np.savez(tmp_path / "y.npz", **{"w": np.ones(1), "w.npy": np.ones(2)})
    assert_equal(load_state(tmp_path / "y.npz"), {"w": np.ones(1), "w.npy": np.ones(2)})


def test_headers_of_other_writers(tmp_path):
    for end in (", }", ",}", "}", ", }   "):
        text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)" + end + "\n"
        path = npz(tmp_path, **{"w.npy": header(text) + np.ones(2, "<f4").tobytes()})
        np.testing.assert_array_equal(load_state(path)["w"], [1, 1])


def test_long_headers(tmp_path):
    """Spaces fill up headers; a search from each space to the last one would take minutes."""
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
    entry = header(text.ljust(9999) + "\n") + np.ones(2, "<f4").tobytes()
    path = npz(tmp_path, **{f"{n}.npy": entry for n in range(100)})
    np.testing.assert_array_equal(load_state(path)["99"], [1, 1])


def test_numbers_that_take_64_bits(tmp_path, monkeypatch):
    """A zip writes so what is beyond 4 GB; here it takes all that is beyond 10 bytes for that."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    arrays = {"w": np.arange(6.0), "b": np.arange(3)}
    np.savez(tmp_path / "x.npz", **arrays)
    assert (tmp_path / "x.npz").read_bytes().count(b"\xff" * 4) > 4  # sizes that stand elsewhere
    assert_equal(load_state(tmp_path / "x.npz"), arrays)


# Small files that ask for much (kind 24)


def pt(data, *storages, method=zipfile.ZIP_STORED):
    """The bytes of a .pt file with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x/data.pkl", data)
        for key, numbers in enumerate(storages):
            archive.writestr(f"x/data/{key}", numbers)
    return file.getvalue()


def text(value):
    """The opcode of a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\4tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
TENSOR = REBUILD + b"(" + STORAGE + b"K\0K\4\x85K\1\x85\x89NtR"
LONG_NAME = text("n" * 250)


def pickled_module(child=b"", names=()):
    """The opcodes of a module with the parts of torch.nn.Module, and one child under all names."""
    parts = b"".join(text(name) + child for name in names)
    return (
        b"c__main__\nM\n)\x81}("
        + b"".join(text(name) + b"}" for name in ("_parameters", "_buffers"))
        + text("_modules")
        + b"}("
        + parts
        + b"uub"
    )


def repeated_modules(depth, names):
    """Modules in modules, each with one child under several names."""
    data = pickled_module() + b"q\0"
    for n in range(depth):
        data += b"0" + pickled_module(b"h%c" % n, names) + b"q%c" % (n + 1)
    return pt(data + b".")


def safetensors_header(size):
    header = b'{"__metadata__":{"a":"' + b"b" * size + b'"}}'
    return struct.pack("<Q", len(header)) + header


def saved_text(name, content):
    file = io.BytesIO()
    np.savez_compressed(file, **{name: np.array(content.encode())}, weight=np.zeros(2))
    return file.getvalue()


def structure_text(content):
    return saved_text("__structure__", content)


def modules_of_one_dict(attribute):
    """Many modules that share an attribute of many entries, none of which is a tensor."""
    names = b"".join(text(str(n)) + b"N" for n in range(10_000))
    entries = b"](" + names + b"e" if attribute.endswith("set") else b"}(" + names + b"u"
    module = pickled_module()[:-1] + text(attribute) + entries + b"sb"
    return pt(module + b"q\0" + pickled_module(b"h\0", map(str, range(10_000))) + b".")


def many_members(number):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for n in range(number):
            archive.writestr(f"{n}.npy", b"")
    return file.getvalue()


PAIRS = b"](" + b"".join(b"(" + text(f"k{n}") + b"Nl" for n in range(10_000)) + b"eq\0"
ATTACKS = {
    "one list in 10 000 dicts": (
        lambda: pt(PAIRS + b"ccollections\nOrderedDict\nq\2(" + b"h\2h\0\x85R" * 10_000 + b"l."),
        "copied items",
    ),
    "lists": (lambda: pt(b"]" * (1 << 19) + b"."), "containers of pickles"),
    "marks": (lambda: pt(b"(" * (1 << 19) + b"."), "containers of pickles"),
    "tuples": (lambda: pt(b")" + b"\x85" * (1 << 19) + b"."), "containers of pickles"),
    "memoised values": (lambda: pt(b"N" + b"\x94" * (1 << 19) + b"."), "memoised values"),
    "names of extensions": (lambda: pt(b"\x82a" * (1 << 20) + b"."), "containers of pickles"),
    "modules with one large dict": (lambda: modules_of_one_dict("_parameters"), "copied items"),
    "modules with one large set": (
        lambda: modules_of_one_dict("_non_persistent_buffers_set"),
        "copied items",
    ),
    "a text made bytes again and again": (
        lambda: pt(
            b"c_codecs\nencode\nq\0("
            + (text("a" * 100_000) + text("latin1") + b"\x86q\1")
            + b"h\0h\1R" * 10_000
            + b"l."
        ),
        "copied items",
    ),
    "opcodes of a deflated pickle": (
        lambda: pt(b"N0" * (9 << 16) + b".", method=zipfile.ZIP_DEFLATED),
        "opcodes of pickles",
    ),
    "tensors of 32 dimensions": (
        lambda: pt(
            STORAGE
            + b"q\0("
            + b"K\1" * 32
            + b"tq\1"
            + REBUILD
            + b"q\2((h\0K\0h\1h\1\x89Ntq\3"
            + b"h\2h\3R0" * 50_000
            + b"l."
        ),
        "copied items",
    ),
    "modules in modules": (lambda: repeated_modules(60, "ab"), "letters of names"),
    "modules in a row": (
        lambda: repeated_modules(2, [str(n) for n in range(300)]),
        "names of modules and their tensors",
    ),
    "a pickle of 65 MB": (
        lambda: pt(b"N" * (65 << 20), method=zipfile.ZIP_DEFLATED),
        "bytes of a pickle",
    ),
    "storages of 64 MB": (
        lambda: pt(
            b"}(" + b"".join(text(f"{n}.weight") + big_tensor(n) for n in range(17)) + b"u.",
            *[bytes(4 << 20)] * 17,
            method=zipfile.ZIP_DEFLATED,
        ),
        "inflated bytes",
    ),
    "JSON": (
        lambda: structure_text(
            json.dumps(
                {
                    "version": 1,
                    "structure": {
                        "layer": "Sequential",
                        "children": {str(n): {"layer": "ReLU"} for n in range(200_000)},
                    },
                }
            )
        ),
        "bytes of JSON",
    ),
    "lists of JSON": (lambda: b'{"a": [' + b"[]," * 500_000 + b"0]}", "lists and objects of JSON"),
    "names of JSON": (
        lambda: b"{" + b",".join(b'"%x":0' % n for n in range(200_000)) + b"}",
        "names of JSON",
    ),
    "numbers of a state dict in JSON": (
        lambda: b"{" + b",".join(b'"%x.weight":0' % n for n in range(85_000)) + b"}",
        "names of modules and their tensors",
    ),
    "a header": (lambda: safetensors_header(17 << 20), "bytes of a header"),
    "JSON of a training": (
        lambda: saved_text("__training__", "[" + "[]," * 2_000_000 + "[]]"),
        "bytes of a training's JSON",
    ),
}


def big_tensor(key):
    count = b"J" + struct.pack("<i", 1 << 20)
    storage = STORAGE.replace(text("0"), text(str(key))).replace(b"K\4", count)
    return REBUILD + b"(" + storage + b"K\0" + count + b"\x85K\1\x85\x89NtR"


def counted(function, *arguments):
    """What a call returns or the ValueError that it ends with, and how many calls it made."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        result = function(*arguments)
    except ValueError as error:
        result = error
    finally:
        sys.setprofile(None)
    return result, calls


@pytest.mark.parametrize("name", ATTACKS)
def test_small_files_may_not_ask_for_much(name):
    """Calls are counted, which no clock disturbs, and so is the memory that is taken."""
    make, what = ATTACKS[name]
    content = make()
    if name == "a header":
        pytest.importorskip("safetensors")
    error, calls = counted(load_state, io.BytesIO(content))
    assert isinstance(error, ValueError) and f" or more {what}" in str(error)
    assert len(str(error)) < 200
    assert calls < 2_500_000 + 3 * len(content)


SMALLER = budgets.Budget.LIMITS | {
    what: (n // 32, more / 32) for what, (n, more) in budgets.Budget.LIMITS.items() if more
}


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"a header", "a pickle of 65 MB"}))
def test_what_is_refused_took_little_memory(monkeypatch, name):
    """The limits are smaller here, because tracing makes all this slow."""
    content = ATTACKS[name][0]()
    monkeypatch.setattr(budgets.Budget, "LIMITS", SMALLER)
    file = io.BytesIO(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="^<BytesIO>: it has .* or more .*; at most .* are read$"):
        load_state(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000 + 3 * len(content)


def test_members_are_counted(monkeypatch):
    limits = budgets.Budget.LIMITS | {"members of a zip file": (1000, 0)}
    monkeypatch.setattr(budgets.Budget, "LIMITS", limits)
    with pytest.raises(ValueError, match="it has 1001 or more members of a zip file; at most 1000"):
        load_state(io.BytesIO(many_members(2000)))
    with pytest.raises(ValueError, match="entry '0' is not a plain array"):
        load_state(io.BytesIO(many_members(1000)))


def test_every_limit_is_tested():
    """An attack or a test of its own reaches it."""
    own = {"members of a zip file", "levels of modules", "levels of graphs", "operators"}
    own |= {"levels of messages", "bytes of a network's JSON", "messages of HDF5", "tables"}
    own |= {"values of MATLAB", "bytes of a model's JSON"}
    tested = {what for _, what in ATTACKS.values()} | own
    assert set(budgets.Budget.LIMITS) == tested


def test_modules_do_not_nest_without_end():
    itself = pickled_module(b"h\0", "a").replace(b")\x81", b")\x81q\0", 1)
    with pytest.raises(
        ValueError, match="it has 65 or more levels of modules; at most 64 are read"
    ):
        load(io.BytesIO(pt(itself + b".")))


def test_names_are_made_where_there_are_tensors(monkeypatch):
    """A path for each dict of dicts in dicts would take megabytes."""
    monkeypatch.setattr(budgets.Budget, "LIMITS", SMALLER)
    nest = LONG_NAME + b"q\0" + TENSOR + b"q\1" + b"00}" + b"h\0}" * 7

    def nested(entry):
        entries = b"".join(text(str(n)) + entry for n in range(1000))
        return io.BytesIO(pt(nest + b"(" + entries + b"u" + b"s" * 7 + b".", bytes(16)))

    with pytest.raises(ValueError, match="it holds no tensors"):
        load_state(nested(b"}"))
    with pytest.raises(ValueError, match="or more letters of names; at most"):
        load_state(nested(b"}h\0h\1s"))


def test_keys_that_are_no_strings_are_not_hashed():
    keys = {
        "integers of one hash": [
            b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") for k in range(9)
        ],
        "floats": [b"G" + struct.pack(">d", k * 2.0**61) for k in range(9)],
        "tuples": [b"K\1K\2\x86"] * 9,
        "bytes": [b"C\1a", b"C\1b"],
        "none": [b"N", b"\x88"],
    }
    for items in keys.values():
        data = b"}(" + b"".join(key + b"N" for key in items) + text("a") + b"Nu."
        value = pickles.load(data, 0, budgets.Budget(len(data)), {}, None).value
        assert value == {"a": None}
    data = b"(" + b"".join(b"I%d\n" % (k * (2**61 - 1)) for k in range(9)) + b"\x90."
    assert pickles.load(b"\x8f" + data, 0, budgets.Budget(99), {}, None).value == [
        k * (2**61 - 1) for k in range(9)
    ]


def test_lists_are_searched_once_however_often_they_occur(monkeypatch):
    """This includes lists that hold themselves."""
    entries = torch_state_dicts._entries
    for shared in (b"](" + b"}" * 1000 + b"eq\0", b"]q\0(" + b"h\0" * 1000 + b"e"):
        looked_at = []
        monkeypatch.setattr(
            torch_state_dicts,
            "_entries",
            lambda *a, seen=looked_at: (seen.append(a), entries(*a))[1],
        )
        data = shared + b"}(" + b"".join(text(str(n)) + b"h\0" for n in range(1000)) + b"u."
        with pytest.raises(ValueError, match="no tensors"):
            load_state(io.BytesIO(pt(data)))
        assert sum(isinstance(a[0], list) and len(a) > 1 and a[1] for a in looked_at) < 5


def test_arrays_may_not_repeat_their_numbers_without_end(torch):
    """Each of the many names of one array would become a copy, as with tensors."""
    array = np.arange(250_000, dtype="f4")
    for protocol in (2, 4):
        few = {f"{n}.weight": array for n in range(20)}
        found = load_state(saved(torch, few, pickle_protocol=protocol))
        assert all(np.array_equal(found[name], array) for name in few)
        many = {f"{n}.weight": array for n in range(10_000)}
        with pytest.raises(ValueError, match="the tensors name 2500000000 numbers, many times"):
            load_state(saved(torch, many, pickle_protocol=protocol))


def test_numbers_and_names_without_end_are_not_made():
    long = 2_000_000
    budget = budgets.Budget(0)
    for data in (b"I" + b"9" * long + b"\n.", b"L" + b"9" * long + b"L\n."):
        assert pickles.load(data, 0, budget, {}, None).value is None
    name = text("m" * long) + b"q\0" + text("n") + b"q\1"
    many = b"](" + name + b"00" + b"h\0h\1\x93" * 10_000 + b"e."
    file = io.BytesIO(pt(many))
    tracemalloc.start()
    with pytest.raises(ValueError) as error:
        load(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * long and len(str(error.value)) < 1000


def test_long_names_are_not_searched_again_and_again(monkeypatch):
    """Objects and tensors in many dicts share one name of a megabyte."""
    monkeypatch.setattr(budgets.Budget, "LIMITS", SMALLER)
    name = text("n" * 1_000_000) + b"q\0"
    for value in (TENSOR, b"c__main__\nA\n)R"):
        data = name + value + b"q\1" + b"00}("
        data += b"".join(text(str(n)) + b"}h\0h\1s" for n in range(1000)) + b"u."
        with pytest.raises(ValueError, match="or more letters of names; at most"):
            load_state(io.BytesIO(pt(data, bytes(16))))
    # a module's name as long
    data = text("m" * 1_000_000) + text("A") + b"\x93q\0)R}b0}("
    data += b"".join(text(f"{n}.weight") + b"h\0)R}b" for n in range(1000)) + b"u."
    with pytest.raises(ValueError, match="no tensors") as error:
        load_state(io.BytesIO(pt(data)))
    assert len(str(error.value)) < 1000


def test_calls_do_not_nest_without_end():
    """Tensors are rebuilt from tensors, deeper than Python's own stack."""
    rebuild = b"ctorch._tensor\n_rebuild_from_type_v2\nq\0"
    nested = b")q\2"
    step = b"0(h\0h\1h\2Ntq\2"  # the arguments of one more call
    data = rebuild + b"0ctorch\nTensor\nq\x010" + nested + step * 30_000 + b"0}"
    data += text("weight") + b"h\0h\2Rs."
    with pytest.raises(ValueError, match="it holds no tensors"):
        load_state(io.BytesIO(pt(data)))
    # an instance of a class that is a list in a list in a list
    data = b"]q\1" + b"]q\0ah\0" * 30_000 + b"ccopyreg\n_reconstructor\n(h\1NNtR."
    with pytest.raises(ValueError, match="expected a state dict, got an object of 'unknown.class'"):
        load_state(io.BytesIO(pt(data)))


def test_lists_and_names_in_messages_are_cut(torch):
    value = {f"{'n' * 250}{k}": {"weight": torch.ones(1)} for k in range(300)}
    value |= {str(k): {"weight": torch.ones(1)} for k in range(300)}
    with pytest.raises(ValueError, match=r"'\.\.\. \(1 tensors\) and \d+ more$") as error:
        load_state(saved(torch, value))
    assert len(str(error.value)) < 3000
    with pytest.raises(ValueError, match="no state dict has the key 'kkk") as error:
        load_state(saved(torch, value), key="k" * 10_000)
    assert len(str(error.value)) < 3000
    for arrays in (
        {"weight_ih_l0": torch.ones(4)},
        {"weight_hh_l0": torch.ones(4, 1)},
        {"weight_ih_l0": torch.ones(4, 1), "weight_ih_l2": torch.ones(4, 1)},
        {"weight_hh_l0": torch.ones(3, 1)},
    ):
        with pytest.raises(ValueError) as error:
            load(saved(torch, {f"{'n' * 100_000}.{name}": a for name, a in arrays.items()}))
        assert "an LSTM" in str(error.value) or "must be a matrix" in str(error.value)
        assert len(str(error.value)) < 1000
    entry = {"n" * 100_000 + ".weight": torch.ones(1).to_sparse()}
    with pytest.raises(ValueError, match="entry 'nnn.*is a sparse tensor") as error:
        load_state(saved(torch, entry))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("zipped", [True, False])
def test_large_state_dicts_and_optimisers_load(torch, zipped):
    """The share of the budget that they take does not grow with their number."""
    for number in (100, 2000):
        modules = [torch.zeros(1) for _ in range(number)]
        states = {n: {k: torch.zeros(1) for k in ("step", "a", "b")} for n in range(number)}
        model = {f"layers.{n}.weight": weight for n, weight in enumerate(modules)}
        value = {"model": model, "optimizer": {"state": states}}
        file = saved(torch, value, _use_new_zipfile_serialization=zipped)
        source = Source(file)
        state = torch_pt.read(source).state
        assert len(state) == number
        for what in ("opcodes of pickles", "containers of pickles", "copied items"):
            flat, share = budgets.Budget.LIMITS[what]
            assert source.budget.spent[what] < flat / 100 + 0.6 * share * source.size


# Random damage


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    """Files of every form, to be damaged."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("victims")
    value = {"model": torch.nn.LSTM(1, 2).state_dict(), "rest": objects(torch)}
    module = torch.nn.Sequential(torch.nn.LSTM(1, 2))
    files = {
        "zip": saved(torch, value).read(),
        "legacy": saved(torch, value, _use_new_zipfile_serialization=False).read(),
        "protocol 5": saved(torch, value, pickle_protocol=5).read(),
        "module": saved(torch, module, pickle_protocol=4).read(),
        "deflated": rezipped(saved(torch, module).read(), zipfile.ZIP_DEFLATED),
    }
    np.savez_compressed(folder / "x.npz", **STATE)
    return list({**files, "npz": (folder / "x.npz").read_bytes()}.values())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage_is_a_value_error_or_arrays(victims, data):
    content = bytearray(data.draw(st.sampled_from(victims)))
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(places) :]
    try:
        state = load_state(io.BytesIO(content))
    except ValueError as error:
        assert str(error).startswith("<BytesIO>: ") and len(str(error)) < 3000
        return
    assert all(type(array) is np.ndarray and array.dtype != object for array in state.values())
    assert not RAN
