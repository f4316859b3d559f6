"""MATLAB's .mat files, written: a cell array of structs, of which MATLAB makes the layers.

Each struct has the properties of a layer under MATLAB's names, as `matlab_layers` reads them, and
how it is made: ``Function`` is called with ``Sizes`` and with the names and values of the
properties in ``Options``. docs/coming_from/matlab.md has the lines that do it. The file is one of
version 5, without compression, which every MATLAB since 1999 and Octave open.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..layers import LSTM, Dropout, Last, Layer, Linear, ReLU, Sigmoid, Softmax, Tanh
from ..layers.options import options_text
from ..layers.sequential import flattened

if TYPE_CHECKING:
    from ..arrays import Array

NAME = "MATLAB"
SUFFIXES = (".mat",)
STRUCTURED = True

_TEXT = b"MATLAB 5.0 MAT-file, written by fastlstm"
_INT8, _INT32, _UINT32, _MATRIX, _UTF16 = 1, 5, 6, 14, 17
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = {"float64": (6, 9), "float32": (7, 7)}  # class of an array, kind of its element
_MOST_BYTES = 2**32 - 2**12  # a size has 32 bits
_LONGEST_NAME = 32  # of a field, with a zero behind it, as MATLAB 5 has it
_OPTIONS = ("peephole", "coupled", "gate_clip", "cell_clip", "proj_clip", "layer_norm", "zoneout")
_GATES = {"sigmoid": "sigmoid", "hard_sigmoid": "hard-sigmoid"}
_STATES = ("tanh", "softsign", "relu")
_FUNCTIONS: dict[type[Layer], tuple[str, str]] = {
    ReLU: ("reluLayer", "ReLULayer"),
    Tanh: ("tanhLayer", "TanhLayer"),
    Sigmoid: ("sigmoidLayer", "SigmoidLayer"),
    Softmax: ("softmaxLayer", "SoftmaxLayer"),
}
_Struct: TypeAlias = dict[str, Any]


def write(file: IO[bytes], model: Layer) -> None:
    """Write a chain of layers as MATLAB has them.

    Parameters
    ----------
    file : binary file
    model : Layer
        An LSTM, or a Sequential of LSTM, Last behind an LSTM, Linear, ReLU, Tanh, Sigmoid, Softmax
        over the features and Dropout. An LSTM of several layers becomes as many lstmLayers. One
        with a projection becomes an lstmProjectedLayer and a fullyConnectedLayer.

    Raises
    ------
    ValueError
        If MATLAB has not the option of a layer, or the file would have 4 GiB or more.
    TypeError
        If MATLAB has no such layer.
    """
    layers = list(_layers(model))
    taken: set[str] = set()
    for layer in layers:  # MATLAB wants other names for all
        own, number = layer["Name"], 2
        while layer["Name"] in taken:
            layer["Name"], number = f"{own}_{number}", number + 1
        taken.add(layer["Name"])
    if not layers:
        raise ValueError("the model has no layers that MATLAB has")
    variable = _matrix(_CELL, (len(layers), 1), "layers", [_value(layer) for layer in layers])
    if len(variable) > _MOST_BYTES:
        raise ValueError(f"a .mat file holds less than 4 GiB, the model needs {len(variable)}")
    file.write(_TEXT.ljust(124) + struct.pack("<H", 0x0100) + b"IM" + variable)


# ---- the layers ---------------------------------------------------------------------------------


def _layers(model: Layer) -> Iterator[_Struct]:
    """Yield MATLAB's layers of a model, the input layer first."""
    chain = list(flattened(model))
    # A Last belongs to the LSTM before it.
    lasts = {
        n - 1
        for n, (_, layer) in enumerate(chain)
        if isinstance(layer, Last) and n and isinstance(chain[n - 1][1], LSTM)
    }
    width = 0
    for n, (name, layer) in enumerate(chain):
        where = name or type(layer).__name__
        takes = layer.input_size if isinstance(layer, LSTM) else None
        takes = layer.in_features if isinstance(layer, Linear) else takes
        if not width:
            if not isinstance(layer, (LSTM, Linear, Dropout, Last, *_FUNCTIONS)):
                raise _no_such_layer(where, layer)
            if takes is None:
                raise ValueError(f"{where}: the first layer must tell how many inputs there are")
            width = takes
            yield _made(
                "sequenceInputLayer", "SequenceInputLayer", "input", [width], InputSize=width
            )
        if isinstance(layer, LSTM):
            yield from _lstm(layer, where, n in lasts)
        elif isinstance(layer, Linear):
            yield _linear(where, layer.weight, layer.bias)
        elif isinstance(layer, Dropout):
            p = float(layer.p)
            yield _made("dropoutLayer", "DropoutLayer", where, [p], Probability=p)
        elif isinstance(layer, Last):
            if n - 1 not in lasts:
                raise ValueError(f"{where}: MATLAB takes the last step right behind an LSTM alone")
        elif type(layer) in _FUNCTIONS:
            if isinstance(layer, Softmax) and layer.dim != -1:
                raise ValueError(f"{where}: MATLAB has Softmax over the features alone")
            yield _made(*_FUNCTIONS[type(layer)], where, [])
        else:
            raise _no_such_layer(where, layer)


def _no_such_layer(where: str, layer: Layer) -> TypeError:
    return TypeError(
        f"{where}: a .mat file holds LSTM, Last, Linear, ReLU, Tanh, Sigmoid, Softmax and Dropout "
        f"in a chain, no {type(layer).__name__}"
    )


def _linear(name: str, weight: Array, bias: Array | None) -> _Struct:
    column = np.zeros((len(weight), 1), weight.dtype) if bias is None else bias[:, None]
    own: _Struct = {"OutputSize": len(weight), "Weights": weight, "Bias": column}
    kind = "fullyConnectedLayer", "FullyConnectedLayer"
    return _made(*kind, name, [len(weight)], ("Weights", "Bias"), **own)


def _lstm(lstm: LSTM, name: str, is_last: bool) -> Iterator[_Struct]:
    """Yield the layers of an LSTM, with Dropout between them; the last one may give one step."""
    activations = _activations(lstm, name)
    arrays = lstm.state_dict()
    ends = ("", "_reverse")[: 1 + lstm.bidirectional]
    for index in range(lstm.num_layers):
        own = name if lstm.num_layers == 1 else f"{name}_{index + 1}"
        is_final = index == lstm.num_layers - 1

        def both(kind: str, index: int = index) -> Array:
            return np.concatenate([arrays[f"{kind}_l{index}{end}"] for end in ends])

        inputs = both("weight_ih")
        units = len(inputs) // (4 * len(ends))
        bias = np.zeros(len(inputs), inputs.dtype)
        if lstm.bias:
            bias = both("bias_ih") + both("bias_hh")
        mode = "last" if is_last and is_final else "sequence"
        weights = {
            "InputWeights": inputs,
            "RecurrentWeights": both("weight_hh"),
            "Bias": bias[:, None],
        }
        told: _Struct = {"NumHiddenUnits": units, "OutputMode": mode, **activations, **weights}
        sizes: list[float] = [units]
        kind = ("lstmLayer", "LSTMLayer") if len(ends) == 1 else ("bilstmLayer", "BiLSTMLayer")
        projection = arrays.get(f"weight_hr_l{index}")
        if projection is not None:
            kind = "lstmProjectedLayer", "LSTMProjectedLayer"
            sizes += [lstm.proj_size, inputs.shape[1]]
            told["InputProjector"] = np.eye(inputs.shape[1], dtype=inputs.dtype)
            told["OutputProjector"] = projection.T
        if lstm.learn_initial_state:
            told |= {"HiddenState": both("h_0")[:, None], "CellState": both("c_0")[:, None]}
        options = tuple(key for key in told if key != "NumHiddenUnits")
        yield _made(*kind, own, sizes, options, **told)
        if projection is not None:
            yield _linear(f"{own}_projection", projection, None)
        if lstm.dropout and not is_final:
            p = float(lstm.dropout)
            yield _made("dropoutLayer", "DropoutLayer", f"{own}_dropout", [p], Probability=p)


def _activations(lstm: LSTM, name: str) -> dict[str, str]:
    """Return MATLAB's functions of an LSTM; raise ValueError if it has other options too."""
    told = options_text(lstm, _OPTIONS)
    if lstm.reverse:
        told += ", reverse=True"
    if lstm.proj_size and lstm.bidirectional:
        told += f", proj_size={lstm.proj_size} and bidirectional=True together"
    if lstm.proj_size and lstm.learn_initial_state:
        told += f", proj_size={lstm.proj_size} and learn_initial_state=True together"
    if told:
        raise ValueError(f"{name}: MATLAB has no LSTM with {told[2:]}")
    gate, cell, output = (getattr(lstm, f"{of}_activation") for of in ("gate", "cell", "output"))
    if gate not in _GATES:
        raise ValueError(f"{name}: MATLAB's gates are sigmoid or hard_sigmoid, got {gate!r}")
    if cell != output or cell not in _STATES:
        raise ValueError(
            f"{name}: MATLAB has one function for the candidate and the output, of tanh, softsign "
            f"and relu, got cell_activation={cell!r} and output_activation={output!r}"
        )
    return {"StateActivationFunction": cell, "GateActivationFunction": _GATES[gate]}


def _made(
    function: str,
    kind: str,
    name: str,
    sizes: list[float],
    options: tuple[str, ...] = (),
    **properties: Any,
) -> _Struct:
    """Return the struct of a layer: what it is, how it is made, and its properties."""
    return {
        "Class": f"nnet.cnn.layer.{kind}",
        "Function": function,
        "Sizes": [float(size) for size in sizes],
        "Options": ["Name", *options],
        "Name": re.sub(r"\W", "_", name),
        **properties,
    }


# ---- the file -----------------------------------------------------------------------------------


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def _matrix(kind: int, shape: tuple[int, ...], name: str, parts: list[bytes]) -> bytes:
    """Return an array of a class, of what stands behind its flags, sizes and name."""
    head = [
        _element(_UINT32, struct.pack("<2I", kind, 0)),
        _element(_INT32, struct.pack(f"<{len(shape)}i", *shape)),
        _element(_INT8, name.encode()),
    ]
    size = sum(map(len, head)) + sum(map(len, parts))
    return b"".join([struct.pack("<2I", _MATRIX, size), *head, *parts])


def _value(value: Any) -> bytes:
    """Return a struct, a cell array as a row, a text or numbers."""
    if isinstance(value, dict):
        names = b"".join(name.encode().ljust(_LONGEST_NAME, b"\0") for name in value)
        # The length of names stands in its tag: other readers want it so.
        length = struct.pack("<2HI", _INT32, 4, _LONGEST_NAME)
        parts = [length, _element(_INT8, names), *map(_value, value.values())]
        return _matrix(_STRUCT, (1, 1), "", parts)
    if isinstance(value, list):
        return _matrix(_CELL, (1, len(value)), "", [_value(one) for one in value])
    if isinstance(value, str):
        data = value.encode("utf-16-le")
        return _matrix(_CHAR, (1, len(data) // 2), "", [_element(_UTF16, data)])
    array = np.atleast_2d(np.asarray(value, None if isinstance(value, np.ndarray) else "f8"))
    kind, stored = _NUMBERS[array.dtype.name]
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes("F")
    if math.prod(array.shape) > 2**31 - 1:
        raise ValueError(f"a .mat file holds arrays of less than 2^31 numbers, got {array.shape}")
    return _matrix(kind, array.shape, "", [_element(stored, data)])
