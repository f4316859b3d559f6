"""RTNeural's JSON, in its form for Keras and its form for torch, and what AIDA-X adds to the first.

The form for Keras names the layers in their order, each with its type, shape, weights as Keras has
them, and perhaps an activation behind it. AIDA-X adds ``in_skip`` (1: the input is added to the
output), ``in_gain`` and ``out_gain`` in decibels, and metadata. The form for torch is a state dict
as nested lists.

Source: RTNeural's model_loader.h and torch_helpers.h, AIDA-X's aidadsp-plugin.cpp.
"""

from __future__ import annotations

import json
import re
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..checks import check_number, quoted, short
from ..layers import LSTM, Layer, Linear, ReLU, Residual, Sigmoid, Softmax, Tanh
from .format import Content
from .json_values import array, last_of_shape, member, nested, number
from .one_bias import Cell, cells, chain, described, parameters
from .source import State

if TYPE_CHECKING:
    from .structure import Description

NAME = "RTNeural"
SUFFIXES = (".json",)
STRUCTURED = True  # but for the form for torch, which is said to hold none

_ACTIVATIONS: dict[str, type[Layer]] = {
    "tanh": Tanh,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "softmax": Softmax,
}
_DENSE = ("dense", "time-distributed-dense")
_SILENT_GAIN = -90.0  # AIDA-X takes so many decibels and fewer for silence
_MOST_GAIN = 760.0  # decibels; more are a factor that float32 cannot hold


def read(tree: dict[str, Any]) -> Content:
    """Read a model in the form for Keras."""
    where = "the model"
    width = inputs = last_of_shape(tree, "in_shape", where)
    children: dict[str, Description] = {}
    state = State()
    for index, layer in enumerate(member(tree, "layers", where, list)):
        where = f"layer {index}"
        kind = member(layer, "type", where, str)
        activation = layer.get("activation") or ""
        if not isinstance(activation, str):
            raise ValueError(
                f"the activation of {where} must be a name, got {short(str(activation))}"
            )
        if kind == "lstm":
            width = _read_lstm(layer, where, width, f"lstm{index}", children, state)
            if activation not in ("", "tanh"):
                raise ValueError(
                    f"{where} is an LSTM with the activation {short(str(activation))}, which "
                    "RTNeural leaves out: it computes tanh"
                )
            continue
        if kind in _DENSE:
            width = _read_dense(layer, where, width, f"dense{index}", children, state)
        elif kind != "activation":
            raise ValueError(
                f"{where} is of type {short(kind)}, which fastlstm does not have; it has lstm, "
                "dense, time-distributed-dense and activation"
            )
        if activation:
            if activation not in _ACTIVATIONS:
                raise ValueError(
                    f"{where} has the activation {short(str(activation))}; known are "
                    f"{quoted(_ACTIVATIONS)}"
                )
            children[f"{activation}{index}"] = {"layer": _ACTIVATIONS[activation].__name__}
    if not children:
        raise ValueError("the model has no layers")
    skip = skipped(tree, "in_skip", "the model")
    gains = [_gain(tree, name) for name in ("in_gain", "out_gain")]
    amplifier = with_skip(children, state, inputs, width, skip)
    structure = _with_gains(amplifier, state, inputs, width, *gains)
    return Content(state, structure, notes=_notes(tree))


def _read_lstm(
    layer: Any, where: str, inputs: int, name: str, children: dict[str, Description], state: State
) -> int:
    """Add an LSTM to the layers of a model, and return its width."""
    hidden = last_of_shape(layer, "shape", where)
    weights = member(layer, "weights", where, list)
    if len(weights) != 3:
        raise ValueError(f"{where} is an LSTM and must have 3 arrays, got {len(weights)}")
    kernel = array(weights[0], f"the kernel of {where}", inputs, 4 * hidden)
    recurrent = array(weights[1], f"the recurrent kernel of {where}", hidden, 4 * hidden)
    bias = array(weights[2], f"the bias of {where}", 4 * hidden)
    children[name] = described(inputs, hidden)
    state |= parameters(f"{name}.", "_l0", Cell(kernel.T, recurrent.T, bias))
    return hidden


def _read_dense(
    layer: Any, where: str, inputs: int, name: str, children: dict[str, Description], state: State
) -> int:
    """Add a Linear to the layers of a model, and return its width."""
    width = last_of_shape(layer, "shape", where)
    weights = member(layer, "weights", where, list)
    if len(weights) != 2:
        raise ValueError(f"{where} is dense and must have 2 arrays, got {len(weights)}")
    kernel = array(weights[0], f"the kernel of {where}", inputs, width)
    children[name] = {"layer": "Linear", "in_features": inputs, "out_features": width}
    state[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
    state[f"{name}.bias"] = array(weights[1], f"the bias of {where}", width)
    return width


def _gain(tree: dict[str, Any], name: str) -> float:
    """Return a gain in decibels as a factor."""
    decibels = number(tree, name, "the model", 0.0)
    if decibels > _MOST_GAIN:
        raise ValueError(
            f"{name!r} of the model must be at most {_MOST_GAIN:g} decibels, got {decibels:g}"
        )
    return 10 ** (decibels / 20) if decibels > _SILENT_GAIN else 0.0


def _notes(tree: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says beside its layers."""
    known = {"in_shape", "layers", "in_skip", "in_gain", "out_gain"}
    return {name: value for name, value in tree.items() if name not in known}


# ---- what stands around the layers --------------------------------------------------------------


def skipped(tree: dict[str, Any], name: str, where: str) -> bool:
    """Tell whether an object says that the input is added to the output: 1 under this name."""
    skip = number(tree, name, where, 0)
    if skip not in (0, 1):
        raise ValueError(f"{name!r} of {where} must be 0 or 1, got {skip:g}")
    return skip == 1


def with_skip(
    children: dict[str, Description], state: State, inputs: int, outputs: int, skip: bool
) -> Description:
    """Return a chain of layers to whose output the first input is added, if `skip` says so.

    The arrays that this takes are added to the state, and those of the layers get the names that
    they have inside.
    """
    chain: Description = {"layer": "Sequential", "children": children}
    if not skip:
        return chain
    if outputs != 1:
        raise ValueError(f"the input is to be added to {outputs} outputs; one is known")
    if inputs == 1:
        _inside("layer.", state)
        return {"layer": "Residual", "children": {"layer": chain}}
    # The other inputs are the knobs of an amplifier. Products by one and zero are exact.
    dry = {"layer": "Linear", "in_features": inputs, "out_features": 1, "bias": False}
    both = {"layer": "Concat", "children": {"chain": chain, "dry": dry}}
    added = {"layer": "Linear", "in_features": 2, "out_features": 1, "bias": False}
    _inside("both.chain.", state)
    state["both.dry.weight"] = np.eye(1, inputs, dtype=np.float32)
    state["sum.weight"] = np.ones((1, 2), np.float32)
    return {"layer": "Sequential", "children": {"both": both, "sum": added}}


def _with_gains(
    chain: Description, state: State, inputs: int, outputs: int, in_gain: float, out_gain: float
) -> Description:
    """Return a model whose first input and whose outputs are multiplied by factors."""
    if in_gain == out_gain == 1:
        return chain
    parts: dict[str, Description] = {}
    _inside("amp.", state)
    if in_gain != 1:
        factors = np.eye(inputs, dtype=np.float32)
        factors[0, 0] = in_gain
        parts["in_gain"] = _square(inputs)
        state["in_gain.weight"] = factors
    parts["amp"] = chain
    if out_gain != 1:
        parts["out_gain"] = _square(outputs)
        state["out_gain.weight"] = np.float32(out_gain) * np.eye(outputs, dtype=np.float32)
    return {"layer": "Sequential", "children": parts}


def _square(width: int) -> Description:
    return {"layer": "Linear", "in_features": width, "out_features": width, "bias": False}


def _inside(prefix: str, state: State) -> None:
    """Put a prefix before the names of all arrays."""
    arrays = dict(state)
    state.clear()
    state |= {prefix + name: value for name, value in arrays.items()}


# ---- the form for torch -------------------------------------------------------------------------


def is_state_dict(tree: dict[str, Any]) -> bool:
    """Tell whether an object is a state dict as nested lists, or single numbers, by its names."""
    named = any(re.search(r"(^|[._])(weight|bias)(_|$)", name) for name in tree)
    return named and all(type(value) in (list, int, float) for value in tree.values())


def read_state_dict(tree: dict[str, Any]) -> Content:
    """Read a model in the form for torch."""
    state = State()
    for name, value in tree.items():
        if type(value) is not list:  # as num_batches_tracked of a BatchNorm
            state[name] = array([value], short(name), 1).reshape(())
            continue
        shape: list[int] = []
        inner: Any = value
        while type(inner) is list and len(shape) < 4:
            shape.append(len(inner))
            inner = inner[0] if inner else None
        state[name] = array(value, short(name), *shape)
    return Content(state, None)


# ---- writing ------------------------------------------------------------------------------------


def write(
    file: IO[bytes], model: Layer, form: str = "keras", sample_rate: float | None = None
) -> None:
    """Write a model for RTNeural.

    Parameters
    ----------
    file : binary file
    model : Layer
        A chain of LSTMs of one direction without options, Linear and activations; in the form for
        Keras also one of one input and one output inside a Residual, which gives it ``in_skip``:
        AIDA-X knows that, and RTNeural itself does not.
    form : {"keras", "torch"}
        Which of RTNeural's two forms. That for torch is the state dict, with no structure; of an
        LSTM in it RTNeural reads one layer.
    sample_rate : float, optional
        Of the signal in Hz, for AIDA-X. It stands in the form for Keras.

    Raises
    ------
    TypeError
        If RTNeural has no such layer.
    ValueError
        If it has not the option of a layer, a parameter is none of float32's numbers, or `form` is
        another.
    """
    if form not in ("keras", "torch"):
        raise ValueError(f"form must be 'keras' or 'torch', got {form!r}")
    tree = _in_keras_form(model) if form == "keras" else _in_torch_form(model)
    if sample_rate is not None:
        if form == "torch":
            raise ValueError("sample_rate stands in the form for Keras: a state dict has no place")
        tree["samplerate"] = check_number("sample_rate", sample_rate, above=0)
    file.write(json.dumps(tree).encode())


def _in_keras_form(model: Layer) -> dict[str, Any]:
    skip = type(model) is Residual and list(model.children) == ["layer"]
    layers: list[dict[str, Any]] = []
    inputs = width = 0
    for name, layer in chain(model.children["layer"] if skip else model):
        where = name or type(layer).__name__
        if isinstance(layer, LSTM):
            written = [_lstm_entry(cell, where) for cell in _cells(layer, where)]
            inputs = inputs or layer.input_size
        elif isinstance(layer, Linear):
            written = [_dense_entry(layer, where)]
            inputs = inputs or layer.in_features
        else:
            kind = next((kind for kind, of in _ACTIVATIONS.items() if type(layer) is of), None)
            if kind is None:
                raise TypeError(f"{where}: RTNeural has no {type(layer).__name__}")
            if isinstance(layer, Softmax) and layer.dim != -1:
                raise ValueError(f"{where}: RTNeural has Softmax over the features alone")
            if not width:
                raise ValueError(f"{where}: the first layer must tell how many inputs there are")
            written = [{"type": "activation", "activation": kind, "shape": _shape(width)}]
            written[0]["weights"] = []
        layers += written
        width = written[-1]["shape"][-1]
    tree: dict[str, Any] = {"in_shape": _shape(inputs), "layers": layers}
    if not layers:
        raise ValueError("the model has no layers that RTNeural has")
    if skip:
        if (inputs, width) != (1, 1):
            raise ValueError(f"a Residual of {inputs} inputs: AIDA-X adds one input to one output")
        tree["in_skip"] = 1
    return tree


def _in_torch_form(model: Layer) -> dict[str, Any]:
    for name, layer in chain(model):
        where = name or type(layer).__name__
        if isinstance(layer, LSTM):
            if len(_cells(layer, where)) > 1:
                raise ValueError(
                    f"{where}: RTNeural reads one layer of an LSTM in its form for torch, this has "
                    f"{layer.num_layers}; it has layers of their own in the form for Keras"
                )
        elif not isinstance(layer, (Linear, *_ACTIVATIONS.values())):
            raise TypeError(f"{where}: RTNeural has no {type(layer).__name__}")
    return {name: nested(values, short(name)) for name, values in model.state_dict().items()}


def _cells(lstm: LSTM, where: str) -> list[Cell]:
    if lstm.learn_initial_state:
        raise ValueError(f"{where}: RTNeural begins with zeros, it has no learned initial states")
    return cells(lstm, where, "RTNeural")


def _lstm_entry(cell: Cell, where: str) -> dict[str, Any]:
    weights = [nested(values, where) for values in (cell.w_ih.T, cell.w_hh.T, cell.bias)]
    shape = _shape(cell.w_hh.shape[1])
    return {"type": "lstm", "activation": "tanh", "shape": shape, "weights": weights}


def _dense_entry(layer: Linear, where: str) -> dict[str, Any]:
    weight = layer.weight
    bias = np.zeros(len(weight), weight.dtype) if layer.bias is None else layer.bias
    weights = [nested(weight.T, where), nested(bias, where)]
    shape = _shape(len(weight))
    return {"type": "dense", "activation": "", "shape": shape, "weights": weights}


def _shape(width: int) -> list[int | None]:
    return [None, None, width]
