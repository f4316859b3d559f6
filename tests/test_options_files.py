"""Options of the recurrence in files: what arrays tell of them, what is warned of, what is refused.

That `.npz` files keep every option is tested in `test_options.py`.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from errors import raises
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from values import arrays_in, normal

import fastlstm
from fastlstm import (
    LSTM,
    Concat,
    Last,
    Linear,
    LSTMCell,
    Residual,
    Sequential,
    cli,
    load,
    load_lstm,
    load_state,
)
from fastlstm.training import Adam, Checkpoint, Forecaster, MSELoss, Standardizer, fit

I, H = 3, 4

# Options that arrays tell, each with those of a cell alone.
TOLD: list[dict[str, Any]] = [
    {"peephole": True},
    {"peephole": True, "coupled": "f=1-i"},
    {"peephole": True, "coupled": "i=1-f"},
    {"layer_norm": "tflite"},
    {"layer_norm": "haste"},
    {"learn_initial_state": True},
    {"peephole": True, "bias": False, "layer_norm": "haste"},
    {"peephole": True, "coupled": "i=1-f", "layer_norm": "tflite", "learn_initial_state": True},
]
# What of a whole LSTM may come with them.
STACKS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    {"hidden_size": [4, 2]},
]
# Options that arrays do not tell, and their words in a warning.
UNTOLD: list[tuple[dict[str, Any], str]] = [
    ({"gate_clip": 2}, "gate_clip=2.0"),
    ({"cell_clip": 0.5}, "cell_clip=0.5"),
    ({"proj_size": 2, "proj_clip": 0.25}, "proj_clip=0.25"),
    ({"gate_activation": "hard_sigmoid"}, "gate_activation='hard_sigmoid'"),
    ({"cell_activation": ("elu", 2)}, "cell_activation=('elu', 2.0)"),
    ({"output_activation": "identity"}, "output_activation='identity'"),
    ({"zoneout": (0.25, 0.5)}, "zoneout=(0.25, 0.5)"),
    ({"recurrent_dropout": 0.5}, "recurrent_dropout=0.5"),
    ({"input_dropout": 0.25}, "input_dropout=0.25"),
    ({"reverse": True}, "reverse=True"),
    ({"coupled": "f=1-i"}, "coupled='f=1-i'"),
    ({"coupled": "i=1-f", "layer_norm": "haste"}, "coupled='i=1-f'"),
    ({"peephole": True, "coupled": "i=1-f", "gate_clip": 3.5}, "gate_clip=3.5"),
]  # fmt: skip


def _lstm(**options: Any) -> LSTM:
    layer = LSTM(**{"input_size": I, "hidden_size": H, "engine": "numpy", "seed": 0, **options})
    return _stirred(layer)


def _stirred(layer: Any) -> Any:
    """Give every parameter its own random numbers, learned states and gains too."""
    layer.load_state_dict({n: normal(*a.shape, seed=k + 1) for k, (n, a) in _arrays(layer)})
    return layer.eval()


def _arrays(layer: Any) -> Any:
    return enumerate(layer.state_dict().items())


def _assert_same(layer: Any, other: Any, *shape: int) -> None:
    assert repr(layer) == repr(other)
    x = normal(*shape)
    for one, two in zip(arrays_in(layer(x)), arrays_in(other(x)), strict=True):
        assert_same_bits(one, two)


def _save(layer: Any, path: Path) -> Path:
    """Save a layer without its options; that this is warned of is no matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fastlstm.save(layer, path)
    return path


# ---- what arrays tell -----------------------------------------------------------------------


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("options", TOLD, ids=str)
def test_arrays_tell_options(tmp_path, recwarn, options, stack):
    """By every way to load, from a file that has no structure; nothing is warned of."""
    layer, path = _lstm(**options, **stack), tmp_path / "x.pt"
    fastlstm.save(layer, path)
    keep: dict[str, Any] = {"batch_first": False, "engine": "numpy"}
    _assert_same(load(path, **keep), layer, 5, 2, I)
    _assert_same(load_lstm(path, **keep), layer, 5, 2, I)
    _assert_same(load(path, into=LSTM(**{"input_size": I, "hidden_size": H, "engine": "numpy"}
                                      | options | stack)), layer, 5, 2, I)  # fmt: skip
    assert load_state(path).keys() == layer.state_dict().keys()
    gives = layer(normal(5, 2, I))[0].shape[-1]
    model = Sequential(
        {"rnn": layer, "last": Last(), "fc": Linear(gives, 2, engine="numpy", seed=1)}
    ).eval()
    fastlstm.save(model, path)
    x = normal(5, 2, I)
    loaded = load(path, order=["rnn", Last(), "fc"], **keep)
    assert_same_bits(loaded(x), model(x))
    _assert_same(load(path, prefix="rnn", **keep), layer, 5, 2, I)
    _assert_same(load_lstm(path, **keep), layer, 5, 2, I)
    steps = Sequential({"rnn": layer, "fc": model["fc"]})
    assert_same_bits(load(path, **keep)(x), steps(x))
    assert not recwarn


@pytest.mark.parametrize("options", TOLD, ids=str)
def test_arrays_tell_options_of_a_cell(tmp_path, recwarn, options):
    """An LSTMCell, which can also be loaded as an LSTM of one layer."""
    cell = _stirred(LSTMCell(I, H, engine="numpy", **options))
    fastlstm.save(cell, path := tmp_path / "x.pt")
    _assert_same(load(path, engine="numpy"), cell, 2, I)
    _assert_same(load(path, into=LSTMCell(I, H, engine="numpy", **options)), cell, 2, I)
    lstm = load_lstm(path, batch_first=False, engine="numpy")
    assert repr(lstm) == repr(LSTM(I, H, **options))
    x = normal(5, 2, I)
    y, states = lstm(x)[0], None
    for t in range(5):
        states = cell(x[t], states)
        np.testing.assert_allclose(y[t], states[0], rtol=0, atol=1e-6)
    assert not recwarn


def test_an_lstm_with_options_beside_other_arrays(tmp_path):
    """What belongs to the LSTM is taken with it, and the rest is named as left out."""
    layer = _lstm(peephole=True, layer_norm="haste", learn_initial_state=True)
    for local, model, ours in (
        ("_l0", layer, LSTM(I, H, peephole=True, layer_norm="haste", learn_initial_state=True)),
        ("", _stirred(LSTMCell(I, H, learn_initial_state=True)), None),
    ):
        np.savez(path := tmp_path / "x.npz", attention=np.ones((2, 2)), **model.state_dict())
        with pytest.warns(UserWarning, match="what 'attention' beside the LSTM's own") as caught:
            loaded = load_lstm(path)
        assert len(caught) == 1
        assert_same_bits(loaded.h_0_l0, model.state_dict()[f"h_0{local}"])
        if ours:
            assert loaded.state_dict().keys() == ours.state_dict().keys()
            assert (loaded.peephole, loaded.layer_norm) == (True, "haste")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"weight_cf_l0": None}, 'Missing key(s) in state_dict: "weight_cf_l0".'),
        ({"weight_ci_l0": None, "weight_cf_l0": None},
         'Missing key(s) in state_dict: "weight_ci_l0", "weight_cf_l0".'),
        ({"weight_co_l0": (5,)}, "size mismatch for weight_co_l0: copying a param with shape (5,) "
         "from checkpoint, the shape in current model is (4,)."),
        ({"weight_ln_l0": (16,), "weight_ln_c_l0": (4,)}, 'Missing key(s) in state_dict: '
         '"weight_ln_ih_l0", "weight_ln_hh_l0", "bias_ln_c_l0".\n'
         '\tUnexpected key(s) in state_dict: "weight_ln_l0".'),
        ({"bias_ci_l0": (4,)}, 'Unexpected key(s) in state_dict: "bias_ci_l0".'),
        ({"weight_ci_l1": (4,)}, None),
        ({"weight_ci_l0_g": (4,)}, None),
    ],
    ids=str,
)  # fmt: skip
def test_every_array_is_accounted_for(tmp_path, change, sentence):
    arrays = LSTM(I, H, peephole=True).state_dict()
    for name, shape in change.items():
        arrays.pop(name, None)
        if shape:
            arrays[name] = np.ones(shape, "float32")
    np.savez(path := tmp_path / "x.npz", **arrays)
    for call in (load, load_lstm):
        if sentence:
            error = f"{path}: Error(s) in loading state_dict for LSTM:\n\t{sentence}"
            raises(lambda call=call: call(path), ValueError, error)
        else:
            with pytest.raises(ValueError, match=r"x\.npz: .*(_l1|_l0_g)"):
                call(path)


def test_a_peephole_that_cannot_be_read_is_refused(tmp_path):
    """It must not pass for an LSTM without it."""
    torch = pytest.importorskip("torch")
    state = {n: torch.tensor(a) for n, a in LSTM(I, H, peephole=True).state_dict().items()}
    state["weight_co_l0"] = state["weight_co_l0"].to_sparse()
    torch.save(state, path := tmp_path / "x.pt")
    for call in (load, load_lstm, load_state):
        with pytest.raises(ValueError, match="entry 'weight_co_l0' is a sparse tensor"):
            call(path)
    state["weight_co_l0"] = torch.nn.ReLU()  # an object in the place of the peephole
    torch.save(state, path)
    for call in (load, load_lstm, load_state):
        with pytest.raises(ValueError, match="entry 'weight_co_l0' is .*ReLU.* not opened"):
            call(path)


GRU = "a GRU, or an LSTM with coupled gates"


@pytest.mark.parametrize(
    "options, what",
    [
        ({"coupled": "f=1-i"}, GRU),
        ({"coupled": "i=1-f", "bias": False, "num_layers": 2, "bidirectional": True}, GRU),
        ({"coupled": "i=1-f", "proj_size": 2}, "an LSTM with coupled gates"),
        ({"coupled": "f=1-i", "layer_norm": "haste"}, "an LSTM with coupled gates"),
        ({"coupled": "f=1-i", "learn_initial_state": True}, "an LSTM with coupled gates"),
    ],
    ids=str,
)
def test_a_coupled_gate_that_arrays_do_not_tell_is_refused(tmp_path, options, what):
    layer = _lstm(**options)
    path = _save(layer, tmp_path / "x.pt")
    sentence = (
        f"it is {what}, whose arrays do not tell which of i and f is left out: it is loaded by "
        "fastlstm.load(path, into=model)"
    )
    raises(lambda: load(path), ValueError, f"{path}: {sentence}")
    with pytest.raises(ValueError, match=re.escape(f"{path}: it holds no LSTM: {sentence}")):
        load_lstm(path)
    raises(lambda: load_lstm(path, prefix=""), ValueError, f"{path}: {sentence}")
    same = LSTM(I, H, engine="numpy", **options)
    _assert_same(load(path, into=same), layer, 5, 2, I)
    for part, owner in ((layer, what), (LSTMCell(I, H, coupled="f=1-i"), GRU)):
        path = _save(Sequential({"a": part}), tmp_path / "y.pt")
        with pytest.raises(ValueError, match=f"'a' is {owner}, whose arrays"):
            load(path, prefix="a")
        with pytest.raises(ValueError, match=f"'a' cannot be run: 'a' is {owner}"):
            load(path, order=["a"])


# ---- what is warned of ----------------------------------------------------------------------

SAID = "such a file holds arrays alone, which do not tell"
ADVICE = "load it with fastlstm.load(path, into=model), or save the model as .npz"


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("options, words", UNTOLD, ids=str)
def test_what_a_file_of_arrays_does_not_tell_is_warned_of(tmp_path, suffix, options, words):
    layer, path = _lstm(**options), tmp_path / f"x{suffix}"
    with pytest.warns(UserWarning) as caught:
        fastlstm.save(layer, path)
    assert [str(w.message) for w in caught] == [f"{path}: {SAID} {words} of the LSTM: {ADVICE}"]
    assert caught[0].filename == __file__
    _assert_same(load(path, into=LSTM(I, H, engine="numpy", **options)), layer, 5, 2, I)


@pytest.mark.parametrize("own", [False, True])
def test_a_warning_names_the_layers(tmp_path, own):
    """Those inside others too, and those of a model that has layers of the user's own."""

    class Mine(Sequential):
        pass

    rnn = Sequential({"rnn": LSTM(I, H, gate_clip=2, proj_size=I), "plain": LSTM(I, H)})
    cell = LSTMCell(H, H, cell_clip=0.5, zoneout=0.25)
    with pytest.warns(UserWarning) as caught:
        fastlstm.save((Mine if own else Sequential)({"a": rnn}), tmp_path / "x.pt")
        fastlstm.save(cell, tmp_path / "x.pt")
    words = "gate_clip=2.0 of 'a.rnn'", "cell_clip=0.5, zoneout=0.25 of the LSTMCell"
    expected = [f"{tmp_path / 'x.pt'}: {SAID} {word}: {ADVICE}" for word in words]
    assert [str(w.message) for w in caught] == expected


def test_a_warning_names_sums_and_joins(tmp_path, recwarn):
    """What is loaded by names and shapes would be the bare chain."""
    chain = Sequential({"rnn": LSTM(I, H), "fc": Linear(H, I)})
    fastlstm.save(chain, path := tmp_path / "x.pt")
    assert not recwarn
    for model, words in (
        (Residual(chain), "the sum of the Residual"),
        (
            Sequential({"cat": Concat(LSTM(I, H), Residual(Linear(I, I)))}),
            "the join of 'cat', the sum of 'cat.1'",
        ),
    ):
        with pytest.warns(UserWarning) as caught:
            fastlstm.save(model, path)
        assert [str(w.message) for w in caught] == [f"{path}: {SAID} {words}: {ADVICE}"]
        assert repr(load(path, into=copy.deepcopy(model))) == repr(model)


@pytest.mark.parametrize("options, words", UNTOLD, ids=str)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_with_the_structure_keeps_it(tmp_path, recwarn, suffix, options, words):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    layer, path = _lstm(**options), tmp_path / f"x{suffix}"
    fastlstm.save(layer, path)
    for loaded in (load(path, engine="numpy"), load_lstm(path, engine="numpy")):
        _assert_same(loaded, layer, 5, 2, I)
        assert words in repr(loaded)
    assert not recwarn


def test_many_layers_make_no_long_warning(tmp_path):
    model = Sequential({f"{n}": LSTM(1, 1, gate_clip=1.0) for n in range(100)})
    with pytest.warns(UserWarning, match="gate_clip=1.0 of '19' and 80 more: load it") as caught:
        fastlstm.save(model, tmp_path / "x.pt")
    assert len(str(caught[0].message)) < 1000


def test_a_cell_with_a_structure_as_an_lstm(tmp_path, recwarn):
    """`load_lstm` takes the options of the structure, and not what the arrays tell alone."""
    options: dict[str, Any] = {"coupled": "f=1-i", "cell_clip": 0.5, "zoneout": (0.25, 0.5)}
    options |= {"cell_activation": ("elu", 2.0)}
    cell = _stirred(LSTMCell(I, H, engine="numpy", **options))
    fastlstm.save(Sequential({"cell": cell}), path := tmp_path / "x.npz")
    lstm = load_lstm(path, batch_first=False, engine="numpy")
    assert repr(lstm) == repr(LSTM(I, H, **options))
    x = normal(5, 2, I)
    y, states = lstm(x)[0], None
    for t in range(5):
        states = cell(x[t], states)
        np.testing.assert_allclose(y[t], states[0], rtol=0, atol=1e-6)
    assert not recwarn


@pytest.mark.parametrize(
    "options, other, words",
    [
        ({"gate_clip": 2.0}, {}, "gate_clip=2.0 in the file, None in the model given"),
        ({}, {"gate_clip": 2.0}, "gate_clip=None in the file, 2.0 in the model given"),
        ({"reverse": True}, {}, "reverse=True in the file, False in the model given"),
        ({"cell_activation": ("elu", 2.0)}, {"cell_activation": "elu"},
         "cell_activation=['elu', 2.0] in the file, 'elu' in the model given"),
        ({"coupled": "f=1-i"}, {"coupled": "i=1-f"},
         "coupled='f=1-i' in the file, 'i=1-f' in the model given"),
    ],
)  # fmt: skip
def test_a_model_of_another_cell_is_refused(tmp_path, options, other, words):
    """The structure of the file contradicts the model of `into`, though all arrays fit."""
    fastlstm.save(_lstm(**options), path := tmp_path / "x.npz")
    error = f"{path}: the LSTM has {words}"
    raises(lambda: load(path, into=LSTM(I, H, **other)), ValueError, error)
    fastlstm.save(Sequential({"a": _lstm(**options)}), path)
    sentence = f"{path}: a has {words}"
    raises(lambda: load(path, into=Sequential({"a": LSTM(I, H, **other)})), ValueError, sentence)
    load(path, prefix="a", into=LSTM(I, H, **options))


def test_what_can_change_may_differ_from_the_file(tmp_path):
    """Dropouts and zoneout of a model that is trained further, on either side."""
    layer = _lstm(zoneout=0.25, recurrent_dropout=0.5)
    fastlstm.save(layer, path := tmp_path / "x.npz")
    loaded = load(path, into=LSTM(I, H, input_dropout=0.125))
    assert (loaded.zoneout, loaded.recurrent_dropout, loaded.input_dropout) == (0, 0, 0.125)
    assert_same_bits(loaded.weight_hh_l0, layer.weight_hh_l0)


def test_a_checkpoint_of_a_model_with_options(tmp_path):
    """It holds the model's arrays and its repr, of which those options are warned of."""
    model = Sequential(
        {
            "rnn": LSTM(1, 2, peephole=True, gate_activation=("elu", 2.0), zoneout=0.25),
            "fc": Linear(2, 1),
        }
    )
    path, x = tmp_path / "x.npz", normal(4, 5, 1)
    fit(model, (x, x), MSELoss(), Adam(model), 1, 4, callbacks=[Checkpoint(path)])
    sentence = (
        f"{path}: its model had gate_activation=('elu', 2.0), zoneout=0.25, and what is loaded "
        "here has not: fastlstm.load(path, into=model) takes these options from a model"
    )
    for call in (load, load_lstm):
        with pytest.warns(UserWarning) as caught:
            assert "peephole=True" in repr(call(path))
        assert [str(w.message) for w in caught] == [sentence]
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path, into=model)
        load_state(path)


@pytest.mark.parametrize(
    "made_for, warned",
    [
        (None, []),  # as in the first version of checkpoints
        ({}, []),
        ({"model": "LSTM(3, 4, peephole=True, coupled='f=1-i') of float32"}, []),
        ({"model": "(0): LSTM(zoneout=0.5, reverse=True) (1): LSTM(zoneout=0.5) (2): Last(reverse="
          "True)"}, ["zoneout=0.5, reverse=True"]),
        ({"model": "gate_clip=" + "\x1b" * 10**5}, ["gate_clip=" + "\\x1b" * 90 + "..."]),
        ({"model": "gate_clip=(" * 10**5}, []),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_checkpoint_says_of_its_model(tmp_path, made_for, warned):
    """Each option once, with nothing that a terminal would obey, and not endlessly."""
    layer = LSTM(I, H)
    tree: dict[str, Any] = {"kept": {"model": {}}}
    arrays = {str(n): array for n, array in enumerate(layer.state_dict().values())}
    for number, name in enumerate(layer.state_dict()):
        tree["kept"]["model"][name] = {"__array__": number}
    if made_for is not None:
        tree["made_for"] = made_for
    text = np.array(json.dumps(tree).encode())
    np.savez(path := tmp_path / "x.npz", **arrays | {"__training__": text})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_same_bits(load(path).weight_ih_l0, layer.weight_ih_l0)
    said = [str(w.message).removeprefix(f"{path}: its model had ") for w in caught]
    assert len(said) == len(warned)
    for one, words in zip(said, warned, strict=True):
        assert one.startswith(words) and len(one) < 500 and "\x1b" not in one


# ---- hostile structures ---------------------------------------------------------------------


def _write(path: Path, layer: Any, damage: dict[str, Any]) -> None:
    """Save a layer with other arguments in its structure."""
    fastlstm.save(layer, path)
    with np.load(path) as file:
        entries = dict(file)
    tree = json.loads(entries["__structure__"].item())
    tree["structure"].update(damage)
    np.savez(path, **entries | {"__structure__": np.array(json.dumps(tree).encode())})


NAN, INF, BIG = float("nan"), float("inf"), 10**400
KINDS = (
    "sigmoid, tanh, relu, identity, affine, leaky_relu, thresholded_relu, scaled_tanh, "
    "hard_sigmoid, elu, softsign, softplus, or a tuple of such a name and its parameters alpha and "
    "beta"
)
NO_NUMBER = "its structure cannot be built: alpha of cell_activation should be a number, got: "
ZONES = "zoneout must be a finite number of at least 0 and of at most 1, got"
HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"cell_activation": []}, f"cell_activation must be one of {KINDS}, got '[]'"),
    ({"cell_activation": [None]}, f"cell_activation must be one of {KINDS}, got '[None]'"),
    ({"cell_activation": [["elu"], 1]},
     f"cell_activation must be one of {KINDS}, got '[['elu'], 1]'"),
    ({"cell_activation": "x" * 10**5},
     f"cell_activation must be one of {KINDS}, got '{'x' * 100}'..."),
    ({"gate_activation": ["tanh", 1]}, "gate_activation: tanh has no parameter, got 1"),
    ({"output_activation": ["affine", 1, 2, 3]},
     "output_activation: affine has two parameters, got 3"),
    ({"output_activation": ["elu"] * 50_000},
     "output_activation: elu has one parameter, got 49999"),
    ({"cell_activation": ["elu", NAN]},
     "alpha of cell_activation must be a finite number, got nan"),
    ({"cell_activation": ["affine", 1, -INF]},
     "beta of cell_activation must be a finite number, got -inf"),
    ({"cell_activation": ["elu", BIG]},
     f"alpha of cell_activation must be a finite number, got {str(BIG)[:100]}"),
    ({"cell_activation": ["elu", -BIG]},
     f"alpha of cell_activation must be a finite number, got {str(-BIG)[:100]}"),
    ({"cell_activation": ["elu", True]}, NO_NUMBER + "bool"),
    ({"cell_activation": ["elu", "1"]}, NO_NUMBER + "str"),
    ({"cell_activation": {"elu": 1}},
     "its structure gives {kind} cell_activation of type dict, expected str"),
    ({"hidden_size": []},
     "its structure gives LSTM a hidden_size for 0 layers, expected 1 to 1000"),
    ({"hidden_size": [4] * 200_000},
     "its structure gives LSTM a hidden_size for 200000 layers, expected 1 to 1000"),
    ({"hidden_size": [4, True]}, "its structure gives LSTM a hidden_size with other than counts"),
    ({"hidden_size": [[4]]}, "its structure gives LSTM a hidden_size with other than counts"),
    ({"hidden_size": [1] * 1000}, "its structure needs 8008 numbers or more, the file holds 144"),
    ({"hidden_size": [BIG]},
     f"its structure needs {10**100} numbers or more, the file holds 144"),
    ({"hidden_size": [4], "num_layers": 2}, "num_layers=2 does not agree with hidden_size, which "
     "is a list for 1 layers: leave out num_layers, which follows"),
    ({"zoneout": []}, "zoneout must be a number, or a pair for h and c, got '[]'"),
    ({"zoneout": [0.5]}, "zoneout must be a number, or a pair for h and c, got '[0.5]'"),
    ({"zoneout": [1, 0, 1]}, "zoneout must be a number, or a pair for h and c, got '[1, 0, 1]'"),
    ({"zoneout": [0.5, NAN]}, f"{ZONES} nan"),
    ({"zoneout": [BIG, 0.5]}, f"{ZONES} {str(BIG)[:100]}"),
    ({"zoneout": 2.0}, f"{ZONES} 2.0"),
    ({"zoneout": [False, 0.5]},
     "its structure cannot be built: zoneout should be a number, got: bool"),
    ({"zoneout": None}, "its structure gives {kind} zoneout of type NoneType, expected float"),
    ({"coupled": "F=1-I"}, 'coupled must be "f=1-i" or "i=1-f", or None, got \'F=1-I\''),
    ({"coupled": 1}, "its structure gives {kind} coupled of type int, expected str"),
    ({"layer_norm": "keras"}, 'layer_norm must be "tflite" or "haste", or None, got \'keras\''),
    ({"layer_norm": ["haste"]}, "its structure gives {kind} layer_norm of type list, expected str"),
    ({"proj_clip": 1.0}, "proj_clip bounds what a projection gives, so it needs proj_size"),
    ({"gate_clip": -1.0}, "gate_clip must be a finite number above 0, got -1.0"),
    ({"cell_clip": NAN}, "cell_clip must be a finite number above 0, got nan"),
    ({"cell_clip": BIG}, "its structure gives {kind} cell_clip of type int, expected float"),
    ({"recurrent_dropout": NAN}, "recurrent_dropout should be a number in range [0, 1] "
     "representing the probability of an element being zeroed, got nan"),
    ({"reverse": 1}, "its structure gives LSTM reverse of type int, expected bool"),
]  # fmt: skip
ONLY_LSTM = {"hidden_size", "proj_clip", "recurrent_dropout", "reverse"}


@pytest.mark.parametrize("damage, sentence", HOSTILE, ids=lambda value: str(value)[:50])
def test_hostile_structures(tmp_path, damage, sentence):
    """One sentence names the file and the fault, for an LSTM and for an LSTMCell."""
    path = tmp_path / "x.npz"
    for layer in [LSTM(I, H)] if damage.keys() & ONLY_LSTM else [LSTM(I, H), LSTMCell(I, H)]:
        _write(path, layer, damage)
        error = f"{path}: {sentence.replace('{kind}', type(layer).__name__)}"
        calls: list[Callable[[], object]] = [lambda: load(path), lambda: load_lstm(path)]
        for call in calls:
            raises(call, ValueError, error)
        assert len(error) < 600


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.sampled_from([BIG, NAN, INF, 0.25, 1e308, "elu", "tanh", "affine", "f=1-i", "haste", ""]),
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(
        "hidden_size num_layers peephole coupled gate_clip cell_clip proj_clip proj_size zoneout "
        "gate_activation cell_activation output_activation layer_norm recurrent_dropout reverse "
        "input_dropout bidirectional learn_initial_state bias dtype".split()
    ),
    VALUES | st.lists(VALUES, max_size=4),
    min_size=1,
    max_size=3,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=ARGUMENTS)
def test_any_structure_is_a_model_or_a_value_error(tmp_path, damage):
    _write(path := tmp_path / "x.npz", LSTM(I, H, engine="numpy"), damage)
    calls: list[Callable[[], Any]] = [lambda: load(path), lambda: load_lstm(path)]
    calls += [lambda: load(path, into=LSTM(I, H, engine="numpy"))]
    for call in calls:
        try:
            call()(normal(5, 2, I))
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error)) < 2000


# ---- the command ----------------------------------------------------------------------------

CELLS: list[dict[str, Any]] = [
    {"peephole": True, "coupled": "i=1-f", "cell_clip": 0.5},
    {"layer_norm": "haste", "cell_activation": ("elu", 2.0), "zoneout": 0.25},
    {"reverse": True, "proj_size": 2, "proj_clip": 0.25, "learn_initial_state": True},
    {"layer_norm": "tflite", "gate_activation": "hard_sigmoid", "gate_clip": 2.0},
]


@pytest.mark.parametrize("options", CELLS, ids=str)
def test_the_command_runs_and_shows_models_with_options(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    layer, x = _lstm(**options), normal(7, 2, I)
    fastlstm.save(layer, "m.npz")
    np.save("x.npy", x)
    arguments = "run m.npz x.npy -o y.npy --engine numpy".split()
    assert cli.main(arguments) == 0
    np.testing.assert_allclose(np.load("y.npy"), layer(x)[0], rtol=0, atol=1e-6)
    capsys.readouterr()
    assert cli.main(["info", "m.npz"]) == 0
    out = capsys.readouterr().out
    assert repr(layer) in out.splitlines()
    for name, array in layer.state_dict().items():
        assert re.search(rf"^{name} +{re.escape(str(array.shape))} +{array.size}$", out, re.M)


def test_the_command_takes_what_arrays_tell(tmp_path, monkeypatch, capsys):
    """From a .pt file: peepholes run, and a coupled gate that is not told is an error."""
    monkeypatch.chdir(tmp_path)
    layer, x = _lstm(peephole=True), normal(7, 2, I)
    fastlstm.save(layer, "m.pt")
    np.save("x.npy", x)
    assert cli.main("run m.pt x.npy -o y.npy --no-batch-first".split()) == 0
    np.testing.assert_allclose(np.load("y.npy"), layer(x)[0], rtol=0, atol=1e-6)
    _save(_lstm(coupled="f=1-i"), Path("m.pt"))
    capsys.readouterr()
    assert cli.main("run m.pt x.npy -o z.npy".split()) == 1
    assert f"m.pt: it is {GRU}, whose arrays do not tell" in capsys.readouterr().err
    assert not Path("z.npy").exists()


def test_the_command_forecasts_with_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rnn = LSTM(1, 4, peephole=True, cell_clip=0.5, zoneout=0.25, seed=0)
    forecaster = Forecaster(
        Sequential(rnn, Last(), Linear(4, 2, seed=1)),
        Standardizer([1.0], [2.0]), 3, 2, inputs=["a"], targets=["a"], columns=["a"],
    )  # fmt: skip
    forecaster.save("f.npz")
    series = normal(8, 1, dtype="float64")
    Path("x.csv").write_text("a\n" + "".join(f"{float(v)!r}\n" for v in series[:, 0]))
    assert cli.main("forecast f.npz x.csv -o y.csv".split()) == 0
    rows = [line.split(",")[-1] for line in Path("y.csv").read_text().splitlines()[1:]]
    expected = forecaster.forecast(series)[:, 0]
    np.testing.assert_allclose([float(row) for row in rows], expected, rtol=1e-5)
    capsys.readouterr()
    assert cli.main(["info", "f.npz"]) == 0
    assert "LSTM(1, 4, peephole=True, cell_clip=0.5, zoneout=0.25)" in capsys.readouterr().out
