"""`reset=`: each piece of a sequence is a sequence of its own, by value, forward and backward."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from saboteurs import edited
from steps import Run, assert_steps
from support import assert_same_bits
from values import normal

from fastlstm import LSTM
from fastlstm.layers import lstm as lstm_module
from fastlstm.sequences import batch
from fastlstm.sequences.batch import Pieces, arrange

RESET = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
MASK = np.array([[0, 1, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
RUNS = {
    "one layer": Run(reset=RESET),
    "batch first": Run(layout="batch", reset=RESET, options={"checkpoint_every": 2}),
    "unbatched": Run(2, True, layout="unbatched", reset=RESET[:, 1:2], shape=(6, 1)),
    "packed": Run(1, True, layout="packed", reset=RESET, lengths=[5, 4, 6]),
    "lengths": Run(1, True, reset=RESET, lengths=[5, 4, 0]),
    "deep": Run(2, True, 2, reset=RESET),
    "every step": Run(2, True, reset=np.ones((6, 3), bool)),
    "from the end": Run(reverse=True, reset=RESET, lengths=[5, 4, 6]),
    "learned": Run(2, True, 2, reset=RESET, learned=True),
    "learned, unbatched": Run(
        1, reverse=True, layout="unbatched", reset=RESET[:, 1:2], learned=True, shape=(6, 1)
    ),
    "learned, masked": Run(1, True, reset=RESET, mask=MASK, lengths=[5, 4, 0], learned=True),
    "masked": Run(1, True, reset=RESET, mask=MASK, last=True),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_loop_over_steps_gives_the_same(torch, name, engine):
    assert_steps(RUNS[name], engine)


@pytest.mark.parametrize("name", ["one layer", "deep"])
def test_in_float32_too(torch, name, engine):
    assert_steps(RUNS[name], engine, "float32")


@pytest.mark.parametrize("both", [False, True])
def test_torch_called_once_for_each_piece_gives_the_same(torch, both, engine):
    """torch.nn.LSTM over the pieces of each sequence: all that comes out, and all gradients."""
    sizes = {"num_layers": 2, "bidirectional": both, "proj_size": 2}
    lstm = LSTM(3, 4, **sizes, engine=engine, dtype="float64", seed=0)
    theirs = torch.nn.LSTM(3, 4, **sizes, dtype=torch.float64)
    theirs.load_state_dict({n: torch.tensor(v) for n, v in lstm.state_dict().items()})
    D = 1 + both
    x = normal(9, 3, 3, dtype="float64")
    hx = normal(2 * D, 3, 2, dtype="float64"), normal(2 * D, 3, 4, dtype="float64")
    reset = np.zeros((9, 3), bool)
    reset[[3, 4, 7], 0] = reset[[0, 5], 1] = True
    x_t, *hx_t = (torch.tensor(value, requires_grad=True) for value in (x, *hx))
    outputs, finals = [], []
    for b in range(3):
        cuts = [0, *(np.flatnonzero(reset[1:, b]) + 1), 9]
        whole, ends = [], []
        for n, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
            states = [torch.zeros_like(state[:, b]) for state in hx_t]
            for state, initial in zip(states, hx_t, strict=True):
                if n == 0 and not reset[0, b]:
                    state[::D] = initial[::D, b]
                if both and n == len(cuts) - 2:
                    state[1::D] = initial[1::D, b]
            y, end_states = theirs(x_t[start:end, b], tuple(states))
            whole.append(y)
            ends.append(end_states)
        outputs.append(torch.cat(whole))
        final = [state.clone() for state in ends[-1]]
        for state, early in zip(final, ends[0], strict=True):
            if both:
                state[1::D] = early[1::D]
        finals.append(final)
    expected = [torch.stack(outputs, 1), *(torch.stack(s, 1) for s in zip(*finals, strict=True))]
    (output, states), pullback = lstm.vjp(x, hx, reset=reset)
    d = [normal(*value.shape, seed=5, dtype="float64") for value in expected]
    sum((e * torch.tensor(g)).sum() for e, g in zip(expected, d, strict=True)).backward()
    dx, d_hx = pullback(d[0], d[1:])
    pairs = list(zip([output, *states], expected, strict=True))
    pairs += zip([dx, *d_hx], [value.grad for value in (x_t, *hx_t)], strict=True)
    pairs += [(lstm.grads[name], value.grad) for name, value in theirs.named_parameters()]
    assert len(pairs) == 6 + len(lstm.grads)
    for ours, value in pairs:  # sums of less than 100 terms, of which few are larger than 1
        np.testing.assert_allclose(ours, value.detach().numpy(), rtol=0, atol=1e-13)


def test_a_stream_that_is_reset_gives_the_same(exact_engine, dtype):
    """The very bits: `Stream.reset` with a mask before a step is what `reset` says there."""
    lstm = LSTM(3, 5, 2, engine=exact_engine, dtype=dtype, seed=0)
    x, hx = normal(6, 3, 3, dtype=dtype), [normal(2, 3, 5, dtype=dtype) for _ in range(2)]
    output, states = lstm(x, hx, reset=RESET)
    stream = lstm.stream(3)
    stream.state = hx
    for x_t, y, begins in zip(x, output, RESET, strict=True):
        stream.reset(begins)
        assert_same_bits(stream.step(x_t), y)
    for state, final in zip(stream.state, states, strict=True):
        assert_same_bits(state, final)


def test_a_piece_has_the_bits_of_a_sequence_of_its_own(exact_engine):
    lstm = LSTM(3, 5, 2, bidirectional=True, engine=exact_engine, num_threads=2, seed=0)
    x, reset = normal(40, 6, 3), np.random.default_rng(0).random((40, 6)) < 0.1
    output, _ = lstm(x, reset=reset)
    for b in range(6):
        cuts = [0, *(np.flatnonzero(reset[1:, b]) + 1), 40]
        for start, end in zip(cuts, cuts[1:], strict=False):
            assert_same_bits(output[start:end, b], lstm(x[start:end, b])[0])


def test_where_states_go():
    """Given states and final ones, where resets and masks leave no step for them."""
    lstm = LSTM(2, 3, bidirectional=True, dtype="float64", seed=0)
    x = normal(4, 2, dtype="float64")
    hx = normal(2, 3, seed=1, dtype="float64"), normal(2, 3, seed=2, dtype="float64")
    d = normal(2, 3, seed=3, dtype="float64"), normal(2, 3, seed=4, dtype="float64")

    def go(reset, mask):
        reset, mask = (np.array(value, bool) for value in (reset, mask))
        (_, states), pullback = lstm.vjp(x, hx, reset=reset, mask=mask)
        return np.stack(states), np.stack(pullback(None, d)[1])

    nothing = [0, 0, 0, 0]
    states, d_hx = go(nothing, nothing)
    assert_same_bits(states, np.stack(hx))
    assert_same_bits(d_hx, np.stack(d))
    # A reset at step 0: forward it replaces the states, backward it lies behind the last step.
    states, d_hx = go([1, 0, 0, 0], nothing)
    assert not states[:, 0].any() and not d_hx[:, 0].any()
    assert_same_bits(states[:, 1], np.stack(hx)[:, 1])
    assert_same_bits(d_hx[:, 1], np.stack(d)[:, 1])
    # A reset that no step follows: forward the states are 0, backward hx does not come to a step.
    states, d_hx = go([0, 0, 1, 0], [1, 1, 0, 0])
    assert not states[:, 0].any() and states[:, 1].all()
    assert not d_hx.any()
    # The same in the mirror.
    states, d_hx = go([0, 0, 1, 0], [0, 0, 1, 1])
    assert states[:, 0].all() and not states[:, 1].any()
    assert not d_hx.any()


@st.composite
def batches(draw):
    """A batch of pieces, two directions of one layer, and an array of other values in any shape."""
    T, B = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    booleans = arrays.arrays(bool, (T, B))
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    last = draw(st.sampled_from(["zero", "last"]))
    float64 = np.dtype("float64")
    made = arrange(
        normal(T, B, 2, dtype=float64), lengths, 2, float64, False,
        draw(booleans), draw(booleans), last, (False, True),
    )  # fmt: skip
    return made, np.random.default_rng(draw(st.integers(0, 9)))


@settings(max_examples=100, deadline=None)
@given(drawn=batches())
def test_ways_back_are_adjoint(drawn):
    """For linear maps y = A x, d_x = A^T d_y: the products x d_x and y d_y are the same.

    Of states, whatever the engine makes of them, with what pieces begin with behind a reset; and of
    outputs. All numbers are small integers, so that the sums are exact.
    """
    made, rng = drawn
    assert isinstance(made, Pieces)
    pieces, B, k = len(made.sequences), made.size, 2

    def states(*shape):
        return tuple(rng.integers(-9, 9, (k, *shape, n)).astype(float) for n in (1, 3))

    def product(*pairs):
        return sum(np.vdot(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))

    initial, start, ended = states(B), states(), states(pieces)  # go in
    d_begun, d_final = states(pieces), states(B)  # come back
    begun = made.sort(initial, start)
    final = made.unsort(ended, initial, start)
    d_ended = made.sort(d_final, back=True)
    d_initial = made.unsort(d_begun, d_final, back=True)
    d_start = made.d_start(d_begun, d_final)
    came_out = product((begun, d_begun), (final, d_final))
    assert came_out == product((initial, d_initial), (start, d_start), (ended, d_ended))

    rows = rng.integers(-9, 9, (len(made.x), 6)).astype(float)
    output = made.output(rows)
    d_output = rng.integers(-9, 9, output.shape).astype(float)
    assert product(([output], [d_output])) == product(([rows], [made.rows(d_output)]))


def test_whose_pieces_they_are():
    """`sequences` names the caller's sequence of each of the engine's, the longest first."""
    x, float32 = normal(6, 3, 2), np.dtype("float32")
    reset = np.zeros((6, 3), bool)
    reset[2, 0] = reset[5, 1] = True
    made = arrange(x, [6, 6, 0], 2, float32, False, None, reset)
    assert made.sequences.tolist() == [1, 0, 0, 1]  # of 5, 4, 2 and 1 steps
    assert made.batch_sizes.tolist() == [4, 3, 2, 2, 1]
    assert arrange(x, [1, 0, 6], 2, float32, False).sequences.tolist() == [2, 0]
    assert arrange(x, None, 2, float32, False).sequences.tolist() == [0, 1, 2]


# ---- saboteurs ------------------------------------------------------------------------------

NEW = "is_first[1:] = (sequence[1:] != sequence[:-1]) | (own[1:] != own[:-1])"


@pytest.mark.parametrize(
    "place, old, new",
    [
        # One step late.
        ("_pieces", "within & reset", "within & np.roll(reset, 1, axis=1)"),
        # Resets past a sequence's end count.
        ("_pieces", "within & reset", "reset.copy()"),
        # The given state reaches every piece of its sequence.
        ("Pieces.sort", "into[k :: len(self.ends), pieces] = given[k :: len(self.ends), sequences]",
         "into[k :: len(self.ends)] = given[k :: len(self.ends), self.sequences]"),
        # Or the last one.
        ("_pieces", "(last, first) if is_backward else (np.zeros_like(last), last)",
         "(last, first) if is_backward else (last, last)"),
        # The backward direction takes it from the first piece in time, or gives the last one's.
        ("_pieces", "(last, first) if is_backward else (np.zeros_like(last), last)",
         "(np.zeros_like(last), last)"),
        ("_pieces", "(last, first) if is_backward else (np.zeros_like(last), last)",
         "(last, last) if is_backward else (np.zeros_like(last), last)"),
        # Two sequences that follow each other become one piece.
        ("_pieces", NEW, "is_first[1:] = own[1:] != own[:-1]"),
        # Pieces do not begin anew.
        ("_pieces", NEW, "is_first[1:] = sequence[1:] != sequence[:-1]"),
        # What is repeated at masked steps comes from the sequence before a reset.
        ("_repeats", "number[sequence, step] == number[sequence, source]", "sequence >= 0"),
        # Gradients of final states come in at the first piece, or go out at the last.
        ("Pieces.sort", "end.last if back else end.first", "end.first"),
        ("Pieces.unsort", "end.first if back else end.last", "end.last"),
    ],
)  # fmt: skip
def test_faults_are_seen(torch, monkeypatch, place, old, new):
    fault = edited(batch, place, old, new)
    monkeypatch.setattr(lstm_module, "arrange", fault.arrange)
    with pytest.raises(AssertionError):
        for run in RUNS.values():
            assert_steps(run, "numpy")
