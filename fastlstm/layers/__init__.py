"""The layers: LSTM, LSTMCell, and the other layers that models are made of."""

from .activations import ReLU, Sigmoid, Softmax, Tanh
from .branches import Concat, Residual
from .dropout import Dropout
from .embedding import Embedding
from .last import Last
from .layer import Layer
from .linear import Linear
from .lstm import LSTM
from .lstm_cell import LSTMCell
from .pool import Pool, PoolFull
from .sequential import Sequential
from .stream import ModelStream, Stream

__all__ = [
    "Concat",
    "Dropout",
    "Embedding",
    "LSTM",
    "LSTMCell",
    "Last",
    "Layer",
    "Linear",
    "ModelStream",
    "Pool",
    "PoolFull",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Stream",
    "Tanh",
]
