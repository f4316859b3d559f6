"""fastlstm: LSTMs on CPUs without a deep-learning framework, with torch.nn.LSTM's shapes and names.

The map: `layers` (LSTM, LSTMCell, the other layers, streams), `sequences` (ragged batches),
`training` (losses, optimisers, data, `fit`), `formats` (model files), `graphs` (whole networks of
ONNX and Keras files), `engines` (who computes, the contract, and the numbered equations), `arrays`
(what may be passed in).

One step of one layer in one direction, the gates i, f, g, o in torch's order::

    z = W_ih x + W_hh h + b
    i = sigmoid(z_i); f = sigmoid(z_f); g = tanh(z_g); o = sigmoid(z_o)
    c = f * c + i * g
    h = o * tanh(c)
"""

from typing import TYPE_CHECKING

from . import engines, training
from .engines import engine_info, get_include
from .formats import load, load_lstm, load_notes, load_state, save
from .graphs import GraphModel, GraphStream
from .layers import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    ModelStream,
    Pool,
    PoolFull,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Stream,
    Tanh,
)
from .sequences import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
)
from .training import fit, fit_many, predict, run

__version__ = "0.1.0"

__all__ = [
    "Concat",
    "Dropout",
    "Embedding",
    "GraphModel",
    "GraphStream",
    "LSTM",
    "LSTMCell",
    "Last",
    "Layer",
    "Linear",
    "ModelStream",
    "PackedSequence",
    "Pool",
    "PoolFull",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Stream",
    "Tanh",
    "engine_info",
    "engines",
    "fit",
    "fit_many",
    "get_include",
    "load",
    "load_lstm",
    "load_notes",
    "load_state",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "predict",
    "run",
    "save",
    "training",
    "unpack_sequence",
]


if TYPE_CHECKING:  # both are loaded when they are first used
    from . import plot as plot
    from . import visualize as visualize
else:  # a type checker is to refuse names that are not there

    def __getattr__(name: str) -> object:
        """Load `plot` or `visualize`; or say where to find a name of `fastlstm.training`."""
        if name in ("plot", "visualize"):
            from importlib import import_module

            return import_module(f"fastlstm.{name}")
        if name in training.__all__:
            raise AttributeError(f"fastlstm has no {name!r}: it is fastlstm.training.{name}")
        raise AttributeError(f"module 'fastlstm' has no attribute {name!r}")
