"""fastlstm: LSTMs on CPUs without a deep-learning framework, with torch.nn.LSTM's shapes and names.

The map: `lstm` (LSTM, LSTMCell), `stream` (a live state), `packing` (ragged batches), `layers`
(what stands around an LSTM), `parameters` (named weights), `formats` (model files), `engines`
(who computes, the contract, and the numbered equations), `arrays` (what may be passed in).

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

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "Dropout",
    "Embedding",
    "LSTMCell",
    "Last",
    "Linear",
    "PackedSequence",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Stream",
    "Tanh",
    "engines",
    "load",
    "load_lstm",
    "load_state",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "save",
    "unpack_sequence",
]
