"""Which options of the recurrence, and which sums and joins, the arrays of a model do not tell.

The names of arrays tell peepholes, layer normalisation and learned initial states, and those of
peepholes tell which gate is coupled. A file of arrays alone does not hold the other options.
"""

from __future__ import annotations

import re

from ..checks import listed, short
from ..layers import LSTM, Concat, Layer, LSTMCell, Residual
from ..layers.options import DEFAULTS, options_text

_TOLD = {"peephole", "layer_norm", "learn_initial_state"}
_CHANGEABLE = {"recurrent_dropout", "zoneout", "input_dropout"}
_UNTOLD = tuple(name for name in DEFAULTS if name not in _TOLD)

CELL = frozenset(_UNTOLD) - _CHANGEABLE
"""The untold options that a trained layer cannot do without, by the names of its arguments."""

_IN_TEXT = re.compile(
    rf"\b(?:{'|'.join(n for n in _UNTOLD if n != 'coupled')})=(?:\([^()]*\)|[^\s,()]+)"
)


def in_model(model: Layer) -> str:
    """Return what a model computes and its arrays do not tell, in words for people.

    That is options of its layers, and the sums and joins around them. What has no parameters is not
    named: whoever reads a file of arrays has to know what stands between them.

    Examples
    --------
    >>> in_model(fastlstm.Sequential({"rnn": fastlstm.LSTM(3, 4, gate_clip=2.0)}))
    "gate_clip=2.0 of 'rnn'"
    >>> in_model(fastlstm.LSTM(3, 4, peephole=True, coupled="f=1-i"))
    ''
    >>> in_model(fastlstm.Residual(fastlstm.LSTM(3, 3)))
    'the sum of the Residual'
    """
    words = []
    for prefix, layer in model.named_layers():
        owner = short(prefix[:-1]) if prefix else f"the {type(layer).__name__}"
        if isinstance(layer, (Residual, Concat)):
            if layer.state_dict():
                words.append(f"the {'sum' if isinstance(layer, Residual) else 'join'} of {owner}")
        elif isinstance(layer, (LSTM, LSTMCell)):
            names = [name for name in _UNTOLD if name != "coupled" or not layer.peephole]
            if text := options_text(layer, names):
                words.append(f"{text.removeprefix(', ')} of {owner}")
    return listed(words)


def in_text(text: str) -> str:
    """Return what a model's repr says of such options, each once, in words for people.

    A coupled gate is not among them: without peepholes, its arrays are refused.

    Examples
    --------
    >>> in_text("LSTM(3, 4, peephole=True, gate_activation=('elu', 2.0), zoneout=0.1)")
    "gate_activation=('elu', 2.0), zoneout=0.1"
    """
    return listed(short(found, "") for found in dict.fromkeys(_IN_TEXT.findall(text)))
