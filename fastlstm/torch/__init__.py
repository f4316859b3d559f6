"""A drop-in for `torch.nn.LSTM` that is faster on CPUs, for those who stay with torch.

`LSTM` and `LSTMCell` are torch's own modules but for their work, which engine native does, forward
and backward, by operators that torch knows. `accelerate` makes the LSTMs of an existing model so,
in place, and `restore` undoes it. Nothing else in fastlstm imports torch.
"""

try:
    import torch  # noqa: F401 (asked for here, to say what is missing)
except ModuleNotFoundError as fault:
    raise ImportError("fastlstm.torch needs torch, which is missing: pip install torch") from fault

from .modules import LSTM, LSTMCell
from .swap import accelerate, restore

__all__ = ["LSTM", "LSTMCell", "accelerate", "restore"]
