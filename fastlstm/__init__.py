"""fastlstm: LSTMs on CPUs without a deep-learning framework, with torch.nn.LSTM's shapes and names.

The map: `lstm` (LSTM, LSTMCell), `stream` (a live state), `packing` (ragged batches), `layers`
(what stands around an LSTM), `parameters` (named weights), `training` (losses, optimisers, data,
`fit`), `formats` (model files), `engines` (who computes, the contract, and the numbered equations),
`arrays` (what may be passed in).

One step of one layer in one direction, the gates i, f, g, o in torch's order::

    z = W_ih x + W_hh h + b
    i = sigmoid(z_i); f = sigmoid(z_f); g = tanh(z_g); o = sigmoid(z_o)
    c = f * c + i * g
    h = o * tanh(c)
"""

from .engines import engines
from .formats import load, load_lstm, load_state, save
from .layers import Dropout, Embedding, Last, Linear, ReLU, Sequential, Sigmoid, Softmax, Tanh
from .lstm import LSTM, LSTMCell
from .packing import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
)
from .stream import Stream
from .training import (
    SGD,
    Adam,
    AdamW,
    Arrays,
    Batch,
    Batches,
    BCEWithLogitsLoss,
    Checkpoint,
    CosineAnnealingLR,
    CrossEntropyLoss,
    EarlyStopping,
    Forecaster,
    History,
    HuberLoss,
    L1Loss,
    LinearLR,
    MSELoss,
    NonFiniteError,
    NSELoss,
    OneCycleLR,
    QuantileLoss,
    ReduceLROnPlateau,
    RMSprop,
    Sequences,
    SequentialLR,
    Standardizer,
    State,
    StepLR,
    StopTraining,
    Windows,
    clip_grad_norm,
    clip_grad_value,
    fit,
    nse,
    predict,
    seasonal_naive,
    split_by_time,
    windows,
)

__version__ = "0.1.0"

__all__ = [
    "seasonal_naive",
    "Forecaster",
    "Adam",
    "AdamW",
    "Arrays",
    "BCEWithLogitsLoss",
    "Batch",
    "Batches",
    "Checkpoint",
    "CosineAnnealingLR",
    "CrossEntropyLoss",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "History",
    "HuberLoss",
    "L1Loss",
    "LSTM",
    "LSTMCell",
    "Last",
    "Linear",
    "LinearLR",
    "MSELoss",
    "NSELoss",
    "NonFiniteError",
    "OneCycleLR",
    "PackedSequence",
    "QuantileLoss",
    "RMSprop",
    "ReLU",
    "ReduceLROnPlateau",
    "SGD",
    "Sequences",
    "Sequential",
    "SequentialLR",
    "Sigmoid",
    "Softmax",
    "Standardizer",
    "State",
    "StepLR",
    "StopTraining",
    "Stream",
    "Tanh",
    "Windows",
    "clip_grad_norm",
    "clip_grad_value",
    "engines",
    "fit",
    "load",
    "load_lstm",
    "load_state",
    "nse",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "predict",
    "save",
    "split_by_time",
    "unpack_sequence",
    "windows",
]
