"""A many-to-one regression with fastlstm; with_torch.py is the same program in torch.

``python with_fastlstm.py {fit,loop}`` trains by `fastlstm.fit`, or by a loop of its own.
"""

import sys
import time

import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss

EPOCHS, BATCH, HIDDEN, LEARNING_RATE = 50, 50, 10, 0.01
begin = time.perf_counter()
rng = np.random.default_rng(0)
x = rng.random((1000, 10, 1), dtype=np.float32)
y = x.mean(axis=1)
x_train, x_test, y_train, y_test = x[:800], x[800:], y[:800], y[800:]

model = fastlstm.Sequential(
    fastlstm.LSTM(1, HIDDEN, batch_first=True),
    fastlstm.Last(batch_first=True),
    fastlstm.Linear(HIDDEN, 1),
)
model.load_state_dict(  # the other program draws the same weights
    {
        name: rng.uniform(-(HIDDEN**-0.5), HIDDEN**-0.5, value.shape)
        for name, value in model.state_dict().items()
    }
)
criterion = MSELoss()
optimizer = Adam(model, lr=LEARNING_RATE)


def report(epoch: int, train_loss: float, test_loss: float) -> None:
    """Print the losses of an epoch."""
    print(f"epoch {epoch}: train {train_loss:.6g}, test {test_loss:.6g}")


if sys.argv[1] == "fit":
    fastlstm.fit(
        model, (x_train, y_train), criterion, optimizer, EPOCHS, BATCH,
        validation=(x_test, y_test), shuffle=False, progress=False,
        callbacks=[
            lambda state: report(
                state.epoch, state.history["loss"][-1], state.history["validation_loss"][-1]
            )
        ],
    )  # fmt: skip
else:
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for k in range(0, len(x_train), BATCH):
            optimizer.zero_grad()
            prediction, pullback = model.vjp(x_train[k : k + BATCH])
            loss, gradient = criterion(prediction, y_train[k : k + BATCH])
            pullback(gradient)
            optimizer.step()
            total += loss * len(prediction)
        report(epoch, total / len(x_train), criterion(model(x_test), y_test)[0])
print(f"after imports: {time.perf_counter() - begin:.3f} s")
