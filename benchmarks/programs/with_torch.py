"""A many-to-one regression in torch, as users write it; with_fastlstm.py is the same program.

``python with_torch.py {DataLoader,slices}`` says how batches are cut.
"""

import sys
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCH, HIDDEN, LEARNING_RATE = 50, 50, 10, 0.01
begin = time.perf_counter()
rng = np.random.default_rng(0)
x = rng.random((1000, 10, 1), dtype=np.float32)
y = x.mean(axis=1)
x_train, x_test, y_train, y_test = map(torch.from_numpy, (x[:800], x[800:], y[:800], y[800:]))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, 1)

    def forward(self, x):
        output, _ = self.lstm(x)
        return self.linear(output[:, -1])


model = Model()
with torch.no_grad():  # the other program draws the same weights
    for parameter in model.parameters():
        drawn = rng.uniform(-(HIDDEN**-0.5), HIDDEN**-0.5, parameter.shape)
        parameter.copy_(torch.from_numpy(drawn))
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

if sys.argv[1] == "DataLoader":
    batches = DataLoader(TensorDataset(x_train, y_train), batch_size=BATCH)
else:
    starts = range(0, len(x_train), BATCH)
    batches = [(x_train[k : k + BATCH], y_train[k : k + BATCH]) for k in starts]

for epoch in range(1, EPOCHS + 1):
    model.train()
    total = 0.0
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(inputs)
    model.eval()
    with torch.no_grad():
        test_loss = criterion(model(x_test), y_test).item()
    print(f"epoch {epoch}: train {total / len(x_train):.6g}, test {test_loss:.6g}")
print(f"after imports: {time.perf_counter() - begin:.3f} s")
