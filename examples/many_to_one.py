"""The smallest training program: an LSTM learns the mean of ten numbers.

The data are 1000 series of 10 random values, 800 to train and 200 to test. The model is an LSTM of
10 units with a Linear on its last output. It is trained on the mean squared error by Adam, for 50
epochs in batches of 50, and the losses of training and test are printed after each epoch.
`benchmarks/programs/with_torch.py` is the same program in torch and prints the same losses;
`benchmarks` has the times of both.

    pip install .
    python examples/many_to_one.py

The test loss becomes 0.00005; a constant guess of 0.5 has 0.009. The roots of these are in the
unit of the numbers, which are between 0 and 1: the mean is missed by 0.007, and by 0.096. The
program takes a fraction of a second.
"""

import numpy as np

import fastlstm
from fastlstm.training import Adam, History, MSELoss, State

EPOCHS, BATCH, HIDDEN = 50, 50, 10


def report(state: State) -> None:
    """Print a line; `fit` calls this at the end of each epoch."""
    train, test = (state.history[name][-1] for name in ("loss", "validation_loss"))
    print(f"epoch {state.epoch}: train {train:.6g}, test {test:.6g}")


def main(seed: int = 0) -> History:
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
    # The layers' seed= draws from this distribution too. Here, the program in torch draws the same.
    bound = HIDDEN**-0.5
    model.load_state_dict(
        {name: rng.uniform(-bound, bound, w.shape) for name, w in model.state_dict().items()}
    )
    history = fastlstm.fit(
        model, train, MSELoss(), Adam(model, lr=0.01), EPOCHS, BATCH,
        validation=test, shuffle=False, callbacks=[report], progress=False,
    )  # fmt: skip
    missed = {"by the LSTM": fastlstm.predict(model, test), "by a guess of 0.5": 0.5}
    for who, told in missed.items():
        error = np.sqrt(np.mean((told - test[1]) ** 2))
        print(f"The mean of ten numbers between 0 and 1 is missed {who} by {error:.4f}")
    return history


if __name__ == "__main__":
    main()
