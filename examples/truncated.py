"""One long series, trained in short chunks: truncated backpropagation through time.

The outflow of a lake depends on the rain of hundreds of days. It is learnt over 16,000 days in
chunks of 20. Each chunk begins with the states at the end of the chunk before, so that the network
can remember for any time. Gradients stop at the beginning of a chunk, so that an update takes the
time and memory of 20 steps, not of all. For comparison, the same network is trained with states of
zero at the beginning of each chunk: it cannot know what was more than 20 days ago.

    pip install .
    python examples/truncated.py

The Nash-Sutcliffe efficiency (1: perfect) on days that the network has not seen is 0.99, and 0.39
without the states. The program takes a second or two.
"""

import numpy as np

import fastlstm
from fastlstm.training import Adam, CosineAnnealingLR, MSELoss, Standardizer, clip_grad_norm, nse

CHUNK, STREAMS, EPOCHS, HIDDEN = 20, 8, 40, 16


def lake(rng: np.random.Generator, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rain and outflow in mm a day, each (days, 1)."""
    rain = np.where(rng.random(days) < 0.3, rng.gamma(0.5, 2.0, days), 0)
    flow, storage = np.empty(days), 20.0
    for day in range(days):
        storage += rain[day]
        flow[day] = 0.0005 * storage**2
        storage -= flow[day]
    return rain[:, None], flow[:, None]


def as_streams(series: np.ndarray) -> np.ndarray:
    """Cut one series (days, 1) into parts that are trained side by side, (STREAMS, days', 1)."""
    return series.reshape(STREAMS, -1, 1)


def train(
    x: np.ndarray, y: np.ndarray, carry: bool, seed: int = 0
) -> tuple[fastlstm.LSTM, fastlstm.Linear]:
    """Train on x and y (streams, days, 1) chunk by chunk; return an LSTM and its Linear.

    `carry` says whether states are carried from chunk to chunk.
    """
    lstm = fastlstm.LSTM(1, HIDDEN, batch_first=True, seed=seed)
    linear = fastlstm.Linear(HIDDEN, 1, seed=seed)
    lstm.reset_parameters(seed, bias="unit_forget_gate")  # it helps to remember from the start
    model = fastlstm.Sequential(lstm, linear)  # for the optimiser: the parameters of both
    criterion = MSELoss()
    optimizer = Adam(model, lr=0.01)
    schedule = CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        states = None  # zeros
        for day in range(0, x.shape[1], CHUNK):
            chunk = slice(day, day + CHUNK)
            optimizer.zero_grad()
            (output, last), back = lstm.vjp(x[:, chunk], states)
            prediction, back_linear = linear.vjp(output)
            _, gradient = criterion(prediction, y[:, chunk])
            # dh_0 and dc_0 would go into the chunk before. To drop them is the truncation.
            _, (_dh_0, _dc_0) = back(back_linear(gradient))
            clip_grad_norm(model, 1.0)
            optimizer.step()
            states = last if carry else None
        schedule.step()
    return lstm, linear


def main(seed: int = 0) -> dict[str, float]:
    """Train with and without carried states, print and return the efficiency of both."""
    rng = np.random.default_rng(0)
    x, y = lake(rng, 16_000)
    x_test, y_test = lake(rng, 4_000)
    to_unit = Standardizer.fit(y)
    x, x_test = x.astype("float32"), x_test.astype("float32")
    y, y_test = (to_unit.transform(part).astype("float32") for part in (y, y_test))

    lstm, linear = train(as_streams(x), as_streams(y), True, seed)
    carried = nse(linear(lstm(x_test)[0]), y_test)
    lstm, linear = train(as_streams(x), as_streams(y), False, seed)
    chunks = x_test.reshape(-1, CHUNK, 1)
    cut = nse(linear(lstm(chunks)[0]).reshape(-1, 1), y_test)
    print(f"Efficiency on 4,000 unseen days, trained in chunks of {CHUNK} days:")
    print(f"states carried from chunk to chunk  {carried:.3f}")
    print(f"every chunk begun at zero           {cut:.3f}")
    return {"carried": carried, "cut": cut}


if __name__ == "__main__":
    main()
