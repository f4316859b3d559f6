"""`reset=` of fastlstm.torch.LSTM: what a loop over steps gives, forward and backward."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saboteurs import edited
from steps import Run, assert_steps
from support import assert_same_bits
from test_reset import RUNS
from values import normal

import fastlstm

torch = pytest.importorskip("torch", reason="a drop-in for torch, which is not installed")
pytest.importorskip("fastlstm.engines._native", reason="fastlstm.torch computes with it")
import fastlstm.torch  # noqa: E402 - it needs torch
from fastlstm.torch import resets  # noqa: E402

rnn = torch.nn.utils.rnn
SERVED = [
    name
    for name, run in RUNS.items()
    if run.mask is None and not run.reverse and not run.learned
    if run.lengths is None or run.layout == "packed"
]
FIRST = np.zeros((6, 3), bool)
FIRST[0, [0, 2]] = True
RUNS_HERE = {name: RUNS[name]._replace(options={}) for name in SERVED} | {
    "at step 0": Run(2, True, reset=FIRST),
    "at step 0, batch first": Run(layout="batch", reset=FIRST),
    "at step 0, unbatched": Run(2, layout="unbatched", reset=FIRST[:, 2:], shape=(6, 1)),
    "none": Run(1, True, 2, reset=np.zeros((6, 3), bool)),
    "one step": Run(2, reset=FIRST[:1], shape=(1, 3)),
}


class Hosted:
    """fastlstm.torch.LSTM as `Run` calls an LSTM: arrays in and out, and `vjp`."""

    def __init__(self, *sizes, engine, dtype, seed, reverse, learn_initial_state, **kind):
        self.module = fastlstm.torch.LSTM(*sizes, **kind, dtype=getattr(torch, dtype))

    def state_dict(self):
        return self.module.state_dict()

    def load_state_dict(self, values):
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        self.module.load_state_dict(tensors)

    def vjp(self, x, hx, reset):
        packed = isinstance(x, fastlstm.PackedSequence)
        rows = torch.tensor(np.ascontiguousarray(x.data if packed else x), requires_grad=True)
        states = [torch.tensor(state, requires_grad=True) for state in hx]
        given = rows
        if packed:
            given = rnn.PackedSequence(rows, *(torch.tensor(part) for part in x[1:]))
        y, final = self.module(given, tuple(states), reset=torch.tensor(np.array(reset)))
        results = [y.data if packed else y, *final]
        self.grads = {}

        def pullback(d_output, d_states):
            d = [d_output.data if packed else d_output, *d_states]
            given = [torch.from_numpy(np.ascontiguousarray(value)) for value in d]
            leaves = [rows, *states, *self.module.parameters()]
            found = torch.autograd.grad(results, leaves, given, materialize_grads=True)
            dx, dh, dc, *rest = (gradient.numpy() for gradient in found)
            self.grads.update(zip(self.state_dict(), rest, strict=True))
            return x._replace(data=dx) if packed else dx, (dh, dc)

        y, h, c = (value.detach().numpy() for value in results)
        return (x._replace(data=y) if packed else y, (h, c)), pullback


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RUNS_HERE)
def test_the_loop_over_steps_gives_the_same(name, dtype):
    assert_steps(RUNS_HERE[name], "native", dtype, Hosted)


FAULTS = {  # (what fails, function, how it stands there, what stands there instead)
    "the way back gathers as the way there": (
        "one layer", "_Reorder.backward",
        "_Reorder.apply(d_rows, inverse, index)", "_Reorder.apply(d_rows, index, inverse)",
    ),
    "states go to the wrong pieces": (
        "deep", "run_with_resets",
        "end.last[0][np.argsort(end.last[1])]", "np.arange(len(end.last[0]))",
    ),
    "both directions begin anew at step 0": (
        "at step 0", "_begun_anew",
        "state[::directions].masked_fill_(gone if state.dim() == 3 else gone[0], 0)",
        "state[:].masked_fill_(gone if state.dim() == 3 else gone[0], 0)",
    ),
    "step 0 is not looked at": (
        "one step", "_begun_anew", "hx is None or not first.any()", "True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(monkeypatch, fault):
    name, place, right, wrong = FAULTS[fault]
    broken = edited(resets, place, right, wrong)
    monkeypatch.setattr(fastlstm.torch.modules, "run_with_resets", broken.run_with_resets)
    with pytest.raises(AssertionError):
        assert_steps(RUNS_HERE[name], "native", "float64", Hosted)


@pytest.mark.parametrize("form", ["padded", "batch first", "packed"])
def test_bits_of_the_layer_without_torch(form):
    """`fastlstm.LSTM` arranges the same pieces for the same engine."""
    first = form == "batch first"
    hosted = fastlstm.torch.LSTM(3, 5, 2, bidirectional=True, batch_first=first)
    alone = fastlstm.LSTM(3, 5, 2, bidirectional=True, batch_first=first, engine="native")
    alone.load_state_dict(hosted.state_dict())
    x, reset = torch.from_numpy(normal(6, 3, 3)), np.random.default_rng(0).random((6, 3)) < 0.3
    if form == "packed":
        x = rnn.pack_padded_sequence(x, [2, 6, 3], enforce_sorted=False)
    elif first:
        x, reset = x.transpose(0, 1), reset.T
    hx = torch.from_numpy(normal(4, 3, 5)), torch.from_numpy(normal(4, 3, 5, seed=1))
    with torch.no_grad():
        y, states = hosted(x, hx, reset=torch.tensor(reset))
    expected, final = alone(x, hx, reset=reset)
    packed = form == "packed"
    assert_same_bits((y.data if packed else y).numpy(), expected.data if packed else expected)
    for ours, theirs in zip(states, final, strict=True):
        assert_same_bits(ours.numpy(), theirs)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0, 1), st.booleans(), st.integers(0, 2**16))
def test_any_resets(steps, batch, share, both, seed):
    reset = np.random.default_rng(seed).random((steps, batch)) < share
    run = Run(1, both, reset=reset, shape=(steps, batch))
    assert_steps(run, "native", "float64", Hosted)


def test_second_derivatives():
    lstm = fastlstm.torch.LSTM(2, 3).double()
    x = torch.tensor(normal(5, 2, 2, dtype="float64"), requires_grad=True)
    reset = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 1], [0, 0]], dtype=torch.bool)
    assert torch.autograd.gradgradcheck(lambda x: lstm(x, reset=reset)[0], x)


def test_other_dtypes_and_devices_run_on_torch():
    """In bfloat16, pieces are those of torch's own module; a device without values gives shapes."""
    half = fastlstm.torch.LSTM(3, 4).bfloat16()
    x = torch.from_numpy(normal(5, 2, 3)).bfloat16()
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[3] = True
    y, _ = half(x, reset=reset)
    pieces = rnn.pack_sequence([x[:3, 0], x[:3, 1], x[3:, 0], x[3:, 1]])
    each = rnn.unpack_sequence(torch.nn.LSTM.forward(half, pieces)[0])
    assert torch.equal(y, torch.stack([torch.cat(each[0::2]), torch.cat(each[1::2])], 1))
    meta = fastlstm.torch.LSTM(3, 4, device="meta")
    output, (h, c) = meta(x.float().to("meta"), reset=reset)
    assert output.shape == (5, 2, 4) and h.shape == c.shape == (1, 2, 4)


def test_dropout_is_torchs():
    """Between layers, on the rows of all pieces; none in evaluation."""
    lstm = fastlstm.torch.LSTM(3, 4, 2, dropout=0.5)
    x, reset = torch.ones(6, 2, 3), torch.zeros(6, 2, dtype=torch.bool)
    reset[3] = True
    torch.manual_seed(0)
    one, _ = lstm(x, reset=reset)
    torch.manual_seed(0)
    again, _ = lstm(x, reset=reset)
    other, _ = lstm(x, reset=reset)
    assert torch.equal(one, again) and not torch.equal(one, other)
    lstm.eval()
    y, _ = lstm(x, reset=reset)
    assert torch.equal(y[3:], y[:3])


@pytest.mark.parametrize(
    "reset, what",
    [
        (torch.zeros(5, 3, dtype=torch.bool), r"reset of shape \(T, B\) = \(5, 2\), got \(5, 3\)"),
        (torch.zeros(2, 5, dtype=torch.bool), r"reset of shape \(T, B\) = \(5, 2\), got \(2, 5\)"),
        (torch.zeros(5, dtype=torch.bool), r"reset of shape \(T, B\) = \(5, 2\), got \(5,\)"),
        (torch.zeros(5, 2), "reset must hold booleans, got dtype float32"),
        (torch.zeros(5, 2, dtype=torch.int64), "reset must hold booleans, got dtype int64"),
    ],
)
def test_resets_that_do_not_fit(reset, what):
    with pytest.raises(ValueError, match=what):
        fastlstm.torch.LSTM(3, 4)(torch.ones(5, 2, 3), reset=reset)


def test_inputs_that_do_not_fit():
    """torch's sentences, with a reset too."""
    lstm, reset = fastlstm.torch.LSTM(3, 4), torch.ones(5, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="LSTM: Expected input to be 2D or 3D, got 4D instead"):
        lstm(torch.ones(5, 2, 3, 1), reset=reset)
    with pytest.raises(RuntimeError, match="Expected 3, got 2"):
        lstm(torch.ones(5, 2, 2), reset=reset)
    with pytest.raises(
        RuntimeError, match=r"Expected hidden\[0\] size \(1, 2, 4\), got \[1, 3, 4\]"
    ):
        lstm(torch.ones(5, 2, 3), (torch.ones(1, 3, 4),) * 2, reset=reset)
    with pytest.raises(RuntimeError, match="in a transform"):
        torch.func.vmap(lambda x: lstm(x, reset=reset)[0])(torch.ones(4, 5, 2, 3))


def test_what_is_given_stays_as_it_was():
    lstm = fastlstm.torch.LSTM(3, 4)
    x, reset = torch.ones(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
    reset[0, 0] = reset[2, 1] = True
    hx = torch.ones(1, 2, 4), torch.ones(1, 2, 4)
    before = [value.clone() for value in (x, reset, *hx)]
    lstm(x, hx, reset=reset)
    lstm(x[:1], hx, reset=reset[:1])
    assert all(map(torch.equal, (x, reset, *hx), before))


@pytest.mark.parametrize("at", [0, 2])
def test_a_class_of_ones_own_runs_its_forward_once(at):
    class Doubles(fastlstm.torch.LSTM):
        def forward(self, input, hx=None, *, reset=None):
            return super().forward(2 * input, hx, reset=reset)

    lstm, plain = Doubles(3, 4), fastlstm.torch.LSTM(3, 4)
    plain.load_state_dict(lstm.state_dict())
    x, reset = torch.ones(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
    reset[at] = True
    hx = torch.ones(1, 2, 4), torch.ones(1, 2, 4)
    assert torch.equal(lstm(x, hx, reset=reset)[0], plain(2 * x, hx, reset=reset)[0])
