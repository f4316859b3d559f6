"""`mask=` and `masked_output=`: a masked step is not there, by value, forward and backward."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from errors import raises
from gradients import assert_derivative, make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from saboteurs import edited
from steps import Run, assert_steps
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import LSTM
from fastlstm.layers import lstm as lstm_module
from fastlstm.sequences import batch

HOLES = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
ONE = HOLES[:, :1]
RUNS = {
    "one layer": Run(mask=HOLES),
    "last": Run(mask=HOLES, last=True),
    "batch first": Run(layout="batch", mask=HOLES, last=True),
    "unbatched": Run(2, layout="unbatched", mask=ONE, shape=(6, 1)),
    "lengths": Run(1, True, mask=HOLES, lengths=[5, 2, 0], last=True),
    "packed": Run(layout="packed", mask=HOLES, lengths=[2, 6, 3]),
    "packed, last": Run(1, True, layout="packed", mask=HOLES, lengths=[2, 6, 3], last=True),
    "deep": Run(2, True, 2, mask=HOLES),
    "deep, last": Run(2, True, 2, mask=HOLES, last=True, options={"checkpoint_every": 2}),
    "no real step": Run(2, True, mask=np.zeros((6, 3), bool), last=True),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_loop_over_steps_gives_the_same(torch, name, engine):
    assert_steps(RUNS[name], engine)


@pytest.mark.parametrize("name", ["one layer", "deep, last"])
def test_in_float32_too(torch, name, engine):
    assert_steps(RUNS[name], engine, "float32")


@st.composite
def runs(draw):
    """Any run with masks, resets and lengths."""
    layout = draw(st.sampled_from(["time", "batch", "packed", "unbatched"]))
    T = draw(st.integers(1, 6))
    B = 1 if layout == "unbatched" else draw(st.integers(1, 4))
    booleans = arrays.arrays(bool, (T, B))
    lengths = None
    if layout == "packed" or (layout != "unbatched" and draw(st.booleans())):
        least = int(layout == "packed")
        lengths = draw(st.lists(st.integers(least, T), min_size=B, max_size=B))
        if layout == "packed":
            lengths[draw(st.integers(0, B - 1))] = T
    mask, reset = draw(st.none() | booleans), draw(st.none() | booleans)
    steps = draw(st.booleans())
    options = {} if steps else draw(st.sampled_from([{}, {"checkpoint_every": 2}]))
    both, reverse = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    return Run(
        draw(st.integers(1, 2)),
        both,
        draw(st.sampled_from([0, 2])),
        layout,
        mask,
        reset,
        lengths,
        draw(st.booleans()),
        options,
        (T, B),
        steps,
        reverse,
        draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None)
@given(run=runs())
def test_any_run(torch, engine, run):
    """With learned initial states, directions, cells and gates too."""
    assert_steps(run, engine)


def test_a_masked_step_might_as_well_not_be_there(exact_engine):
    """The very bits of the sequence without it, whatever is in it."""
    lstm = LSTM(3, 5, 2, bidirectional=True, engine=exact_engine, seed=0)
    x = normal(6, 3, 3)
    x[~HOLES] = np.nan
    output, states = lstm(x, mask=HOLES)
    for b in range(3):
        real = HOLES[:, b]
        assert not output[~real, b].any()
        if real.any():
            alone, finals = lstm(x[real, b])
            assert_same_bits(output[real, b], alone)
            for state, final in zip(states, finals, strict=True):
                assert_same_bits(state[:, b], final)
    _, pullback = lstm.vjp(x, mask=HOLES)
    dx, _ = pullback(np.ones_like(output))
    assert not dx[~HOLES].any() and np.isfinite(dx).all()
    assert all(np.isfinite(gradient).all() for gradient in lstm.grads.values())


def test_a_mask_of_lengths_is_lengths(exact_engine):
    lstm = LSTM(3, 5, 2, bidirectional=True, batch_first=True, engine=exact_engine, seed=0)
    x, lengths = normal(4, 6, 3), np.array([3, 0, 6, 2])
    hx = normal(4, 4, 5), normal(4, 4, 5)
    mask = np.arange(6) < lengths[:, None]
    output, states = lstm(x, hx, mask=mask)
    expected, finals = lstm(x, hx, lengths=lengths)
    assert_same_bits(output, expected)
    for state, final in zip(states, finals, strict=True):
        assert_same_bits(state, final)


def test_what_is_shown_at_masked_steps():
    """Forward the output before, backward the next one; zeros where there is none."""
    lstm, x = LSTM(2, 1, bidirectional=True, seed=0), normal(6, 2)
    mask = np.array([0, 1, 0, 0, 1, 0], bool)
    (early, late), _ = lstm(x[mask])
    output, _ = lstm(x, mask=mask, masked_output="last")
    forward = [0, early[0], early[0], early[0], late[0], late[0]]
    backward = [early[1], early[1], late[1], late[1], late[1], 0]
    np.testing.assert_allclose(output, np.stack([forward, backward], axis=1), atol=1e-6)
    # Behind a reset nothing of the sequence before is shown.
    reset = np.arange(6) == 3
    output, _ = lstm(x, mask=mask, reset=reset, masked_output="last")
    assert output[2:4, 0].astype(bool).tolist() == [True, False]
    assert output[2:4, 1].astype(bool).tolist() == [False, True]


def test_dropout_between_layers():
    """Gradients are those of the run, whose masks of dropout fall on real steps alone."""

    def make(engine, dtype):
        return LSTM(3, 4, 2, dropout=0.5, bidirectional=True, engine=engine, dtype=dtype, seed=3)

    reset = np.random.default_rng(0).random((6, 3)) < 0.3
    options = {"mask": HOLES, "reset": reset, "masked_output": "last"}
    problem = make_problem(make, normal(6, 3, 3), [(4, 3, 4)] * 2, **options)
    assert_derivative(problem, "numpy")


def test_nothing_of_the_callers_is_written():
    lstm, x, mask = LSTM(3, 5, seed=0), normal(6, 3, 3), HOLES.copy()
    hx = normal(1, 3, 5), normal(1, 3, 5)
    for array in (x, mask, *hx):
        array.flags.writeable = False
    (output, states), pullback = lstm.vjp(x, hx, mask=mask, reset=mask, masked_output="last")
    for array in (output, *states):
        array.flags.writeable = False
    pullback(output, states)


def test_masks_are_taken_from_elsewhere(torch):
    lstm, x = LSTM(3, 5, seed=0), normal(6, 3, 3)
    expected = lstm(x, mask=HOLES)[0]
    assert_same_bits(lstm(x, mask=torch.tensor(HOLES))[0], expected)
    assert_same_bits(lstm(x, mask=HOLES.tolist())[0], expected)
    assert_same_bits(lstm(x, mask=np.asfortranarray(HOLES))[0], expected)
    assert lstm(x[:, :0], mask=HOLES[:, :0], reset=HOLES[:, :0])[0].shape == (6, 0, 5)
    empty, _ = lstm(x[:0], mask=HOLES[:0], lengths=[0, 0, 0], masked_output="last")
    assert empty.shape == (0, 3, 5)


@pytest.mark.parametrize("name", ["mask", "reset"])
def test_what_is_refused(name):
    lstm, x = LSTM(3, 5, seed=0), normal(6, 2, 3)
    mask = np.ones((6, 2), bool)
    packed = fastlstm.pack_padded_sequence(x, [6, 2])
    first = LSTM(3, 5, batch_first=True)
    for layer, value, wrong, sentence in (
        (lstm, x, mask.astype(int), f"{name} must hold booleans, got dtype int64"),
        (lstm, x, mask.T, f"Expected {name} of shape (T, B) = (6, 2), got (2, 6)"),
        (lstm, x, [True] * 6, f"Expected {name} of shape (T, B) = (6, 2), got (6,)"),
        (lstm, x[:, 0], mask, f"Expected {name} of shape (T,) = (6,), got (6, 2)"),
        (lstm, packed, mask[:2], f"Expected {name} of shape (T, B) = (6, 2), got (2, 2)"),
        (first, x, mask.T, f"Expected {name} of shape (B, T) = (6, 2), got (2, 6)"),
        (lstm, x[:, :0], mask, f"Expected {name} of shape (T, B) = (6, 0), got (6, 2)"),
    ):
        for call in (layer, layer.vjp):
            options = {name: wrong}
            raises(lambda c=call, v=value, o=options: c(v, **o), ValueError, sentence)


def test_other_outputs_at_masked_steps_are_refused():
    lstm, x = LSTM(3, 5), normal(6, 2, 3)
    for call in (lstm, lstm.vjp):
        for wrong in ("first", None, 0):
            sentence = f'masked_output must be "zero" or "last", got {wrong!r}'
            raises(lambda c=call, w=wrong: c(x, masked_output=w), ValueError, sentence)


# ---- Keras ----------------------------------------------------------------------------------

KERAS = """
import json, sys
import keras, numpy as np
given = json.load(sys.stdin)
x, mask = np.array(given["x"], "float32"), np.array(given["mask"])
weights = [np.array(w, "float32") for w in given["weights"]]
for zero in (False, True):
    results = []
    for backwards in (False, True):
        layer = keras.layers.LSTM(5, return_sequences=True, return_state=True,
                                  go_backwards=backwards, zero_output_for_mask=zero)
        layer.build(x.shape)
        layer.set_weights(weights[3 * backwards :][:3])
        got = [keras.ops.convert_to_numpy(a).tolist() for a in layer(x, mask=mask)]
        results.append(got)
    print(json.dumps(results))
"""


def test_keras_gives_the_same(torch):
    """Both values of masked_output, forward and backward, by Keras on torch.

    Its Bidirectional always zeroes outputs at masked steps. So each direction is a layer of Keras.
    """
    if not importlib.util.find_spec("keras"):  # which is imported by a process of its own
        pytest.skip("compares with Keras, which is not installed")
    rng = np.random.default_rng(4)
    shapes = [(3, 20), (5, 20), (20,)] * 2
    weights = [rng.normal(size=shape).astype("float32") / 2 for shape in shapes]
    x, mask = normal(4, 7, 3), rng.random((4, 7)) < 0.6
    mask[0, 0], mask[1, -1] = False, False
    given = {"weights": [w.tolist() for w in weights], "x": x.tolist(), "mask": mask.tolist()}
    done = subprocess.run(
        [sys.executable, "-c", KERAS],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr
    lstm = LSTM(3, 5, batch_first=True, bidirectional=True)
    state = {name: np.zeros_like(value) for name, value in lstm.state_dict().items()}
    for k, suffix in enumerate(("", "_reverse")):
        kernel, recurrent, state["bias_ih_l0" + suffix] = weights[3 * k : 3 * k + 3]
        state["weight_ih_l0" + suffix], state["weight_hh_l0" + suffix] = kernel.T, recurrent.T
    lstm.load_state_dict(state)
    for shown, line in zip(("last", "zero"), done.stdout.splitlines(), strict=True):
        output, (h, c) = lstm(x, mask=mask, masked_output=shown)
        for k, (y, *states) in enumerate(json.loads(line)):
            y = np.array(y)[:, :: -1 if k else 1]
            close(output[..., 5 * k : 5 * k + 5], y)
            close(h[k], states[0])
            close(c[k], states[1])


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


# ---- saboteurs ------------------------------------------------------------------------------


class Moving(LSTM):
    """A masked step is computed; only its output is left out, and c moves."""

    def vjp(self, input, hx=None, *, mask, **options):
        (output, states), pullback = super().vjp(input, hx, **options)
        seen = mask[..., None]
        return (output * seen, states), lambda dy, d_states: pullback(dy * seen, d_states)


def test_a_mask_that_lets_c_move_is_seen(torch):
    with pytest.raises(AssertionError):
        assert_steps(RUNS["one layer"], "numpy", kind=Moving)


@pytest.mark.parametrize(
    "place, old, new",
    [
        # The backward direction repeats the output before it in time.
        ("_pieces", "_repeats(row, within, real, number, places, way)",
         "_repeats(row, within, real, number, places, False)"),
        # Past a sequence's end the last output is shown too.
        ("_repeats", "within & ~real & (0 <= nearest) & (nearest < len(steps))",
         "~real & (0 <= nearest) & (nearest < len(steps))"),
        # The gradients of repeated outputs are lost, or all but the first of each.
        ("Repeats.add_back", "len(self.sources)", "False"),
        ("Repeats.add_back", "np.add.reduceat(d_places[self.places], firsts, axis=0)",
         "d_places[self.places][firsts]"),
        # A sequence without a real step loses its state.
        ("_pieces", "without & (given == final)", "without & (given != final)"),
        # The mask is that of the steps that are left out.
        ("_pieces", "within & mask", "within & ~mask"),
        # Gradients of final states go to where initial states go in.
        ("Pieces.unsort", "end.first if back else end.last", "end.last"),
    ],
)  # fmt: skip
def test_faults_are_seen(torch, monkeypatch, place, old, new):
    fault = edited(batch, place, old, new)
    monkeypatch.setattr(lstm_module, "arrange", fault.arrange)
    reset = np.roll(HOLES, 1, axis=1)
    runs = [*RUNS.values(), Run(1, True, mask=HOLES, reset=reset, last=True)]
    with pytest.raises(AssertionError):
        for run in runs:
            assert_steps(run, "numpy")
