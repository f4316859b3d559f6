"""`hidden_size` as a list: layers of different widths are a chain of layers, by value."""

import copy
import pickle

import numpy as np
import pytest
from errors import raises
from gradients import assert_derivative, make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_by_layer import Setting, assert_agrees
from saboteurs import edited
from support import assert_same_bits
from values import arrays_in, normal

import fastlstm
from fastlstm import LSTM, cli
from fastlstm.formats import structure
from fastlstm.layers import lstm as lstm_module

SETTINGS = {
    "two": Setting({"hidden_size": [6, 4]}),
    "states": Setting({"hidden_size": [6, 4]}, hx=True),
    "wider": Setting({"hidden_size": (2, 9, 4)}, lengths=(5, 2, 4), hx=True),
    "neighbours": Setting({"hidden_size": [4, 4, 7, 5, 5]}, hx=True),
    "both": Setting({"hidden_size": [4, 4, 6], "bidirectional": True}, lengths=(3, 0, 5), hx=True),
    "projected": Setting(
        {"hidden_size": [4, 7], "proj_size": 3}, layout="packed", lengths=(2, 5, 5)
    ),
    "no bias": Setting({"hidden_size": [5, 3], "bias": False}, layout="batch", hx=True),
    "unbatched": Setting(
        {"hidden_size": [5, 3], "bidirectional": True}, layout="unbatched", hx=True
    ),
    "recomputed": Setting({"hidden_size": [5, 3]}, hx=True, call={"checkpoint_every": 2}),
    "reverse, learned": Setting(
        {"hidden_size": [3, 8], "reverse": True, "learn_initial_state": True}, lengths=(5, 1, 0)
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_chain_of_torchs_layers_gives_the_same(torch, name, engine):
    assert_agrees(torch, SETTINGS[name], engine)


@pytest.mark.parametrize("name", ["wider", "both"])
def test_in_float32_too(torch, name, engine):
    assert_agrees(torch, SETTINGS[name], engine, "float32")


@st.composite
def _settings(draw):
    both = draw(st.booleans())
    arguments = {
        "hidden_size": draw(st.lists(st.integers(3, 6), min_size=1, max_size=4)),
        "bidirectional": both,
        "reverse": not both and draw(st.booleans()),
        "learn_initial_state": draw(st.booleans()),
        "proj_size": draw(st.sampled_from([0, 0, 2])),
        "bias": draw(st.booleans()),
    }
    layout = draw(st.sampled_from(["time", "batch", "packed", "unbatched"]))
    lengths = None
    if layout == "packed" or (layout != "unbatched" and draw(st.booleans())):
        least = 1 if layout == "packed" else 0
        lengths = tuple(draw(st.lists(st.integers(least, 4), min_size=3, max_size=3))[:2]) + (4,)
    call = {"checkpoint_every": draw(st.integers(1, 5))} if draw(st.booleans()) else {}
    return Setting(arguments, lengths, layout, draw(st.booleans()), T=4, call=call)


@settings(max_examples=25, deadline=None)
@given(_settings())
def test_options_together(torch, engine, setting):
    """Widths, both ways to run from the end, learned states, and every way to give a batch."""
    assert_agrees(torch, setting, engine)


def test_dropout_between_layers_of_different_widths(engine):
    def make(engine, dtype):
        return LSTM(3, [5, 2, 4], dropout=0.4, engine=engine, dtype=dtype, seed=3)

    assert_derivative(make_problem(make, normal(4, 3, 3)), engine)


OPTIONS = {
    "peephole, zoneout": {"peephole": True, "zoneout": (0.2, 0.3)},
    "coupled, dropouts": {"coupled": "f=1-i", "recurrent_dropout": 0.3, "input_dropout": 0.2},
    "haste": {"layer_norm": "haste", "reverse": True, "learn_initial_state": True},
    "tflite": {"layer_norm": "tflite", "proj_size": 2, "bidirectional": True, "dropout": 0.2},
}


@pytest.mark.parametrize("engine", ["numpy", "numba"])  # those that go back with them so far
@pytest.mark.parametrize("name", OPTIONS)
def test_derivatives_with_options_of_the_cell(name, engine):
    """Each layer draws its noise, and has its gains and peepholes, in its own width."""
    pytest.importorskip(engine)

    def make(engine, dtype):
        layer = LSTM(3, [5, 3, 3], **OPTIONS[name], engine=engine, dtype=dtype, seed=3)
        for n, (parameter, value) in enumerate(layer.state_dict().items()):
            if parameter.startswith(("h_0", "c_0")):  # which are zeros at first
                setattr(layer, parameter, normal(*value.shape, seed=n))
        return layer

    assert_derivative(make_problem(make, normal(4, 3, 3), lengths=[4, 2, 3]), engine)


def test_cells_and_gates_of_each_layer(engine):
    lstm = LSTM(3, [5, 2], bidirectional=True, engine=engine, dtype="float64", seed=0)
    x = normal(4, 2, 3, dtype="float64")
    _, (_, c_n), cells, gates = lstm(x, return_cells=True, return_gates=True)
    assert [c.shape for c in cells] == [(4, 2, 10), (4, 2, 4)]
    assert [g.o.shape for g in gates] == [(4, 2, 10), (4, 2, 4)]
    for layer, width in enumerate((5, 2)):
        assert_same_bits(np.array(cells[layer][-1, :, :width]), c_n[2 * layer])
        assert_same_bits(np.array(cells[layer][0, :, width:]), c_n[2 * layer + 1])


@pytest.mark.parametrize("widths", [[6, 4], [5, 5, 3]])
def test_a_stream_gives_what_a_sequence_gives(widths, engine, dtype):
    """Step by step, in chunks, from given states and from the point that a copy has reached."""
    lstm = LSTM(3, widths, engine=engine, dtype=dtype, seed=0)
    x, atol = normal(8, 2, 3, dtype=dtype), 64 * np.finfo(dtype).eps
    output, finals = lstm(x)
    stream, out = lstm.stream(2), np.empty((2, widths[-1]), dtype)
    steps = [stream.step(x_t).copy() for x_t in x[:3]]
    assert stream.step(x[3], out) is out
    twins = [copy.copy(stream), pickle.loads(pickle.dumps(stream)), lstm.stream(2)]
    twins[2].state = stream.state
    np.testing.assert_allclose([*steps, out], output[:4], rtol=0, atol=atol)
    for one in [stream, *twins]:
        np.testing.assert_allclose(one.run(x[4:6]), output[4:6], rtol=0, atol=atol)
        np.testing.assert_allclose([one.step(x_t) for x_t in x[6:]], output[6:], rtol=0, atol=atol)
        for got, expected in zip(arrays_in(one.state), arrays_in(finals), strict=True):
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=0, atol=atol)
    lstm.weight_hh_l0 = lstm.weight_hh_l0 / 2  # the streams run on it at once
    new, before = lstm(x[:1], stream.state)[0][0], stream.state
    np.testing.assert_allclose(stream.step(x[0]), new, rtol=0, atol=atol)
    stream.state = before
    with pytest.raises(ValueError, match="x must have shape"):
        stream.step(x[0, :, :2])
    with pytest.raises(ValueError, match="out must be a writable"):
        stream.step(x[0], np.empty((2, 9), dtype))
    with pytest.raises(ValueError, match="x must have shape"):
        stream.run(x[:, :1])
    for got, expected in zip(arrays_in(stream.state), arrays_in(before), strict=True):
        assert_same_bits(got, expected)


def test_a_chunk_that_is_cut_short_moves_no_state(monkeypatch):
    """As by Ctrl-C in the second layer, when the first has run.

    The engine native goes through both in one call, if the chunk is small.
    """
    lstm = LSTM(3, [3, 2], engine="numpy", seed=0)
    stream, x = lstm.stream(2), normal(4, 2, 3)
    stream.run(x)
    before = stream.state

    class Interrupted:
        stale = False

        def run(self, *arguments):
            raise KeyboardInterrupt

    monkeypatch.setattr(lstm, "_whole", [lstm._stacks()[0], Interrupted()])
    with pytest.raises(KeyboardInterrupt):
        stream.run(x)
    for got, expected in zip(arrays_in(stream.state), arrays_in(before), strict=True):
        assert_same_bits(got, expected)


def test_a_streams_reset_takes_states_of_all_or_of_each():
    lstm = LSTM(3, [3, 2], seed=0)
    stream, x = lstm.stream(2), normal(2, 3)
    stream.step(x)
    (h, g), (c, e) = stream.state
    one = ([1.0, 1.0, 1.0], [2.0, 2.0]), ([3.0, 3.0, 3.0], [4.0, 4.0])
    stream.reset([False, True], to=one)
    expected = [[h[0], one[0][0]], [g[0], one[0][1]], [c[0], one[1][0]], [e[0], one[1][1]]]
    for got, state in zip(arrays_in(stream.state), expected, strict=True):
        np.testing.assert_array_equal(got, state)
    stream.reset([True, False], to=((h, g), (c, e)))
    assert_same_bits(stream.state[1][1][0], e[0])
    stream.reset()
    assert not any(array.any() for array in arrays_in(stream.state))


def test_equal_widths_are_one_width():
    lists, plain = LSTM(3, [4, 4], seed=0), LSTM(3, 4, 2, seed=0)
    assert (lists.hidden_size, lists.num_layers, repr(lists)) == (4, 2, "LSTM(3, 4, num_layers=2)")
    assert structure.describe(lists) == structure.describe(plain)
    x = normal(5, 2, 3)
    for got, expected in zip(arrays_in(lists(x)), arrays_in(plain(x)), strict=True):
        assert_same_bits(got, expected)
    alone = LSTM(3, [4])
    assert (alone.hidden_size, alone.num_layers) == (4, 1)


def test_names_shapes_and_repr():
    lstm = LSTM(3, (6, 4), bidirectional=True)
    assert repr(lstm) == "LSTM(3, [6, 4], bidirectional=True)"
    assert (lstm.hidden_size, lstm.num_layers) == ((6, 4), 2)
    assert LSTM(3, [6, 4], num_layers=2).num_layers == 2
    shapes = {name: value.shape for name, value in lstm.state_dict().items()}
    assert shapes["weight_ih_l1_reverse"] == (16, 12)
    assert shapes["weight_hh_l1"] == (16, 4)
    assert shapes["bias_hh_l0_reverse"] == (24,)
    assert np.abs(lstm.weight_hh_l1).max() > 1 / np.sqrt(6)  # each layer is drawn by its own width


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (([6, 4], 3), ValueError, "num_layers=3 does not agree with hidden_size, which is a list "
         "for 2 layers: leave out num_layers, which follows"),
        (([],), ValueError, "hidden_size must have a number of units for each layer, got none"),
        (([6, 0],), ValueError, "hidden_size[1] must be greater than zero, got 0"),
        (([6, 4.0],), TypeError, "hidden_size[1] should be of type int, got: float"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(arguments, kind, sentence):
    raises(lambda: LSTM(3, *arguments), kind, sentence)


def test_a_projection_is_narrower_than_each_layer():
    sentence = (
        "proj_size has to be smaller than hidden_size, got proj_size=4 and hidden_size=[6, 4]"
    )
    raises(lambda: LSTM(3, [6, 4], proj_size=4), ValueError, sentence)


def test_states_of_another_form_are_refused():
    lstm, x = LSTM(3, [6, 4]), normal(5, 2, 3)
    h, c = lstm(x)[1]
    raises(
        lambda: lstm(x, (np.zeros((2, 2, 6), "f"), c)), ValueError,
        "hx[0] must be a tuple of 2 arrays, one for each layer and direction, as their widths "
        "differ, got ndarray of shape (2, 2, 6)",
    )  # fmt: skip
    raises(lambda: lstm(x, (h[:1], c)), ValueError,
           "hx[0] must be a tuple of 2 arrays, one for each layer and direction, as their widths "
           "differ, got a tuple of 1")  # fmt: skip
    raises(lambda: lstm(x, (h, (c[1], c[0]))), ValueError,
           "Expected hidden[1][0] size (2, 6), got [2, 4]")  # fmt: skip
    with pytest.raises(ValueError, match=r"hx\[0\]\[1\]"):
        lstm(x, ((h[0], h[1].astype("float64")), c))
    before = [array.copy() for array in arrays_in((h, c))]
    lstm(x, (h, c))
    for kept, array in zip(before, arrays_in((h, c)), strict=True):
        assert_same_bits(array, kept)


def test_a_model_takes_and_gives_them_by_name(engine):
    """In a Sequential: states of runs, of gradients and of streams."""
    lstm = LSTM(3, [5, 2], engine=engine, dtype="float64", seed=0)
    fc = fastlstm.Linear(2, 1, dtype="float64", engine=engine, seed=1)
    model = fastlstm.Sequential({"lstm": lstm, "fc": fc})
    x = normal(6, 2, 3, dtype="float64")
    first, states = model(x[:2], return_states=True)
    (y, ends), pullback = model.vjp(x[2:], states)
    np.testing.assert_allclose(np.concatenate([first, y]), model(x), rtol=0, atol=1e-14)
    d = tuple(tuple(np.ones_like(part) for part in half) for half in ends["lstm"])
    _, d_hx = pullback(None, {"lstm": d})
    (_, own), own_pullback = lstm.vjp(x[2:], states["lstm"])
    for got, expected in zip(
        arrays_in(d_hx["lstm"]), arrays_in(own_pullback(None, d)[1]), strict=True
    ):
        assert_same_bits(got, expected)
    with pytest.raises(ValueError, match="Expected d_states as the states, a tuple of 2 arrays"):
        pullback(None, {"lstm": (np.ones((2, 2, 5)), None)})
    with pytest.raises(ValueError, match=r"shape \(2, 5\)"):
        pullback(None, {"lstm": (d[0][::-1], None)})
    stream = model.stream(2)
    stream.state = states
    np.testing.assert_allclose([stream.step(x_t) for x_t in x[2:]], y, rtol=0, atol=1e-14)
    for got, expected in zip(arrays_in(stream.state["lstm"]), arrays_in(ends["lstm"]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
    stream.reset([True, False], to={"lstm": states["lstm"]})
    assert_same_bits(stream.state["lstm"][0][1][0], states["lstm"][0][1][0])


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
def test_files_keep_them(tmp_path, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    lstm = LSTM(3, [5, 2], bidirectional=True, learn_initial_state=True, seed=0)
    fastlstm.save(lstm, path := tmp_path / f"x.{suffix}")
    again = fastlstm.load(path, batch_first=False) if suffix == "pt" else fastlstm.load(path)
    assert (repr(again), again.hidden_size) == (repr(lstm), (5, 2))
    assert_same_bits(again(x := normal(4, 2, 3))[0], lstm(x)[0])
    for twin in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert_same_bits(twin(x)[0], lstm(x)[0])


@pytest.mark.parametrize(
    ("widths", "fault"),
    [
        ([], "a hidden_size for 0 layers, expected 1 to 1000"),
        ([1] * 1001, "a hidden_size for 1001 layers, expected 1 to 1000"),
        ([4, -4], "a hidden_size with other than counts"),
        ([4, True], "a hidden_size with other than counts"),
        ([[4], 4], "a hidden_size with other than counts"),
        ([10**6, 3], "its structure needs 4000052000036 numbers or more, the file holds 5"),
        ([10**200], "numbers or more, the file holds 5"),
        ({"0": 4}, "hidden_size of type dict, expected int"),
    ],
)
def test_a_hostile_file_is_refused_before_memory_is_taken(widths, fault):
    description = {"layer": "LSTM", "input_size": 10, "hidden_size": widths, "num_layers": 2}
    with pytest.raises(ValueError, match=fault):
        structure.build(description, state={"weight_ih_l0": np.zeros(5)})


def test_layers_of_a_description_must_agree():
    description = {"layer": "LSTM", "input_size": 1, "hidden_size": [2, 1], "num_layers": 10**9}
    with pytest.raises(ValueError, match="num_layers=1000000000 does not agree with hidden_size"):
        structure.build(description)


@pytest.mark.parametrize("both", [False, True])
def test_the_command_reads_and_writes_states(tmp_path, both, capsys):
    lstm = LSTM(3, [5, 2], bidirectional=both, learn_initial_state=True, seed=0)
    fastlstm.save(lstm, tmp_path / "m.npz")
    x, run = normal(6, 2, 3), ["run", str(tmp_path / "m.npz")]
    first, states = lstm(x[:4])
    np.save(tmp_path / "x.npy", x[:4])
    np.save(tmp_path / "rest.npy", x[4:])
    paths = {name: str(tmp_path / name) for name in ("x.npy", "rest.npy", "s.npz", "y.npy")}
    assert (
        cli.main([*run, paths["x.npy"], "-o", paths["y.npy"], "--state-out", paths["s.npz"]]) == 0
    )
    assert_same_bits(np.load(paths["y.npy"]), np.ascontiguousarray(first))
    with np.load(paths["s.npz"]) as kept:
        ends = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"] if both else ["_l0", "_l1"]
        assert list(kept) == [state + end for state in "hc" for end in ends]
        for got, expected in zip(kept.values(), arrays_in(states), strict=True):
            assert_same_bits(got, expected)
        broken = dict(kept) | {"h_l1": np.zeros((2, 3), "f")}
        lacking = {name: array for name, array in kept.items() if name != "c_l1"}
    resumed = [*run, paths["rest.npy"], "-o", paths["y.npy"], "--state-in", paths["s.npz"]]
    assert cli.main(resumed) == 0
    assert_same_bits(np.load(paths["y.npy"]), np.ascontiguousarray(lstm(x[4:], states)[0]))
    for arrays, fault in (
        (broken, "size (2, 2), got [2, 3]"),
        (lacking, "must hold the arrays h_l0"),
    ):
        np.savez(paths["s.npz"], **arrays)
        assert cli.main(resumed) != 0
        assert fault in capsys.readouterr().err


def test_the_state_of_the_wrong_layer_is_found(torch):
    """Two neighbours of the same width have each other's: the shapes fit."""
    fault = edited(
        lstm_module, "LSTM._by_layer",
        "[group[k : k + d] for group in states for k in range(0, len(group), d)]",
        "[group[k : k + d] for group in states for k in reversed(range(0, len(group), d))]",
    )  # fmt: skip
    assert_agrees(torch, SETTINGS["neighbours"], "numpy")
    with pytest.raises(AssertionError):
        assert_agrees(torch, SETTINGS["neighbours"], "numpy", kind=fault.LSTM)
