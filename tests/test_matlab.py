"""MATLAB's names on our page for its users, and lstmLayer's equations as MATLAB writes them."""

import pathlib
import re

import numpy as np
import pytest
from values import normal

from fastlstm import LSTM

PAGE = (pathlib.Path(__file__).parents[1] / "docs/coming_from/matlab.md").read_text("utf-8")

# Properties and arguments of lstmLayer, as its help has them, and the values of those with names.
NAMES = [
    "NumHiddenUnits", "OutputMode", "HasStateInputs", "HasStateOutputs", "InputSize",
    "StateActivationFunction", "GateActivationFunction", "CellState", "HiddenState",
    "InputWeights", "RecurrentWeights", "Bias", "InputWeightsInitializer",
    "RecurrentWeightsInitializer", "BiasInitializer", "InputWeightsLearnRateFactor",
    "RecurrentWeightsLearnRateFactor", "BiasLearnRateFactor", "InputWeightsL2Factor",
    "RecurrentWeightsL2Factor", "BiasL2Factor", "Name", "NumInputs", "InputNames", "NumOutputs",
    "OutputNames",
]  # fmt: skip
PROJECTED = [
    "OutputProjectorSize", "InputProjectorSize", "OutputProjector", "InputProjector",
    "OutputProjectorInitializer", "InputProjectorInitializer",
]  # fmt: skip
INPUT = [
    "InputSize", "MinLength", "Normalization", "NormalizationDimension", "Mean",
    "StandardDeviation", "Min", "Max", "SplitComplexInputs", "Name",
]  # fmt: skip
# Of trainingOptions, those of each solver after those of all.
TRAINING = [
    "MaxEpochs", "MiniBatchSize", "Shuffle", "Verbose", "VerboseFrequency", "ValidationData",
    "ValidationFrequency", "ValidationPatience", "OutputNetwork", "ObjectiveMetricName",
    "InitialLearnRate", "LearnRateSchedule", "LearnRateDropFactor", "LearnRateDropPeriod",
    "L2Regularization", "GradientThreshold", "GradientThresholdMethod", "Metrics", "Plots",
    "OutputFcn", "CheckpointPath", "CheckpointFrequency", "CheckpointFrequencyUnit",
    "SequenceLength", "SequencePaddingValue", "SequencePaddingDirection", "InputDataFormats",
    "TargetDataFormats", "CategoricalInputEncoding", "CategoricalTargetEncoding",
    "ResetInputNormalization", "BatchNormalizationStatistics", "ExecutionEnvironment",
    "WorkerLoad", "DispatchInBackground", "PreprocessingEnvironment", "Acceleration",
    "Momentum", "GradientDecayFactor", "SquaredGradientDecayFactor", "Epsilon",
]  # fmt: skip
NOT_HERE = [  # options of the solvers that are not here: named, in the row that says so
    "MaxIterations", "GradientTolerance", "StepTolerance", "LineSearchMethod", "HistorySize",
    "MaxNumLineSearchIterations", "InitialInverseHessianFactor", "InitialDampingFactor",
    "MaxDampingFactor", "DampingIncreaseFactor", "DampingDecreaseFactor",
]  # fmt: skip
VALUES = [
    "tanh", "softsign", "relu", "sigmoid", "hard-sigmoid", "glorot", "he", "orthogonal",
    "narrow-normal", "zeros", "ones", "unit-forget-gate",
]  # fmt: skip


def test_every_name_is_on_the_page():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ")]
    names = NAMES + PROJECTED + INPUT + TRAINING
    assert [n for n in names if not any(re.search(f"`{n}[`=]", row) for row in rows)] == []
    assert [n for n in NOT_HERE if f"`{n}`" not in PAGE] == []
    assert [v for v in VALUES if not any(f'"{v}"' in row for row in rows)] == []


# ---- the equations ----------------------------------------------------------------------------

H, I, B, T = 5, 3, 4, 6
GATES = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard-sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}
STATES = {
    "tanh": np.tanh,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "relu": lambda x: np.maximum(x, 0),
}


def _lstm_layer(X, W, R, b, state, gate):
    """lstmLayer's output and states for X (I, B, T): columns are sequences, b is a column."""
    hidden, cell = np.zeros((2, H, X.shape[1]))
    outputs = []
    for t in range(X.shape[2]):
        i, f, g, o = np.split(W @ X[:, :, t] + R @ hidden + b, 4)
        cell = state(g) * gate(i) + gate(f) * cell
        hidden = state(cell) * gate(o)
        outputs.append(hidden)
    return np.stack(outputs, axis=2), hidden, cell


def _arrays(directions=1):
    shapes = (4 * H * directions, I), (4 * H * directions, H), (4 * H * directions, 1)
    return [normal(*shape, seed=seed, dtype="float64") for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("state", STATES)
def test_the_equations(state, gate):
    """`from_arrays` brings over the arrays; the options stand for MATLAB's functions."""
    arrays, X = _arrays(), normal(I, B, T, seed=9, dtype="float64") * 2
    trained = LSTM.from_arrays(*arrays, layout="matlab")
    lstm = LSTM(
        I, H, dtype="float64", engine="numpy", gate_activation=gate.replace("-", "_"),
        cell_activation=state, output_activation=state,
    )  # fmt: skip
    lstm.load_state_dict(trained.state_dict())
    Y, hidden, cell = _lstm_layer(X, *arrays, STATES[state], GATES[gate])
    output, (h_n, c_n) = lstm(X.transpose(2, 1, 0))
    np.testing.assert_allclose(output, Y.transpose(2, 1, 0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(h_n[0], hidden.T, rtol=0, atol=1e-14)
    np.testing.assert_allclose(c_n[0], cell.T, rtol=0, atol=1e-14)


def test_both_directions():
    """bilstmLayer's rows are those of the forward direction, then those of the backward one."""
    arrays, X = _arrays(2), normal(I, B, T, seed=9, dtype="float64")
    forward, backward = zip(*(np.split(array, 2) for array in arrays), strict=True)
    functions = STATES["tanh"], GATES["sigmoid"]
    Y, last, _ = _lstm_layer(X, *forward, *functions)
    Y_back, last_back, _ = _lstm_layer(X[:, :, ::-1], *backward, *functions)
    output, (h_n, _) = LSTM.from_arrays(*arrays, layout="matlab")(X.transpose(2, 1, 0))
    expected = np.concatenate([Y, Y_back[:, :, ::-1]]).transpose(2, 1, 0)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(h_n, np.stack([last.T, last_back.T]), rtol=0, atol=1e-14)


def test_a_projected_layer_multiplied_out():
    """W x is W (Q' x) there and R h is R (Q' h); the page's products give the same values."""
    rng = np.random.default_rng(3)
    W, Q_in, R, Q_out = (rng.normal(size=s) for s in ((4 * H, 2), (I, 2), (4 * H, 3), (H, 3)))
    b, X = rng.normal(size=(4 * H, 1)), rng.normal(size=(I, B, T))
    projected = np.einsum("ir,ibt->rbt", Q_in, X)  # the input projector, before the layer

    class Recurrent:  # R, as a product that goes through the output projector
        def __matmul__(self, hidden):
            return R @ (Q_out.T @ hidden)

    Y, _, _ = _lstm_layer(projected, W, Recurrent(), b, STATES["tanh"], GATES["sigmoid"])
    lstm = LSTM.from_arrays(W @ Q_in.T, R @ Q_out.T, b, layout="matlab")
    output, _ = lstm(X.transpose(2, 1, 0))
    np.testing.assert_allclose(output, Y.transpose(2, 1, 0), rtol=0, atol=1e-13)
