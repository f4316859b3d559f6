"""The options of the recurrence as arguments: what is refused, shown, stored, and kept.

Their values are in `test_options_torch.py`, `test_options_peers.py`, `test_options_keras.py` and
`test_options_by_hand.py`.
"""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from values import arrays_in, normal

import fastlstm
from fastlstm import LSTM, Last, Linear, LSTMCell, Sequential
from fastlstm.training import SGD, Adam, MSELoss

I, H = 3, 4

# For each option its arguments, the end of the layer's repr, and the parameters of one layer and
# direction beside torch's four, with their shapes.
OPTIONS: list[tuple[dict[str, Any], str, dict[str, tuple[int, ...]]]] = [
    (
        {"peephole": True},
        "peephole=True",
        {"weight_ci": (4,), "weight_cf": (4,), "weight_co": (4,)},
    ),
    ({"coupled": "f=1-i"}, "coupled='f=1-i'", {}),
    ({"coupled": "i=1-f"}, "coupled='i=1-f'", {}),
    (
        {"coupled": "f=1-i", "peephole": True},
        "peephole=True, coupled='f=1-i'",
        {"weight_ci": (4,), "weight_co": (4,)},
    ),
    (
        {"coupled": "i=1-f", "peephole": True},
        "peephole=True, coupled='i=1-f'",
        {"weight_cf": (4,), "weight_co": (4,)},
    ),
    ({"gate_clip": 1}, "gate_clip=1.0", {}),
    ({"cell_clip": np.float32(0.5)}, "cell_clip=0.5", {}),
    ({"proj_size": 2, "proj_clip": 0.25}, "proj_size=2, proj_clip=0.25", {"weight_hr": (2, 4)}),
    ({"gate_activation": "hard_sigmoid"}, "gate_activation='hard_sigmoid'", {}),
    ({"gate_activation": ("hard_sigmoid", 0.2)}, "gate_activation='hard_sigmoid'", {}),
    (
        {"gate_activation": ["hard_sigmoid", 1 / 6]},
        "gate_activation=('hard_sigmoid', 0.16666666666666666, 0.5)",
        {},
    ),
    ({"cell_activation": "softsign"}, "cell_activation='softsign'", {}),
    ({"cell_activation": ("leaky_relu", 0.5)}, "cell_activation=('leaky_relu', 0.5)", {}),
    ({"cell_activation": ("affine", 2)}, "cell_activation=('affine', 2.0, 0.0)", {}),
    ({"output_activation": "identity"}, "output_activation='identity'", {}),
    ({"output_activation": ("elu", np.float64(0.5))}, "output_activation=('elu', 0.5)", {}),
    ({"layer_norm": "tflite"}, "layer_norm='tflite'", {"weight_ln": (16,)}),
    (
        {"layer_norm": "haste"},
        "layer_norm='haste'",
        {"weight_ln_ih": (16,), "weight_ln_hh": (16,), "weight_ln_c": (4,), "bias_ln_c": (4,)},
    ),
    (
        {"layer_norm": "haste", "coupled": "f=1-i"},
        "coupled='f=1-i', layer_norm='haste'",
        {"weight_ln_ih": (12,), "weight_ln_hh": (12,), "weight_ln_c": (4,), "bias_ln_c": (4,)},
    ),
    ({"recurrent_dropout": 0.5}, "recurrent_dropout=0.5", {}),
    ({"zoneout": 0.25}, "zoneout=0.25", {}),
    ({"zoneout": [0.25, 0.5]}, "zoneout=(0.25, 0.5)", {}),
    ({"zoneout": (0.25, 0.25)}, "zoneout=0.25", {}),
    ({"input_dropout": 1}, "input_dropout=1.0", {}),
    ({"reverse": True}, "reverse=True", {}),
    ({"learn_initial_state": True}, "learn_initial_state=True", {"h_0": (4,), "c_0": (4,)}),
]
EVERYTHING: dict[str, Any] = {
    "proj_size": 2,
    "peephole": True,
    "coupled": "i=1-f",
    "gate_clip": 2.5,
    "cell_clip": 1.5,
    "proj_clip": 0.5,
    "gate_activation": ("hard_sigmoid", 0.3, 0.5),
    "cell_activation": "softsign",
    "output_activation": ("scaled_tanh", 1.5, 0.5),
    "layer_norm": "haste",
    "recurrent_dropout": 0.25,
    "zoneout": (0.25, 0.125),
    "input_dropout": 0.125,
    "learn_initial_state": True,
}
ALL = [options for options, *_ in OPTIONS] + [EVERYTHING]
IN_CELLS = {
    "peephole", "coupled", "gate_clip", "cell_clip", "gate_activation", "cell_activation",
    "output_activation", "layer_norm", "zoneout", "learn_initial_state",
}  # fmt: skip


def _id(options: dict[str, Any]) -> str:
    return "everything" if options is EVERYTHING else ",".join(map(str, options.items()))


each_option = pytest.mark.parametrize("options", ALL, ids=_id)


def _stirred(layer: Any, seed: int = 0) -> Any:
    """Give every parameter other numbers than those it was made with."""
    rng = np.random.default_rng(seed)
    state = {
        name: (value + 0.3 * rng.standard_normal(value.shape)).astype(value.dtype)
        for name, value in layer.state_dict().items()
    }
    layer.load_state_dict(state)
    return layer


def _outputs(layer: Any, x: np.ndarray) -> list[np.ndarray]:
    """Return what a layer gives in evaluation."""
    was_training = layer.training
    got = [*arrays_in(layer.eval()(x))]
    layer.train(was_training)
    return got


def _assert_same(layer: Any, other: Any, x: np.ndarray) -> None:
    """Assert that two layers say the same of themselves and give the same bits."""
    assert repr(layer) == repr(other)
    for one, two in zip(_outputs(layer, x), _outputs(other, x), strict=True):
        assert_same_bits(one, two)


# ---- what is refused ------------------------------------------------------------------------

NAMES = (
    "sigmoid, tanh, relu, identity, affine, leaky_relu, thresholded_relu, scaled_tanh, "
    "hard_sigmoid, elu, softsign, softplus, or a tuple of such a name and its parameters alpha and "
    "beta"
)
CHANCE = (
    "should be a number in range [0, 1] representing the probability of an element being zeroed"
)
REFUSED = [
    ({"peephole": 1}, TypeError, "peephole should be of type bool, got: int"),
    ({"peephole": None}, TypeError, "peephole should be of type bool, got: NoneType"),
    ({"coupled": "f=i"}, ValueError, 'coupled must be "f=1-i" or "i=1-f", or None, got \'f=i\''),
    ({"coupled": True}, ValueError, 'coupled must be "f=1-i" or "i=1-f", or None, got \'True\''),
    ({"gate_clip": 0}, ValueError, "gate_clip must be a finite number above 0, got 0"),
    ({"gate_clip": -1.0}, ValueError, "gate_clip must be a finite number above 0, got -1.0"),
    ({"cell_clip": np.inf}, ValueError, "cell_clip must be a finite number above 0, got inf"),
    ({"cell_clip": "3"}, TypeError, "cell_clip should be a number, got: str"),
    ({"cell_clip": True}, TypeError, "cell_clip should be a number, got: bool"),
    ({"gate_activation": "Sigmoid"}, ValueError,
     f"gate_activation must be one of {NAMES}, got 'Sigmoid'"),
    ({"cell_activation": None}, ValueError, f"cell_activation must be one of {NAMES}, got 'None'"),
    ({"output_activation": ()}, ValueError, f"output_activation must be one of {NAMES}, got ()"),
    ({"gate_activation": ("relu", 1)}, ValueError, "gate_activation: relu has no parameter, got 1"),
    ({"cell_activation": ("elu", 1, 2)}, ValueError,
     "cell_activation: elu has one parameter, got 2"),
    ({"output_activation": ("affine", 1, 2, 3)}, ValueError,
     "output_activation: affine has two parameters, got 3"),
    ({"output_activation": ("affine", "1")}, TypeError,
     "alpha of output_activation should be a number, got: str"),
    ({"gate_activation": ("affine", 1, np.nan)}, ValueError,
     "beta of gate_activation must be a finite number, got nan"),
    ({"layer_norm": "Haste"}, ValueError,
     'layer_norm must be "tflite" or "haste", or None, got \'Haste\''),
    ({"zoneout": -0.5}, ValueError,
     "zoneout must be a finite number of at least 0 and of at most 1, got -0.5"),
    ({"zoneout": (0.5, 2)}, ValueError,
     "zoneout must be a finite number of at least 0 and of at most 1, got 2"),
    ({"zoneout": (0.5,)}, ValueError,
     "zoneout must be a number, or a pair for h and c, got (0.5,)"),
    ({"zoneout": True}, TypeError, "zoneout should be a number, got: bool"),
    ({"learn_initial_state": 0}, TypeError,
     "learn_initial_state should be of type bool, got: int"),
]  # fmt: skip
REFUSED_BY_LAYERS = [
    ({"proj_clip": 1.0}, ValueError,
     "proj_clip bounds what a projection gives, so it needs proj_size"),
    ({"proj_clip": 0.0, "proj_size": 2}, ValueError,
     "proj_clip must be a finite number above 0, got 0.0"),
    ({"recurrent_dropout": 1.5}, ValueError, f"recurrent_dropout {CHANCE}, got 1.5"),
    ({"input_dropout": True}, ValueError, f"input_dropout {CHANCE}, got True"),
    ({"reverse": 1}, TypeError, "reverse should be of type bool, got: int"),
    ({"reverse": True, "bidirectional": True}, ValueError,
     "reverse=True and bidirectional=True exclude each other: a bidirectional LSTM runs from the "
     "end as well"),
]  # fmt: skip


@pytest.mark.parametrize("options, kind, sentence", REFUSED + REFUSED_BY_LAYERS)
def test_what_a_layer_refuses(options, kind, sentence):
    raises(lambda: LSTM(I, H, **options), kind, sentence)


@pytest.mark.parametrize("options, kind, sentence", REFUSED)
def test_what_a_cell_refuses(options, kind, sentence):
    raises(lambda: LSTMCell(I, H, **options), kind, sentence)


@pytest.mark.parametrize(
    "name", ["proj_clip", "recurrent_dropout", "input_dropout", "reverse", "bidirectional"]
)
def test_a_cell_has_none_of_what_needs_a_sequence(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        LSTMCell(I, H, **{name: 1})


# ---- what it says, and what it is made of ---------------------------------------------------


@pytest.mark.parametrize("options, text, shapes", OPTIONS, ids=[_id(o) for o, *_ in OPTIONS])
def test_repr_and_parameters(options, text, shapes):
    """The repr makes an equal layer; parameters come after torch's own of the same direction."""
    layer = LSTM(I, H, **options)
    assert repr(layer) == f"LSTM(3, 4, {text})"
    assert repr(eval(repr(layer))) == repr(layer)
    rows = 12 if layer.coupled else 16
    P = layer.proj_size or H
    plain = {"weight_ih": (rows, I), "weight_hh": (rows, P), "bias_ih": (rows,), "bias_hh": (rows,)}
    expected = {f"{name}_l0": shape for name, shape in (plain | shapes).items()}
    got = {name: value.shape for name, value in layer.state_dict().items()}
    assert list(got.items()) == list(expected.items())
    if not set(options) - IN_CELLS:
        cell = LSTMCell(I, H, **options)
        assert repr(cell) == f"LSTMCell(3, 4, {text})"
        got = {name: value.shape for name, value in cell.state_dict().items()}
        assert list(got.items()) == list((plain | shapes).items())


def test_parameters_of_layers_and_directions():
    """Each layer and direction has all of its own, one after the other."""
    layer = LSTM(I, H, 2, bidirectional=True, bias=False, **EVERYTHING)
    kinds = ["weight_ih", "weight_hh", "weight_hr", "weight_cf", "weight_co", "weight_ln_ih",
             "weight_ln_hh", "weight_ln_c", "bias_ln_c", "h_0", "c_0"]  # fmt: skip
    ends = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    assert list(layer.state_dict()) == [kind + end for end in ends for kind in kinds]
    assert {layer.state_dict()[f"h_0{end}"].shape for end in ends} == {(2,)}
    assert {layer.state_dict()[f"weight_ih{end}"].shape for end in ends} == {(12, 3), (12, 4)}


def test_everything_in_a_repr():
    assert repr(LSTM(I, H, 2, batch_first=True, bidirectional=True, **EVERYTHING)) == (
        "LSTM(3, 4, proj_size=2, num_layers=2, batch_first=True, bidirectional=True, "
        "peephole=True, coupled='i=1-f', gate_clip=2.5, cell_clip=1.5, proj_clip=0.5, "
        "gate_activation=('hard_sigmoid', 0.3, 0.5), cell_activation='softsign', "
        "output_activation=('scaled_tanh', 1.5, 0.5), layer_norm='haste', "
        "recurrent_dropout=0.25, zoneout=(0.25, 0.125), input_dropout=0.125, "
        "learn_initial_state=True)"
    )


def test_first_values():
    """Gains are 1, what begins a sequence is 0, and the rest is drawn as torch's weights are."""
    layer = LSTM(I, 16, proj_size=2, peephole=True, layer_norm="haste", learn_initial_state=True,
                 seed=0)  # fmt: skip
    for seed in (None, 1):
        if seed:
            _stirred(layer).reset_parameters(seed)
        values = {name.removesuffix("_l0"): v for name, v in layer.state_dict().items()}
        for name in ("weight_ln_ih", "weight_ln_hh", "weight_ln_c"):
            assert (values[name] == 1).all(), name
        for name in ("bias_ln_c", "h_0", "c_0"):
            assert not values[name].any(), name
        for name in ("weight_ci", "weight_cf", "weight_co"):
            assert 0.5 < 4 * np.abs(values[name]).max() <= 1, name
    assert (LSTM(I, H, layer_norm="tflite").weight_ln_l0 == 1).all()


def test_an_option_draws_the_weights_of_the_plain_layer():
    """Peepholes come last, so that the matrices of the same seed are the plain layer's."""
    plain, layer = LSTM(I, H, seed=7), LSTM(I, H, seed=7, peephole=True, layer_norm="haste")
    for name, value in plain.state_dict().items():
        assert_same_bits(layer.state_dict()[name], value)


# ---- what cannot be changed -----------------------------------------------------------------

FIXED = {
    "peephole": False, "coupled": None, "gate_clip": 1.0, "cell_clip": None, "proj_clip": 2.0,
    "gate_activation": "tanh", "cell_activation": "relu", "output_activation": "relu",
    "layer_norm": None, "reverse": True, "learn_initial_state": False,
}  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_be_changed(name):
    layer = LSTM(I, H, **EVERYTHING)
    before = repr(layer)
    raises(
        lambda: setattr(layer, name, FIXED[name]),
        AttributeError,
        f"{name} of LSTM cannot be changed: build another layer",
    )
    assert repr(layer) == before


def test_what_training_draws_can_be_changed(engine):
    """Dropouts and zoneout; the packed weights of calls and streams follow zoneout."""
    layer, x = LSTM(I, H, engine=engine, seed=0), normal(5, 2, I)
    layer.eval()
    stream = layer.stream(2)
    plain = layer(x)[0]
    assert_same_bits(stream.run(x[:2]), plain[:2])
    layer.zoneout = [0.5, 0.25]
    assert layer.zoneout == (0.5, 0.25)
    expected = LSTM(I, H, engine=engine, seed=0, zoneout=(0.5, 0.25)).eval()
    zoned = layer(x)[0]
    assert_same_bits(zoned, expected(x)[0])
    assert np.abs(zoned - plain).max() > 1e-3
    other = expected.stream(2)
    other.state = stream.state
    assert_same_bits(stream.step(x[2]), other.step(x[2]))
    layer.zoneout = 0
    assert_same_bits(layer(x)[0], plain)
    layer.recurrent_dropout, layer.input_dropout = 0.5, 0.25
    assert repr(layer) == "LSTM(3, 4, recurrent_dropout=0.5, input_dropout=0.25)"
    assert_same_bits(layer(x)[0], plain)
    for name in ("recurrent_dropout", "input_dropout"):
        raises(lambda name=name: setattr(layer, name, 2), ValueError, f"{name} {CHANCE}, got 2")
    raises(
        lambda: setattr(layer, "zoneout", (1, 2, 3)),
        ValueError,
        "zoneout must be a number, or a pair for h and c, got (1, 2, 3)",
    )
    assert (layer.recurrent_dropout, layer.input_dropout, layer.zoneout) == (0.5, 0.25, 0)


def test_numbers_beyond_those_of_the_dtype(engine):
    """In float32 a bound of 1e300 is none, one of 1e-50 is 0; nothing is warned of, or raised."""
    x = normal(5, 2, I)
    with np.errstate(all="raise"):

        def run(**options: Any) -> Any:
            return LSTM(I, H, engine=engine, seed=0, **options)(x)

        assert_same_bits(run(gate_clip=1e300, cell_clip=1e300)[0], run(gate_clip=1e30)[0])
        _, (_, c_n) = run(cell_clip=1e-50)
        assert not c_n.any()
        signs = run(cell_activation=("scaled_tanh", 1, 1e300))[0]
        assert_same_bits(signs, run(cell_activation=("scaled_tanh", 1, 1e30))[0])


# ---- files and copies -----------------------------------------------------------------------


@each_option
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_through_a_file(tmp_path, options, dtype):
    layer = _stirred(LSTM(I, H, 2, dtype=dtype, seed=0, **options))
    fastlstm.save(layer, tmp_path / "layer.npz")
    loaded = fastlstm.load(tmp_path / "layer.npz")
    _assert_same(loaded, layer, normal(5, 2, I, dtype=dtype))
    for name in ("recurrent_dropout", "zoneout", "input_dropout"):
        assert getattr(loaded, name) == getattr(layer, name)


@each_option
def test_a_cell_through_a_file(tmp_path, options):
    """Within a Sequential, as cells are stored."""
    own = {name: value for name, value in options.items() if name in IN_CELLS}
    model = _stirred(Sequential({"cell": LSTMCell(I, H, seed=0, **own)}))
    fastlstm.save(model, tmp_path / "model.npz")
    _assert_same(fastlstm.load(tmp_path / "model.npz"), model, normal(2, I))


COPIES = {
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@each_option
@pytest.mark.parametrize("way", COPIES)
def test_copies(options, way):
    layer, x = _stirred(LSTM(I, H, seed=0, **options)), normal(5, 2, I)
    layer(x)  # so that there are packed weights, which are not copied
    _assert_same(COPIES[way](layer), layer, x)


def test_state_dicts_of_other_options_are_refused():
    peepholes, coupled = LSTM(I, H, peephole=True), LSTM(I, H, coupled="f=1-i", bias=False)
    error = "Error(s) in loading state_dict for LSTM:"
    missing = '\n\tMissing key(s) in state_dict: "weight_ci_l0", "weight_cf_l0", "weight_co_l0".'
    unexpected = missing.replace("Missing", "Unexpected")
    plain = LSTM(I, H)
    raises(lambda: peepholes.load_state_dict(plain.state_dict()), ValueError, error + missing)
    raises(lambda: plain.load_state_dict(peepholes.state_dict()), ValueError, error + unexpected)
    raises(
        lambda: coupled.load_state_dict(LSTM(I, H, bias=False).state_dict()),
        ValueError,
        f"{error}\n\tsize mismatch for weight_ih_l0: copying a param with shape (16, 3) from "
        "checkpoint, the shape in current model is (12, 3).\n\tsize mismatch for weight_hh_l0: "
        "copying a param with shape (16, 4) from checkpoint, the shape in current model is (12, "
        "4).",
    )
    with pytest.raises(ValueError, match="weight_ln_l0"):
        LSTM(I, H, layer_norm="tflite").load_state_dict(plain.state_dict())


def _with_structure(path: Any, change: Any) -> None:
    """Write a file again, with a change in the description of its layer."""
    with np.load(path) as file:
        entries = dict(file)
    description = json.loads(entries["__structure__"].item())
    change(description["structure"])
    np.savez(path, **entries | {"__structure__": np.array(json.dumps(description).encode())})


@pytest.mark.parametrize(
    "damage, sentence",
    [
        ({"coupled": "f=2-i"}, 'coupled must be "f=1-i" or "i=1-f", or None, got \'f=2-i\''),
        ({"coupled": ["f=1-i"]}, "its structure gives LSTM coupled of type list, expected str"),
        ({"coupled": None}, "its structure needs 112 numbers or more, the file holds 108"),
        ({"gate_clip": float("inf")}, "gate_clip must be a finite number above 0, got inf"),
        ({"gate_clip": "2"}, "its structure gives LSTM gate_clip of type str, expected float"),
        ({"cell_activation": ["relu", [1]]}, "cell_activation: relu has no parameter, got 1"),
        (
            {"zoneout": [[1], 2]},
            "its structure cannot be built: zoneout should be a number, got: list",
        ),
        ({"peephole": "yes"}, "its structure gives LSTM peephole of type str, expected bool"),
        (
            {"learn_initial_state": True},
            "Error(s) in loading state_dict for LSTM:\n"
            '\tMissing key(s) in state_dict: "h_0_l0", "c_0_l0".',
        ),
    ],
    ids=str,
)
def test_damaged_options_in_a_file(tmp_path, damage, sentence):
    """They are checked as arguments are."""
    path = tmp_path / "layer.npz"
    fastlstm.save(LSTM(I, H, coupled="f=1-i"), path)
    _with_structure(path, lambda structure: structure.update(damage))
    raises(lambda: fastlstm.load(path), ValueError, f"{path}: {sentence}")


def test_a_file_from_before_there_were_options(tmp_path):
    """A description without them is that of the plain layer."""
    layer, path = LSTM(I, H, 2, seed=0), tmp_path / "layer.npz"
    names = FIXED.keys() | {"recurrent_dropout", "zoneout", "input_dropout"}
    fastlstm.save(layer, path)

    def leave_out(structure: dict[str, Any]) -> None:
        for name in names:
            del structure[name]

    _with_structure(path, leave_out)
    _assert_same(fastlstm.load(path), layer, normal(5, 2, I))


# ---- in models ------------------------------------------------------------------------------


@each_option
def test_within_a_sequential(options):
    """A model gives what its layers give one after the other, forward and backward."""
    own = options | {"recurrent_dropout": 0, "input_dropout": 0, "zoneout": 0}
    layer = _stirred(LSTM(I, H, batch_first=True, seed=0, engine="numpy", dtype="float64", **own))
    model = Sequential(layer, Linear(layer.proj_size or H, 2, dtype="float64", seed=1))
    x = normal(2, 5, I, dtype="float64")
    y, pullback = model.vjp(x)
    dx = pullback(np.ones_like(y))
    in_model = {name: g.copy() for name, g in model.grads.items()}
    model.zero_grad()
    (hidden, _), layer_back = layer.vjp(x)
    out, linear_back = model[1].vjp(hidden)
    assert_same_bits(out, y)
    assert_same_bits(layer_back(linear_back(np.ones_like(out)))[0], dx)
    for name, gradient in in_model.items():
        assert_same_bits(model.grads[name], gradient)
        assert gradient.any(), name


def _regressor(options: dict[str, Any], engine: str = "numpy") -> Sequential:
    """Return many to one with these options; inputs that are left out altogether teach nothing."""
    chance = min(options.get("input_dropout", 0), 0.125)
    lstm = LSTM(2, H, seed=1, engine=engine, **options | {"input_dropout": chance})
    head = Linear(lstm.proj_size or H, 1, seed=2)
    return Sequential({"lstm": lstm, "last": Last(reverse=bool(lstm.reverse)), "fc": head})


@each_option
def test_a_training(options):
    """Every parameter is changed, and the loss in evaluation becomes smaller."""
    model, x = _regressor(options), normal(32, 6, 2)
    y = x[:, -2:, 0].sum(1, keepdims=True)
    before = {name: value.copy() for name, value in model.state_dict().items()}

    def loss() -> float:
        return MSELoss()(fastlstm.predict(model, x), y)[0]

    first = loss()
    fastlstm.fit(model, (x, y), MSELoss(), Adam(model, lr=0.03), 8, 8, progress=False)
    assert np.isfinite(first) and loss() < first
    for name, value in before.items():
        assert np.abs(model.state_dict()[name] - value).max() > 1e-4, name


def test_a_frozen_peephole(engine):
    """It gets no gradient and stays; the other peepholes learn."""
    model = _regressor({"peephole": True}, engine)
    model.freeze("lstm.weight_cf_l0")
    x = normal(16, 6, 2)
    before = {name: value.copy() for name, value in model.state_dict().items()}
    fastlstm.fit(model, (x, x[:, -1, :1]), MSELoss(), SGD(model, lr=0.1), 1, 8, progress=False)
    assert_same_bits(model.state_dict()["lstm.weight_cf_l0"], before["lstm.weight_cf_l0"])
    for gate in "io":
        name = f"lstm.weight_c{gate}_l0"
        assert not np.array_equal(model.state_dict()[name], before[name]), name
    layer, x = LSTM(I, H, peephole=True, engine=engine, seed=0), normal(5, 2, I)
    (y, _), pullback = layer.freeze("weight_cf_l0").vjp(x)
    pullback(np.ones_like(y))
    assert "weight_cf_l0" not in {name for name, g in layer.grads.items() if g.any()}
    other = LSTM(I, H, peephole=True, engine=engine, seed=0)
    (y, _), pullback = other.vjp(x)
    pullback(np.ones_like(y))
    for name in layer.grads.keys() - {"weight_cf_l0"}:
        assert_same_bits(layer.grads[name], other.grads[name])


@each_option
def test_pullbacks_add_up(options):
    """Twice the same gives the double, whatever is kept and asked for on the way."""
    quiet = options | {"recurrent_dropout": 0, "input_dropout": 0, "zoneout": 0}
    layer = _stirred(LSTM(I, H, 2, seed=0, engine="numpy", dtype="float64", **quiet))
    x = normal(5, 2, I, dtype="float64")
    (y, _), pullback = layer.vjp(x)
    dx, _ = pullback(np.ones_like(y))
    once = {name: gradient.copy() for name, gradient in layer.grads.items()}
    assert_same_bits(pullback(np.ones_like(y))[0], dx)
    near = {"rtol": 1e-12, "atol": 1e-14}  # the order of sums is another one
    for name, gradient in layer.grads.items():
        np.testing.assert_allclose(gradient, 2 * once[name], **near, err_msg=name)
    layer.zero_grad()
    (again, _), pullback = layer.vjp(x, checkpoint_every=2, input_gradient=False)
    assert_same_bits(again, y)
    assert pullback(np.ones_like(y))[0] is None
    for name, gradient in layer.grads.items():
        np.testing.assert_allclose(gradient, once[name], **near, err_msg=name)


# ---- streams --------------------------------------------------------------------------------

STREAMED = [options for options in ALL if not options.get("reverse")]


@pytest.mark.parametrize("options", STREAMED, ids=_id)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streams_are_sequences(engine, options, dtype):
    """Step by step and in chunks, two layers; bit for bit in the engines without BLAS."""
    layer = _stirred(LSTM(I, H, 2, engine=engine, dtype=dtype, seed=0, **options)).eval()
    x = normal(7, 2, I, dtype=dtype)
    expected, (h_n, c_n) = layer(x)
    steps, chunks = layer.stream(2), layer.stream(2)
    by_step = np.stack([steps.step(x_t) for x_t in x])
    by_chunk = np.concatenate([chunks.run(part) for part in (x[:1], x[1:6], x[6:])])
    for got, stream in ((by_step, steps), (by_chunk, chunks)):
        for one, two in zip((got, *stream.state), (expected, h_n, c_n), strict=True):
            if engine == "numpy":
                np.testing.assert_allclose(one, two, rtol=0, atol=200 * np.finfo(dtype).eps)
            else:
                assert_same_bits(one, two)


@each_option
def test_a_cell_is_a_step_of_the_layer(engine, options):
    own = {name: value for name, value in options.items() if name in IN_CELLS}
    layer = _stirred(LSTM(I, H, engine=engine, seed=0, **own)).eval()
    cell = LSTMCell(I, H, engine=engine, **own).eval()
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in layer.state_dict().items()})
    x = normal(4, 2, I)
    hx, states = None, []
    for x_t in x:
        hx = cell(x_t, hx)
        states.append(hx[0])
    expected, (h_n, c_n) = layer(x)
    for one, two in zip((np.stack(states), *hx), (expected, h_n[0], c_n[0]), strict=True):
        if engine == "numpy":
            np.testing.assert_allclose(one, two, rtol=0, atol=200 * np.finfo("float32").eps)
        else:
            assert_same_bits(one, two)


@pytest.mark.parametrize("options", [
    {"gate_clip": 1e-10},
    {"gate_activation": "relu", "cell_activation": "relu"},
    {"gate_activation": ("thresholded_relu", 0.5), "cell_activation": "relu"},
], ids=str)  # fmt: skip
def test_nothing_comes_back_through_what_is_flat(engine, options):
    """Not even nan, as in torch, where a clip and relu choose and do not multiply."""
    lstm = LSTM(I, H, engine=engine, seed=0, **options)
    lstm.bias_ih_l0 = np.full(4 * H, -100.0)
    x = np.ones((3, 1, I), np.float32)
    x[1] = np.nan
    (y, _), pullback = lstm.vjp(x)
    dx, _ = pullback(np.ones_like(y))
    assert np.isnan(dx[1]).any() or np.isnan(y[1]).any()
    np.testing.assert_array_equal(dx[0], 0)


def test_without_zoneout_nothing_passes_a_step_by(engine):
    """An infinite gradient of c stays one: it is not added to 0 times infinity."""
    lstm = LSTM(I, H, gate_clip=3.0, engine=engine, seed=0)
    (_, (_, c_n)), pullback = lstm.vjp(np.ones((1, 1, I), np.float32))
    _, (_, dc_0) = pullback(None, (None, np.full_like(c_n, np.inf)))
    np.testing.assert_array_equal(dc_0, np.inf)
