"""One long series, trained in short chunks: truncated backpropagation through time.

The outflow of a lake depends on the rain of hundreds of days. It is learnt over 16,000 days in
chunks of 20. Each chunk begins with the states at the end of the chunk before, so that the network
can remember for any time. Gradients stop at the beginning of a chunk, so that an update takes the
time and memory of 20 steps, not of all. For comparison, the same network is trained with states of
zero at the beginning of each chunk: it cannot know what was more than 20 days ago.

    pip install .
    python examples/truncated.py

On days that the network has not seen, the root mean squared error is 0.006 to 0.009 mm a day, and
0.08 without the states; the Nash-Sutcliffe efficiency (1: perfect) is 0.99 and 0.39. The program
takes a second or two.
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
    """Train with and without carried states, print and return the efficiency of both.

    Their errors in mm a day are returned, too.
    """
    rng = np.random.default_rng(0)
    x, y = lake(rng, 16_000)
    x_test, y_test = lake(rng, 4_000)
    to_unit = Standardizer.fit(y)
    x, x_test = x.astype("float32"), x_test.astype("float32")
    y = to_unit.transform(y).astype("float32")

    lstm, linear = train(as_streams(x), as_streams(y), True, seed)
    carried = linear(lstm(x_test)[0])
    lstm, linear = train(as_streams(x), as_streams(y), False, seed)
    cut = linear(lstm(x_test.reshape(-1, CHUNK, 1))[0]).reshape(-1, 1)
    mean = np.zeros_like(y_test)
    told = {"carried": carried, "cut": cut, "mean": mean}
    flows = {way: to_unit.inverse(values) for way, values in told.items()}  # in mm a day
    figures = {way: nse(flow, y_test) for way, flow in flows.items()}
    names = "states carried from chunk to chunk", "every chunk begun at zero", "the mean flow"
    print(f"On 4,000 unseen days, trained in chunks of {CHUNK} days:")
    for name, (way, flow) in zip(names, flows.items(), strict=True):
        figures[f"{way} error"] = error = float(np.sqrt(np.mean((flow - y_test) ** 2)))
        print(f"{name:34}  error {error:.4f} mm a day, efficiency {figures[way]:6.3f}")
    return figures


if __name__ == "__main__":
    main()
