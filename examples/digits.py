"""Handwritten digits: an LSTM reads eight rows of eight pixels, one row at a time.

The data are the 1,797 digits of scikit-learn, four fifths to train and one fifth to test. The
output of the LSTM at the last row tells the digit.

    pip install . scikit-learn
    python examples/digits.py

The LSTM gets 98 to 99 % of the test digits right. The program takes seconds.
"""

import sys

import numpy as np

import fastlstm
from fastlstm.training import Adam, Batches, CrossEntropyLoss, OneCycleLR

EPOCHS, BATCH, HIDDEN = 20, 32, 64


def load() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (x, y) to train and (x, y) to test: x (N, 8, 8) from 0 to 1, y (N,) the digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("digits.py needs the digits of scikit-learn: pip install scikit-learn")
    pixels, y = load_digits(return_X_y=True)
    x = (pixels / 16).reshape(-1, 8, 8).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    train, test = np.split(order, [len(x) * 4 // 5])
    return (x[train], y[train]), (x[test], y[test])


def main(seed: int = 0) -> dict[str, float]:
    """Train, print, and return the share of test digits that are right."""
    train, (x_test, y_test) = load()
    model = fastlstm.Sequential(
        fastlstm.LSTM(8, HIDDEN, batch_first=True, seed=seed),
        fastlstm.Last(batch_first=True),
        fastlstm.Dropout(0.2, seed=seed),
        fastlstm.Linear(HIDDEN, 10, seed=seed),
    )
    optimizer = Adam(model)
    steps = EPOCHS * len(Batches(train, BATCH))
    schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    history = fastlstm.fit(
        model, train, CrossEntropyLoss(label_smoothing=0.1), optimizer, EPOCHS, BATCH,
        schedule=schedule, seed=seed,
    )  # fmt: skip
    read = fastlstm.predict(model, x_test).argmax(axis=1)
    accuracy = float((read == y_test).mean())
    print(f"loss {history['loss'][-1]:.4f} after {EPOCHS} epochs, {sum(history['seconds']):.1f} s")
    print(f"{accuracy:.1%} of {len(y_test)} test digits are right; the others:")
    wrong = read != y_test
    for is_, seen in zip(y_test[wrong], read[wrong], strict=True):
        print(f"  a {is_} read as {seen}")
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main()
