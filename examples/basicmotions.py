"""Standing, walking, running or badminton? An LSTM tells it from the sensors of a watch.

The data are BasicMotions of the UEA archive, which the package sktime carries: acceleration and
rotation in three axes each, 100 steps in 10 s, four motions, 40 recordings to train and 40 to test.
Because 40 are few, the LSTM learns from all pieces of 5 s in them, and the class of a recording is
the one that its pieces give on average. sktime itself is not imported.

    pip install .
    pip install --no-deps sktime==1.2.0
    python examples/basicmotions.py

The LSTM gets 100 % of the test recordings right. The program takes a second.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

import fastlstm
from fastlstm.training import Adam, Arrays, Batches, CrossEntropyLoss, OneCycleLR, Standardizer

PIECE, STRIDE = 50, 5  # steps
EPOCHS, BATCH, HIDDEN = 20, 32, 32


def folder() -> Path:
    """Return the folder in which sktime keeps BasicMotions."""
    package = importlib.util.find_spec("sktime")
    if package is None:
        sys.exit(
            "basicmotions.py needs the package that carries the recordings: "
            "pip install --no-deps sktime==1.2.0"
        )
    return Path(package.submodule_search_locations[0], "datasets", "data", "BasicMotions")


def read_ts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the recordings (N, T, channels) and the N classes of a .ts file.

    Each line is a recording: its channels and then its class, separated by colons. The values of a
    channel are separated by commas.
    """
    lines = [s for s in path.read_text().splitlines() if s and s[0] not in "#@"]
    rows = [line.split(":") for line in lines]
    x = [[np.array(channel.split(","), "float32") for channel in row[:-1]] for row in rows]
    return np.array(x).swapaxes(1, 2), np.array([row[-1] for row in rows])


def pieces(x: np.ndarray) -> np.ndarray:
    """Return all pieces of recordings (N, T, channels), as (N, pieces, PIECE, channels)."""
    cut = np.lib.stride_tricks.sliding_window_view(x, PIECE, axis=1)[:, ::STRIDE]
    return cut.swapaxes(2, 3)


def main(seed: int = 0) -> dict[str, float]:
    """Train, print, and return the share of test recordings whose class is right."""
    (x, y), (x_test, y_test) = (
        read_ts(folder() / f"BasicMotions_{part}.ts") for part in ("TRAIN", "TEST")
    )
    motions = np.unique(y)
    standardizer = Standardizer.fit(list(x))
    x, x_test = (pieces(standardizer.transform(part)) for part in (x, x_test))

    model = fastlstm.Sequential(
        fastlstm.LSTM(x.shape[-1], HIDDEN, batch_first=True, seed=seed),
        fastlstm.Last(batch_first=True),
        fastlstm.Linear(HIDDEN, len(motions), seed=seed),
    )
    classes = np.repeat(np.searchsorted(motions, y), x.shape[1])  # of each piece
    train = Arrays(x.reshape(-1, *x.shape[2:]), classes)
    optimizer = Adam(model)
    steps = EPOCHS * len(Batches(train, BATCH))
    history = fastlstm.fit(
        model, train, CrossEntropyLoss(), optimizer, EPOCHS, BATCH,
        schedule=OneCycleLR(optimizer, max_lr=0.01, total_steps=steps),
        clip_norm=1.0, seed=seed,
    )  # fmt: skip
    logits = fastlstm.predict(model, x_test.reshape(-1, *x_test.shape[2:]))
    told = motions[logits.reshape(*x_test.shape[:2], -1).mean(axis=1).argmax(axis=1)]
    print(f"loss {history['loss'][-1]:.4f} after {EPOCHS} epochs, {sum(history['seconds']):.1f} s")
    for motion in motions:
        right = (told == motion)[y_test == motion]
        print(f"{motion:10} {right.sum():3} of {right.size} right")
    return {"accuracy": float((told == y_test).mean())}


if __name__ == "__main__":
    main()
