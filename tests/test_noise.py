"""What training draws at random: recurrent dropout, zoneout, and input dropout with one mask."""

import copy

import numpy as np
import pytest
from gradients import assert_derivative, make_problem
from trainings import assert_same_weights, make_data, regressor

import fastlstm
from fastlstm.layers.dropout import dropout_mask, masks_of
from fastlstm.training import Adam, Checkpoint, MSELoss, fit

T, B, I, H = 5, 3, 4, 6
X = np.random.default_rng(5).standard_normal((T, B, I))
SEED = 3


def make(engine="numpy", dtype="float64", **options):
    return fastlstm.LSTM(I, H, dtype=dtype, engine=engine, seed=SEED, **options)


def drawn(shape, p, rng):
    """Dropout's factors, as a layer with this generator draws them."""
    return dropout_mask(np.empty(shape), p, rng)


def by_cell(lstm, x, factors=1.0, zone_h=0.0, zone_c=0.0):
    """Every h and the last c of a plain cell's loop; zones are masks (T, B, H) or chances."""
    cell = fastlstm.LSTMCell(I, H, dtype="float64", engine="numpy")
    cell.load_state_dict({n.removesuffix("_l0"): w for n, w in lstm.state_dict().items()})
    h = c = np.zeros((B, H))
    zone_h, zone_c = (np.broadcast_to(zone, (len(x), B, H)) for zone in (zone_h, zone_c))
    outputs = []
    for x_t, keep_h, keep_c in zip(x, zone_h, zone_c, strict=True):
        new_h, new_c = cell(x_t, (h * factors, c))
        h, c = keep_h * h + (1 - keep_h) * new_h, keep_c * c + (1 - keep_c) * new_c
        outputs.append(h)
    return np.stack(outputs), c


def test_recurrent_dropout_has_one_mask_for_all_steps(engine):
    lstm = make(engine, recurrent_dropout=0.4)
    factors = drawn((B, H), 0.4, masks_of(SEED))
    y, (_, c_n) = lstm(X)
    expected, c = by_cell(lstm, X, factors)
    np.testing.assert_allclose(y, expected, atol=1e-13)
    np.testing.assert_allclose(c_n[0], c, atol=1e-13)
    again, _ = lstm(X)
    assert np.abs(again - y).max() > 1e-3, "the next call must draw another mask"
    np.testing.assert_allclose(lstm.eval()(X)[0], by_cell(lstm, X)[0], atol=1e-13)


def test_zoneout_draws_for_every_value(engine):
    lstm, rng = make(engine, zoneout=(0.3, 0.6)), masks_of(SEED)
    zones = [rng.random((T * B, H)) < p for p in (0.3, 0.6)]
    zones = [zone.reshape(T, B, H).astype(float) for zone in zones]
    y, (_, c_n) = lstm(X)
    expected, c = by_cell(lstm, X, 1.0, *zones)
    np.testing.assert_allclose(y, expected, atol=1e-13)
    np.testing.assert_allclose(c_n[0], c, atol=1e-13)
    np.testing.assert_allclose(lstm.eval()(X)[0], by_cell(lstm, X, 1.0, 0.3, 0.6)[0], atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
def test_what_zoneout_keeps_is_exactly_what_it_was(engine, training):
    """However far the new value is away: a small one does not drown in the difference."""
    lstm = make(engine, zoneout=1.0, cell_activation="identity", output_activation="identity")
    states = np.random.default_rng(6).standard_normal((2, 1, B, H))
    y, (h_n, c_n) = lstm.train(training)(1e20 * X, tuple(states))
    for got, expected in ((h_n, states[0]), (c_n, states[1]), (y[-1], states[0, 0])):
        np.testing.assert_array_equal(got, expected)


def test_one_number_is_the_zoneout_of_both():
    pair, one = make(zoneout=(0.2, 0.2)), make(zoneout=0.2)
    assert pair.zoneout == one.zoneout == 0.2
    np.testing.assert_array_equal(pair(X)[0], one(X)[0])


def test_zoneout_can_be_changed(engine):
    """Streams that are made already take it over, as calls do."""
    lstm = make(engine, zoneout=0.2).eval()
    stream = lstm.stream(B)
    lstm.zoneout = (0.5, 0.1)
    expected, _ = by_cell(lstm, X, 1.0, 0.5, 0.1)
    np.testing.assert_allclose(lstm(X)[0], expected, atol=1e-13)
    np.testing.assert_allclose(np.stack([stream.step(x) for x in X]), expected, atol=1e-13)


def test_input_dropout_has_one_mask_for_all_steps(engine):
    lstm = make(engine, input_dropout=0.5, num_layers=2)
    rng = masks_of(SEED)
    first, second = drawn((B, I), 0.5, rng), drawn((B, H), 0.5, rng)
    y, _ = lstm(X)
    layers = [make(engine), fastlstm.LSTM(H, H, dtype="float64", engine=engine)]
    state = lstm.state_dict()
    for k, layer in enumerate(layers):
        own = {n: w for n, w in state.items() if n.endswith(f"_l{k}")}
        layer.load_state_dict({n.replace(f"_l{k}", "_l0"): w for n, w in own.items()})
    between, _ = layers[0](X * first)
    np.testing.assert_allclose(y, layers[1](between * second)[0], atol=1e-13)


def test_pieces_of_a_sequence_share_its_masks():
    reset = np.zeros((T, B), bool)
    reset[2, 1] = reset[3, 0] = True
    options = {"input_dropout": 0.5, "recurrent_dropout": 0.3}
    rng = masks_of(SEED)
    inputs, factors = drawn((B, I), 0.5, rng), drawn((B, H), 0.3, rng)
    lstm = make(**options)
    y, _ = lstm(X, reset=reset)
    expected = by_cell(lstm, X * inputs, factors)[0]
    expected[2:, 1] = by_cell(lstm, X[2:] * inputs, factors)[0][:, 1]
    expected[3:, 0] = by_cell(lstm, X[3:] * inputs, factors)[0][:, 0]
    np.testing.assert_allclose(y, expected, atol=1e-13)


def test_masks_belong_to_sequences_however_long_they_are():
    lengths, options = [2, 5, 3], {"input_dropout": 0.5, "recurrent_dropout": 0.3}
    padded, ragged = make(**options)(X)[0], make(**options)(X, lengths=lengths)[0]
    for b, length in enumerate(lengths):
        np.testing.assert_allclose(ragged[:length, b], padded[:length, b], atol=1e-13)


CHANCES = {
    "recurrent": {"recurrent_dropout": 0.4},
    "zoneout": {"zoneout": (0.3, 0.2)},
    "zoneout_of_c": {"zoneout": (0.0, 0.4)},
    "input": {"input_dropout": 0.4},
    "all": {
        "recurrent_dropout": 0.3, "zoneout": (0.3, 0.2), "input_dropout": 0.3, "dropout": 0.2,
        "num_layers": 2, "bidirectional": True, "peephole": True,
    },
    "projected": {"recurrent_dropout": 0.3, "zoneout": (0.3, 0.2), "proj_size": 3},
}  # fmt: skip


@pytest.mark.parametrize("run", [{}, {"lengths": [2, 5, 3]}, {"checkpoint_every": 2}], ids=str)
@pytest.mark.parametrize("name", CHANCES)
def test_gradients_with_the_masks_of_the_run(engine, name, run):
    """A layer that is made anew draws the same masks: the function is a fixed one."""
    options = CHANCES[name]

    def layer(engine, dtype):
        return make(engine, dtype, **options)

    d, P = 1 + options.get("bidirectional", False), options.get("proj_size", H)
    cells = d * options.get("num_layers", 1)
    problem = make_problem(layer, X, ((cells, B, P), (cells, B, H)), **run)
    assert_derivative(problem, engine)


def test_a_pullback_keeps_the_masks_of_its_run():
    lstm = make(recurrent_dropout=0.4, zoneout=0.3, input_dropout=0.2)
    (y, _), pullback = lstm.vjp(X)
    first, _ = pullback(np.ones_like(y))
    lstm(X)  # draws others
    again, _ = pullback(np.ones_like(y))
    np.testing.assert_array_equal(first, again)


def test_cell_draws_for_every_step(engine):
    cell = fastlstm.LSTMCell(I, H, zoneout=(0.5, 0.25), dtype="float64", engine=engine, seed=SEED)
    rng, plain = masks_of(SEED), copy.copy(cell).eval()
    plain.zoneout = 0.0
    h = c = np.zeros((B, H))
    for x in X:
        zone_h, zone_c = (rng.random((B, H)) < p for p in (0.5, 0.25))
        new_h, new_c = plain(x, (h, c))
        expected = np.where(zone_h, h, new_h), np.where(zone_c, c, new_c)
        h, c = cell(x, (h, c))
        np.testing.assert_allclose([h, c], expected, atol=1e-13)


def test_cell_goes_back_with_the_masks_of_the_run(engine):
    def layer(engine, dtype):
        return fastlstm.LSTMCell(I, H, zoneout=0.4, dtype=dtype, engine=engine, seed=SEED)

    assert_derivative(make_problem(layer, X[0], ((B, H), (B, H))), engine)


def test_fit_resumes_with_the_same_masks(tmp_path):
    """The generators of the masks are part of a checkpoint."""

    def train(epochs, **options):
        chances = {"recurrent_dropout": 0.3, "zoneout": 0.2, "input_dropout": 0.2}
        model = regressor(dropout=0.3, **chances)
        fit(
            model, make_data(), MSELoss(), Adam(model, lr=0.02), epochs, 8, progress=False,
            **options,
        )  # fmt: skip
        return model

    path = tmp_path / "checkpoint.npz"
    train(1, callbacks=[Checkpoint(path)])
    assert_same_weights(train(3, resume=path, callbacks=[Checkpoint(path)]), train(3))
