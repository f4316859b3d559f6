"""The many-to-one training program: ten numbers in, one out.

1000 series of 10 random values, the target the mean of each; 800 to train, 200 to test. An LSTM of
10 units, a Linear on its last output, mean squared error, Adam, 50 epochs in batches of 50; train
and test loss are printed after each. `benchmarks/programs/with_torch.py` is the same program in
torch, which prints the same losses; `benchmarks` has the times of both.

    pip install .
    python examples/many_to_one.py

Reaches a test loss of 0.00005, where a guess of 0.5 has 0.008, in a fraction of a second.
"""

import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss

EPOCHS, BATCH, HIDDEN = 50, 50, 10


def report(state):
    """Print a line for the epoch: `fit` calls this with what it knows at its end."""
    train, test = (state.history[name][-1] for name in ("loss", "validation_loss"))
    print(f"epoch {state.epoch}: train {train:.6g}, test {test:.6g}")


def main(seed=0):
    """Train, print, and return the history."""
    rng = np.random.default_rng(seed)
    x = rng.random((1000, 10, 1), dtype=np.float32)
    y = x.mean(axis=1)
    train, test = (x[:800], y[:800]), (x[800:], y[800:])

    model = fastlstm.Sequential(
        fastlstm.LSTM(1, HIDDEN, batch_first=True),
        fastlstm.Last(batch_first=True),
        fastlstm.Linear(HIDDEN, 1),
    )
    # What seed= draws in the layers, torch's rule, but here in an order that torch can follow.
    bound = HIDDEN**-0.5
    model.load_state_dict(
        {name: rng.uniform(-bound, bound, w.shape) for name, w in model.state_dict().items()}
    )
    return fastlstm.fit(
        model, train, MSELoss(), Adam(model, lr=0.01), EPOCHS, BATCH,
        validation=test, shuffle=False, callbacks=[report],
    )  # fmt: skip


if __name__ == "__main__":
    main()
