"""One long series, trained in short chunks: truncated backward through time.

A lake remembers the rain of hundreds of days. Its outflow over 16,000 days is learnt in chunks of
20. Each begins with the states that the one before ended in, so that the network can remember for
as long as it likes; but gradients stop at the edge of a chunk, so that an update takes the time and
memory of 20 steps, not of all. For comparison the same network is trained with every chunk begun at
zero: it cannot know what was more than 20 days ago.

    pip install .
    python examples/truncated.py

Reaches a Nash-Sutcliffe efficiency (1: perfect) of 0.99 on days that it has not seen, and 0.39
without the states, in a second or two.
"""

import numpy as np

import fastlstm
from fastlstm.training import Adam, CosineAnnealingLR, MSELoss, Standardizer, clip_grad_norm, nse

CHUNK, STREAMS, EPOCHS, HIDDEN = 20, 8, 40, 16


def lake(rng, days):
    """Return rain and outflow, each (days, 1) and in mm a day."""
    rain = np.where(rng.random(days) < 0.3, rng.gamma(0.5, 2.0, days), 0)
    flow, storage = np.empty(days), 20.0
    for day in range(days):
        storage += rain[day]
        flow[day] = 0.0005 * storage**2
        storage -= flow[day]
    return rain[:, None], flow[:, None]


def as_streams(series):
    """Cut one series (days, 1) into parts that are trained side by side, (STREAMS, days', 1)."""
    return series.reshape(STREAMS, -1, 1)


def train(x, y, carry, seed=0):
    """Train on x and y (streams, days, 1) chunk by chunk; return an LSTM and its Linear."""
    lstm = fastlstm.LSTM(1, HIDDEN, batch_first=True, seed=seed)
    linear = fastlstm.Linear(HIDDEN, 1, seed=seed)
    lstm.reset_parameters(seed, bias="unit_forget_gate")  # to remember is the easier at first
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
            # dh_0 and dc_0 are what the chunk before would go back with. Dropped: here is the cut.
            _, (_dh_0, _dc_0) = back(back_linear(gradient))
            clip_grad_norm(model, 1.0)
            optimizer.step()
            states = last if carry else None  # arrays, which know nothing of where they came from
        schedule.step()
    return lstm, linear


def main(seed=0):
    """Train with and without the states, print and return the efficiency of both."""
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
