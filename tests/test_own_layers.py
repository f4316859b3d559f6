"""Layers of a user's own: in models, training, files and streams as any other."""

import copy
import pickle
import re

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import LSTM, Concat, Last, Layer, Linear, LSTMCell, Residual, Sequential, Softmax
from fastlstm.training import Adam, Checkpoint, MSELoss, NonFiniteError, fit, predict

B, T = 3, 6


class Affine(Layer):
    """A user's own Linear."""

    stepwise = True

    def __init__(self, inputs, outputs, dtype="float32", seed=0):
        super().__init__({"kernel": (inputs, outputs), "offset": (outputs,)}, dtype)
        self.kernel = np.random.default_rng(seed).standard_normal((inputs, outputs)) / 2

    def forward(self, input):
        return input @ self.kernel + self.offset

    def vjp(self, input):
        kernel = self.kernel.copy()

        def pullback(d_output):
            rows = d_output.reshape(-1, d_output.shape[-1])
            self.add_gradient("kernel", input.reshape(len(rows), -1).T @ rows)
            self.add_gradient("offset", rows.sum(axis=0))
            return d_output @ kernel.T

        return self(input), pullback


class Mean(Layer):
    """The mean over all real steps; it may be told how the axes lie, as a Last is."""

    gives_steps = False

    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first

    def _shares(self, input, lengths):
        steps, size = (input.shape[:2][::-1]) if self.batch_first else input.shape[:2]
        lengths = np.full(size, steps) if lengths is None else np.asarray(lengths)
        mask = np.arange(steps)[:, None] < lengths
        shares = (mask / np.maximum(lengths, 1)).astype(input.dtype)[..., None]
        return shares.swapaxes(0, 1) if self.batch_first else shares

    def forward(self, input, *, lengths=None):
        return (input * self._shares(input, lengths)).sum(axis=int(self.batch_first))

    def vjp(self, input, *, lengths=None):
        shares, axis = self._shares(input, lengths), int(self.batch_first)
        return self(input, lengths=lengths), lambda d: np.expand_dims(d, axis) * shares


class Noisy(Layer):
    """It adds noise in training, from a generator that checkpoints keep."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def forward(self, input):
        noise = self.rng.standard_normal(input.shape, input.dtype) if self.training else 0
        return input + input.dtype.type(0.1) * noise

    def vjp(self, input):
        return self(input), lambda d_output: d_output


class Encoder(Layer):
    """It has layers inside, which are assigned as in torch."""

    def __init__(self, batch_first=False):
        super().__init__()
        self.rnn = LSTM(3, 4, batch_first=batch_first, seed=1)
        self.head = Affine(4, 2)

    def forward(self, input, *, lengths=None):
        return self.head(self.rnn(input, lengths=lengths)[0])

    def vjp(self, input, *, lengths=None, input_gradient=True):
        (output, _), back = self.rnn.vjp(input, lengths=lengths, input_gradient=input_gradient)
        y, back_head = self.head.vjp(output)
        return y, lambda d: back(back_head(d))[0]


class Blind(Layer):
    """It cannot be trained."""

    def forward(self, input):
        return 2 * input


def _pair(dtype="float32"):
    """The same model with an Affine, and with a Linear."""
    own = Sequential(
        {"rnn": LSTM(3, 4, seed=1, dtype=dtype), "fc": Affine(4, 4, dtype),
         "rnn2": LSTM(4, 2, seed=2, dtype=dtype)}
    )  # fmt: skip
    known = Sequential({**own.children, "fc": Linear(4, 4, dtype=dtype)})
    known = copy.deepcopy(known)
    known.fc.weight, known.fc.bias = own.fc.kernel.T, own.fc.offset
    return own, known


# ---- values and training ------------------------------------------------------------------------


def test_it_runs_and_goes_back_as_a_known_layer(dtype):
    own, known = _pair(dtype)
    x = normal(T, B, 3, dtype=dtype)
    close = {"rtol": 0, "atol": 1e-5 if dtype == "float32" else 1e-13}
    (y, back), (expected, back_known) = own.vjp(x), known.vjp(x)
    np.testing.assert_allclose(y, expected, **close)
    np.testing.assert_allclose(own(x), expected, **close)
    dy = normal(*y.shape, seed=1, dtype=dtype)
    np.testing.assert_allclose(back(dy), back_known(dy), **close)
    np.testing.assert_allclose(own.grads["fc.kernel"].T, known.grads["fc.weight"], **close)
    np.testing.assert_allclose(
        own.grads["rnn.weight_ih_l0"], known.grads["rnn.weight_ih_l0"], **close
    )
    assert list(own.state_dict())[4:6] == ["fc.kernel", "fc.offset"]


def test_it_learns_as_a_known_layer():
    own, known = _pair()
    x, y = normal(20, T, 3), normal(20, T, 2, seed=1)
    losses = [
        fit(model, (x, y), MSELoss(), Adam(model, lr=0.01), 5, 4, progress=False)["loss"]
        for model in (own, known)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(predict(own, x), predict(known, x), atol=1e-4)


@pytest.mark.parametrize("lengths", [None, [2, 6, 1]])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_and_steps(batch_first, lengths):
    """Lengths reach it within containers too; a layer that does not take them gets none."""
    lstm = LSTM(3, 4, batch_first=batch_first, seed=0)
    beside = Concat(Sequential(Mean(batch_first)), Last(batch_first, False))
    model = Sequential(lstm, Affine(4, 4), beside, Linear(8, 1, seed=1))
    x = normal(B, T, 3)
    z = model[1](lstm(x if batch_first else x.swapaxes(0, 1), lengths=lengths)[0])
    z = z if batch_first else z.swapaxes(0, 1)
    ends = lengths or [T] * B
    means = np.stack([row[:n].mean(axis=0) for row, n in zip(z, ends, strict=True)])
    last = np.stack([row[n - 1] for row, n in zip(z, ends, strict=True)])
    expected = model[3](np.concatenate([means, last], axis=-1))
    given = x if batch_first else x.swapaxes(0, 1)
    np.testing.assert_allclose(model(given, lengths=lengths), expected, atol=1e-6)
    y, pullback = model.vjp(given, lengths=lengths)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert pullback(np.ones_like(y)).shape == given.shape
    if lengths is None:
        np.testing.assert_allclose(predict(model, x), expected, atol=1e-6)
    else:
        ragged = [row[:n] for row, n in zip(x, lengths, strict=True)]
        np.testing.assert_allclose(predict(model, ragged), expected, atol=1e-6)


def test_a_whole_model_of_ones_own():
    """The layout of its LSTM is seen, and its names stay as they are."""
    model = Encoder()
    x, y = normal(20, T, 3), normal(20, T, 2, seed=1)
    history = fit(model, (x, y), MSELoss(), Adam(model, lr=0.02), 4, 5, progress=False)
    assert history["loss"][-1] < history["loss"][0]
    expected = model(x.swapaxes(0, 1)).swapaxes(0, 1)
    np.testing.assert_allclose(predict(model, x), expected, atol=1e-6)
    assert list(model.state_dict())[-2:] == ["head.kernel", "head.offset"]
    assert {"rnn", "head", "children"} <= set(dir(model)) and "kernel" in dir(model.head)
    assert repr(model) == "Encoder(\n  (rnn): LSTM(3, 4)\n  (head): Affine()\n)"


def test_in_branches_and_in_two_places():
    own = Affine(3, 3)
    model = Sequential(Residual(own), Concat({"a": own, "b": Blind()}))
    x = normal(T, B, 3)
    z = x + own(x)
    assert_same_bits(model(x), np.concatenate([own(z), 2 * z], axis=-1))
    model = Sequential(Residual(own), own)
    y, pullback = model.vjp(x)
    pullback(np.ones_like(y))
    dz = np.ones_like(y) @ own.kernel.T
    flat = (T * B, 3)
    expected = z.reshape(flat).T @ np.ones(flat) + x.reshape(flat).T @ dz.reshape(flat)
    np.testing.assert_allclose(own.grads["kernel"], expected, rtol=1e-4)
    assert [layer for layer, *_ in model.buffers()] == [own]


# ---- what else a layer does ---------------------------------------------------------------------


@pytest.mark.parametrize("around", [lambda own: own, Sequential, Concat])
def test_a_layer_may_take_several_inputs(around):
    class Joined(Layer):
        def forward(self, input):
            return np.concatenate(input, axis=-1)

        def vjp(self, input):
            return self(input), lambda d_output: (d_output[:, :2], d_output[:, 2:])

    one, other = normal(8, 2), normal(8, 1, seed=1)
    joined = around(Joined())
    assert_same_bits(joined((one, other)), np.concatenate([one, other], axis=-1))
    model = Sequential(joined, Linear(3, 1, seed=0))
    y, pullback = model.vjp((one, other))
    assert_same_bits(y, model[1](np.concatenate([one, other], axis=-1)))
    d_one, d_other = pullback(np.ones_like(y))
    assert_same_bits(np.hstack([d_one, d_other]), np.ones((8, 1), np.float32) * model[1].weight)


def test_copies_pickles_precision_and_files(tmp_path):
    model, _ = _pair()
    x = normal(T, B, 3)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_bits(copied(x), model(x))
        copied.fc.offset = np.ones(4)
        assert not np.array_equal(copied(x), model(x))
    wide = model.astype("float64")
    assert wide.fc.kernel.dtype == np.float64
    np.testing.assert_allclose(wide(x.astype("float64")), model(x), atol=1e-5)
    other, _ = _pair()
    other.load_state_dict({name: 0 * value for name, value in model.state_dict().items()})
    np.savez(tmp_path / "state.npz", **model.state_dict())
    other.load_state_dict(fastlstm.load_state(tmp_path / "state.npz"))
    assert_same_bits(other(x), model(x))
    with pytest.raises(TypeError, match="^the structure of Affine cannot be stored"):
        fastlstm.save(model, tmp_path / "model.npz")


def test_frozen_parameters_stay():
    model, _ = _pair()
    model.freeze("fc.kernel")
    before = model.state_dict()
    x, y = normal(8, T, 3), normal(8, T, 2, seed=1)
    fit(model, (x, y), MSELoss(), Adam(model, lr=0.1), 2, 4, progress=False)
    after = model.state_dict()
    assert_same_bits(after["fc.kernel"], before["fc.kernel"])
    assert (after["fc.offset"] != before["fc.offset"]).all()
    assert not model.grads["fc.kernel"].any()


def test_a_training_that_is_resumed_is_the_same(tmp_path):
    """This includes its random states."""
    x, y = normal(16, T, 3), normal(16, T, 2, seed=1)

    def train(epochs, **options):
        model = Sequential(Noisy(seed=5), *_pair()[0].children.values())
        optimizer, path = Adam(model, lr=0.01), tmp_path / "training.npz"
        history = fit(model, (x, y), MSELoss(), optimizer, epochs, 4, progress=False,
                      callbacks=[Checkpoint(path)], **options)  # fmt: skip
        return model.state_dict(), history["loss"], path

    expected, losses, _ = train(4)
    _, _, path = train(2)
    state, resumed, _ = train(4, resume=path)
    assert resumed == losses
    for name, value in expected.items():
        assert_same_bits(state[name], value)


def test_streams_take_what_says_that_it_is_stepwise():
    model, _ = _pair()
    x = normal(T, B, 3)
    stream = model.stream(B)
    steps = np.stack([stream.step(x_t) for x_t in x])
    np.testing.assert_allclose(steps, model(x), atol=1e-6)
    stream.reset()
    np.testing.assert_allclose(stream.run(x), model(x), atol=1e-6)
    ends = Sequential(LSTM(3, 4, seed=0), Affine(4, 2))
    stream, out = ends.stream(B), np.empty((B, 2), np.float32)
    assert stream.step(x[0], out) is out
    np.testing.assert_allclose(out, ends(x)[0], atol=1e-6)
    before = stream.state["0"]
    for wrong in (np.empty((B, 3), np.float32), np.empty((B, 2))):
        with pytest.raises(ValueError, match=r"of shape \(3, 2\), got"):
            stream.step(x[1], wrong)
    ends[1].forward = lambda input: 1 / 0
    with pytest.raises(ZeroDivisionError):
        stream.step(x[1])
    for one, other in zip(stream.state["0"], before, strict=True):
        assert_same_bits(one, other)
    with pytest.raises(ValueError, match=r"^a stream has one step at a time: '1' \(Blind\(\)\)"):
        Sequential(LSTM(3, 4), Blind()).stream()


# ---- subclasses of known layers -----------------------------------------------------------------


class Doubled(Linear):
    """A known layer with another `forward`."""

    def forward(self, input):
        return 2 * super().forward(input)


class Thrice(Linear):
    def __call__(self, input):
        return 3 * super().__call__(input)


class Halved:
    """A mixin that overrides the call of the class that it is mixed with."""

    def __call__(self, input):
        return super().__call__(input) / 2


class HalvedLinear(Halved, Linear):
    pass


class Gated(LSTM):
    def forward(self, input, hx=None, *, lengths=None):
        output, states = super().forward(input, hx, lengths=lengths)
        return -output, states


@pytest.mark.parametrize(
    "kind, factor", [(Doubled, 2), (Thrice, 3), (HalvedLinear, 0.5)], ids=lambda value: str(value)
)
def test_forward_and_the_call_are_one(kind, factor):
    layer, x = kind(3, 2, seed=0), normal(5, 3)
    expected = np.float32(factor) * Linear(3, 2, seed=0)(x)
    assert_same_bits(layer(x), expected)
    assert_same_bits(Sequential(layer)(x), expected)
    if kind is not HalvedLinear:
        assert_same_bits(layer.forward(x), expected)
    # of its call nothing is known any more
    assert Sequential(Linear(3, 7), kind(3, 2)) and not kind.stepwise
    with pytest.raises(ValueError, match="may need more than that"):
        Sequential(LSTM(3, 3), kind(3, 2)).stream()


def test_another_call_needs_another_way_back():
    """The parent's gradients would belong to another call, and nobody would notice."""
    x = normal(5, 3)
    for kind in (Doubled, Thrice, HalvedLinear):
        layer = kind(3, 2, seed=0)
        with pytest.raises(NotImplementedError, match="; or vjp = Linear.vjp, if that fits$"):
            Sequential(layer).vjp(x)

    class Watched(Linear):
        vjp = Linear.vjp

        def forward(self, input):
            return super().forward(input)

    class Scaled(Sequential):
        def forward(self, input):
            return 2 * super().forward(input)

    assert_same_bits(Watched(3, 2, seed=0).vjp(x)[0], Linear(3, 2, seed=0)(x))
    with pytest.raises(NotImplementedError, match="; or vjp = Sequential.vjp, if that fits$"):
        Sequential(Scaled(Linear(3, 2))).vjp(x)


def test_an_lstm_of_ones_own_has_states():
    lstm, x = Gated(3, 4, seed=0), normal(T, B, 3)
    output, (h, c) = LSTM(3, 4, seed=0)(x)
    y, states = Sequential({"rnn": lstm})(x, return_states=True)
    assert_same_bits(y, -output)
    assert_same_bits(states["rnn"][1], c)
    assert_same_bits(Sequential(lstm, Last())(x), -output[-1])
    with pytest.raises(ValueError, match=r"Gated\(3, 4\) may need more than that"):
        lstm.stream()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LSTM(3, 4),
        lambda: LSTMCell(3, 4),
        lambda: Linear(3, 4),
        lambda: Softmax(),
        lambda: Sequential(Linear(3, 4)),
    ],
)
def test_known_layers_have_forward(make):
    layer, x = make(), normal(5, 3)
    one, other = layer.forward(x), layer(x)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(np.asarray(a[0]), np.asarray(b[0]))


# ---- mistakes -----------------------------------------------------------------------------------


def _trained(layer, **options):
    model = Sequential(Linear(3, 3, seed=0), layer)
    x = normal(8, 3)
    return fit(model, (x, x), MSELoss(), Adam(model), 1, 4, progress=False, **options)


class Empty(Layer):
    pass


class Unready(Layer):
    def __init__(self):
        self.rnn = LSTM(3, 4)


class Late(Layer):
    def __init__(self):
        self.size = 3


class Outputs(LSTM):
    """An LSTM that gives its output alone, of which two steps look like a pair."""

    def forward(self, input, hx=None, *, lengths=None):
        return super().forward(input, hx, lengths=lengths)[0]


class Taken(Layer):
    """A layer inside that has the name of something else."""

    def __init__(self, name):
        super().__init__({"scale": (1,)})
        setattr(self, name, Linear(1, 1))


def _with(vjp):
    return type("Own", (Blind,), {"vjp": vjp})()


@pytest.mark.parametrize(
    "call, kind, sentence",
    [
        (lambda: _trained(Blind()), NotImplementedError,
         "Blind has no vjp: to train it, or layers before it, write vjp(self, input, *, "
         "lengths=None), which returns the output and a function from the gradient of the output "
         "to that of the input"),
        (lambda: Empty()(np.zeros(3)), NotImplementedError,
         "Empty has no forward: write forward(self, input, *, lengths=None), which returns the "
         "output"),
        (lambda: Unready(), AttributeError,
         "Unready: call super().__init__(...) before assigning layers"),
        (lambda: Late().training, AttributeError,
         "Late has no attribute 'training': call super().__init__(...) first"),
        (lambda: setattr(Encoder(), "me", Sequential(encoder := Encoder())) or
         setattr(encoder, "me", Sequential(encoder)), AttributeError,
         "Encoder: 'me' would be a layer inside itself"),
        (lambda: Layer({"a": 3}), TypeError,
         "Layer: the shape of 'a' must be a tuple of ints, got 3"),
        (lambda: Layer([("a", (3,))]), TypeError, "Layer: shapes must be a dict by name, got list"),
        (lambda: Layer({}, children={"a": 3}), TypeError, "Layer: 'a' is not a layer but int"),
        (lambda: Layer({}, children={"a.b": Layer()}), ValueError,
         "Layer: a name must be a string without dots, not empty, got 'a.b'"),
        (lambda: setattr(Encoder(), "rnn", None), AttributeError,
         "Encoder: 'rnn' is a layer inside it, and stays one"),
        (lambda: Sequential(Outputs(3, 4), Linear(4, 1))(normal(2, 5, 3)), TypeError,
         "Outputs: an LSTM must return (output, (h_n, c_n)), got ndarray of shape (2, 5, 4)"),
        (lambda: Taken("scale"), AttributeError,
         "Taken: a layer cannot be called 'scale', as that is a parameter, or an attribute of the "
         "class"),
        (lambda: Taken("forward"), AttributeError,
         "Taken: a layer cannot be called 'forward', as that is a parameter, or an attribute of "
         "the class"),
        (lambda: Layer({"training": (1,)}), ValueError,
         "Layer: a parameter cannot be called 'training', as the layer has another attribute of "
         "this name"),
        (lambda: Layer({"grads": (1,)}), ValueError,
         "Layer: a parameter cannot be called 'grads', as the layer has another attribute of this "
         "name"),
        (lambda: Layer({"a": (1,)}, children={"a": Linear(1, 1)}), ValueError,
         "Layer: a parameter cannot be called 'a', as the layer has another attribute of this "
         "name"),
        (lambda: _trained(_with(lambda self, x: 2 * x)), TypeError,
         "Own: vjp must return (output, pullback), got ndarray"),
        (lambda: _trained(_with(lambda self, x: (2 * x, lambda d: None))), ValueError,
         "Own: its pullback must return the gradient of the input, float32 of shape (4, 3), got "
         "NoneType of shape ()"),
        (lambda: _trained(_with(lambda self, x: (2 * x, lambda d: d[:, :1]))), ValueError,
         "Own: its pullback must return the gradient of the input, float32 of shape (4, 3), got "
         "float32 of shape (4, 1)"),
        (lambda: _trained(_with(lambda self, x: (2 * x, lambda d: 2.0 * d.astype(float)))),
         ValueError,
         "Own: its pullback must return the gradient of the input, float32 of shape (4, 3), got "
         "float64 of shape (4, 3)"),
        (lambda: Affine(3, 2).add_gradient("weight", 1), ValueError,
         "Affine has no parameter 'weight'; it has 'kernel', 'offset'"),
        (lambda: Affine(3, 2).add_gradient("kernel", np.ones(2)), ValueError,
         "Affine: Expected a gradient of kernel of shape (3, 2), got (2,)"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call, kind, sentence):
    raises(call, kind, sentence)


class Unread:
    """Data that must not be looked at."""

    def __len__(self):
        return 8

    def __getitem__(self, rows):
        raise AssertionError("a batch was read")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sequential(Linear(3, 3), Blind()),
        lambda: Sequential(Linear(3, 3), Sequential({"a": Residual(Blind())})),
        lambda: Sequential(Concat(Linear(3, 3), Sequential(Linear(3, 3), Blind()))),
        lambda: Sequential(Concat(Blind(), Linear(3, 3)), Blind()),
        lambda: Sequential(type("Louder", (Linear,), {"forward": Linear.forward})(3, 3)),
    ],
)
def test_a_training_that_cannot_go_back_does_not_begin(make):
    model = make()
    with pytest.raises(NotImplementedError, match="has no vjp: to train it"):
        fit(model, Unread(), MSELoss(), Adam(model), 1, progress=False)


def test_an_optimiser_from_before_a_layer_was_assigned_is_refused():
    model = Encoder()
    optimizer, x = Adam(model), normal(8, 5, 3)
    model.tail = Linear(2, 1)
    with pytest.raises(ValueError, match="layers now that it did not have when the optimiser was"):
        fit(model, (x, x[..., :2]), MSELoss(), optimizer, 1, progress=False)


def test_a_layer_may_take_the_place_of_none_and_have_any_name():
    class Assigned(Blind):
        def __init__(self):
            super().__init__()
            self.head = self._body = None
            self.head, self._body = Linear(2, 1), Linear(3, 2)

    layer = Assigned()
    assert list(layer.state_dict()) == ["head.weight", "head.bias", "_body.weight", "_body.bias"]
    assert layer.head is layer.children["head"] and layer._body is layer.children["_body"]


def test_a_layer_without_a_way_back_may_stand_before_all_that_learns():
    model = Sequential(Blind(), Linear(3, 1, seed=0))
    x = normal(8, 3)
    history = fit(model, (x, x[:, :1]), MSELoss(), Adam(model, lr=0.1), 9, 4, progress=False)
    assert history["loss"][-1] < history["loss"][0]


def test_an_output_of_another_shape_is_refused_by_the_next():
    class Wrong(Blind):
        def forward(self, input):
            return input[..., :2]

    with pytest.raises(ValueError, match=re.escape("shape (..., 3), got (5, 2)")):
        Sequential(Wrong(), Linear(3, 1))(normal(5, 3))


def test_what_is_not_finite_in_it_is_named():
    model = Sequential({"fc": Linear(3, 3, seed=0), "own": Affine(3, 3)})
    model.own.kernel = np.full((3, 3), 3e38)
    x = normal(4, 3)
    with pytest.raises(NonFiniteError) as caught:
        fit(model, (x, x), MSELoss(), Adam(model), 1, 4, shuffle=False, progress=False)
    assert caught.value.origin == "the output of own for sample 3"
