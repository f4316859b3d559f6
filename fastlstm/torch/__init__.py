"""A drop-in for `torch.nn.LSTM` that is faster on CPUs.

`LSTM` and `LSTMCell` are torch's own modules but for their work, which engine native does;
`accelerate` makes those of an existing model so, in place, and `restore` undoes it.
"""

from .modules import LSTM, LSTMCell
from .swap import accelerate, restore

__all__ = ["LSTM", "LSTMCell", "accelerate", "restore"]
