"""The layers: LSTM, and what stands around it in a model."""

from .activations import ReLU, Sigmoid, Softmax, Tanh
from .dropout import Dropout
from .embedding import Embedding
from .last import Last
from .layer import Layer
from .linear import Linear
from .lstm import LSTM
from .lstm_cell import LSTMCell
from .sequential import Sequential
from .stream import ModelStream, Stream

__all__ = [
    "Dropout",
    "Embedding",
    "LSTM",
    "LSTMCell",
    "Last",
    "Layer",
    "Linear",
    "ModelStream",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Stream",
    "Tanh",
]
