"""MATLAB's layers, as structs of their properties, and which layers of fastlstm compute them.

A struct has the properties of a layer object under their own names, and ``Class``, which is
``class(layer)``, where these do not tell what it is. MATLAB's features come first: what is C-by-N
there has rows of C features here.

Source: MathWorks' help on lstmLayer, bilstmLayer, lstmProjectedLayer, fullyConnectedLayer,
sequenceInputLayer; docs/coming_from/matlab.md says on which of it what rests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import quoted, short
from ..layers.layouts import as_torch
from .mat_values import Cell, Closed, Struct, is_empty, single, size_of, spelled

if TYPE_CHECKING:
    from ..arrays import Array
    from .budget import Budget
    from .structure import Description

LSTM_PROPERTIES = ("InputWeights", "RecurrentWeights")
_WITHOUT_CLASS = [  # fields by which a struct without a class is known
    ({"InputProjector", "OutputProjector"}, "lstmprojectedlayer"),
    (set(LSTM_PROPERTIES), "lstmlayer"),
    ({"Weights", "Bias"}, "fullyconnectedlayer"),
    ({"Probability"}, "dropoutlayer"),
    ({"Normalization"}, "sequenceinputlayer"),
]
_FUNCTIONS = {
    "relulayer": "ReLU",
    "tanhlayer": "Tanh",
    "sigmoidlayer": "Sigmoid",
    "softmaxlayer": "Softmax",
}
_OUTPUTS = ("regressionoutputlayer", "classificationoutputlayer")  # they compute losses alone
_STATES = {"tanh": "tanh", "softsign": "softsign", "relu": "relu"}
_GATES = {"sigmoid": "sigmoid", "hard-sigmoid": "hard_sigmoid"}


def is_layer(fields: Any) -> bool:
    """Tell whether the fields of a struct may be a layer's properties."""
    return isinstance(fields, dict) and bool(_kind(fields))


def layers_of(value: Any) -> list[dict[str, Any]] | None:
    """Return the layers in a value, each by its fields; None if it is none and no list of them."""
    if isinstance(value, Struct):
        structs = value.elements
    elif isinstance(value, Cell):
        alone = (isinstance(one, Struct) and len(one.elements) == 1 for one in value.elements)
        if not all(alone):
            return None
        structs = [one.elements[0] for one in value.elements]
    else:
        return None
    return structs if structs and all(map(is_layer, structs)) else None


def _kind(fields: Mapping[str, Any]) -> str:
    """Return the name of the function that makes a layer, in small letters; "" if not known."""
    for told in ("Class", "Function"):
        if isinstance(name := fields.get(told), str):
            return name.rpartition(".")[2].lower()
    return next((kind for names, kind in _WITHOUT_CLASS if names <= fields.keys()), "")


class Chain:
    """Layers of fastlstm one behind another, made from those of MATLAB, and their arrays.

    Parameters
    ----------
    budget : Budget
        Of the file: a normalisation takes more numbers here than in MATLAB.
    """

    def __init__(self, budget: Budget) -> None:
        self.children: dict[str, Description] = {}
        self.state: dict[str, Array] = {}
        self.names: list[str] = []  # of MATLAB's layers
        self._budget = budget
        self._is_double = False  # whether weights are
        self._features: int | None = None  # of an input layer

    def read(self, structs: list[dict[str, Any]]) -> None:
        """Add MATLAB's layers in their order.

        Raises
        ------
        ValueError
            If one is none that fastlstm has, or is damaged.
        """
        layers = [_Layer(fields, number) for number, fields in enumerate(structs, 1)]
        self.names = [layer.own_name for layer in layers]
        for layer, before in zip(layers[1:], layers, strict=False):
            if layer.kind == "sequenceinputlayer" or before.kind in _OUTPUTS:
                raise ValueError(
                    f"{layer} is behind {before}, which no chain has: a network of several inputs "
                    "or outputs is not read, but a chain of its layers, or one alone"
                )
        skipped = False
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            if skipped:
                skipped = False
                continue
            kind = layer.kind
            if kind in ("lstmlayer", "bilstmlayer"):
                self._lstm(layer, 1 + (kind == "bilstmlayer"))
            elif kind == "lstmprojectedlayer":
                skipped = self._projected(layer, after)
            elif kind == "fullyconnectedlayer":
                self._linear(layer)
            elif kind == "sequenceinputlayer":
                self._input(layer)
            elif kind == "dropoutlayer":
                self._add(layer.name, {"layer": "Dropout", "p": layer.fraction("Probability")})
            elif kind in _FUNCTIONS:
                self._add(layer.name, {"layer": _FUNCTIONS[kind]})
            elif kind not in _OUTPUTS:
                raise ValueError(
                    f"{layer} is a {short(layer.told)}, which fastlstm does not read; it reads "
                    "lstmLayer, bilstmLayer, lstmProjectedLayer, fullyConnectedLayer, "
                    "sequenceInputLayer, dropoutLayer, reluLayer, tanhLayer, sigmoidLayer and "
                    "softmaxLayer"
                )
        if not self.children:
            raise ValueError("its network has no layers that compute anything")
        self._check_inputs()
        dtype = np.dtype("f8" if self._is_double else "f4")
        self.state = {n: np.ascontiguousarray(a, dtype) for n, a in self.state.items()}
        for description in self.children.values():
            if "dtype" in description:
                description["dtype"] = dtype.name

    def _check_inputs(self) -> None:
        """Raise unless the first matrix takes what the input layer gives, where there is one."""
        sizes = ("input_size", "in_features")
        takes = (own[size] for own in self.children.values() for size in sizes if size in own)
        taken = next(takes, self._features)
        if self._features not in (None, taken):
            raise ValueError(
                f"its input layer gives {self._features} features, and the first matrix of weights "
                f"takes {taken}"
            )

    def _add(self, name: str, description: Description, **arrays: Array) -> None:
        own, number = name, 2
        while own in self.children:
            own, number = f"{name}_{number}", number + 1
        self.children[own] = description
        self.state |= {f"{own}.{local}": array for local, array in arrays.items()}

    def _lstm(self, layer: _Layer, directions: int) -> None:
        inputs, recurrent = (layer.matrix(name) for name in LSTM_PROPERTIES)
        layer.agrees("InputSize", inputs.shape[1])
        self._cells(layer, inputs, recurrent, directions, 0)
        if layer.word("OutputMode", "sequence", ("sequence", "last")) == "last":
            self._add(f"{layer.name}_last", {"layer": "Last"})

    def _cells(
        self, layer: _Layer, inputs: Array, recurrent: Array, directions: int, projection: int
    ) -> None:
        """Add an LSTM; `recurrent` has as many columns as its output, or as a projection has."""
        self._is_double |= inputs.dtype == np.float64 or recurrent.dtype == np.float64
        units = len(inputs) // (4 * directions)
        gives = projection or units
        rows = 4 * directions * units
        if not units or inputs.shape[0] != rows or recurrent.shape != (rows, gives):
            hint = (
                "; a GRU has 3 rows for each unit"
                if len(recurrent) == 3 * recurrent.shape[1]
                else ""
            )
            raise ValueError(
                f"{layer} has InputWeights of {size_of(inputs.shape)} and RecurrentWeights of "
                f"{size_of(recurrent.shape)}, which are none of "
                f"{'a bilstmLayer' if directions == 2 else 'an lstmLayer'}{hint}"
            )
        layer.agrees("NumHiddenUnits", units)
        if layer.flag("HasStateInputs"):
            raise ValueError(f"{layer} takes its states from other layers, HasStateInputs is true")
        bias = layer.vector("Bias", rows)
        state = _STATES[layer.word("StateActivationFunction", "tanh", tuple(_STATES))]
        gate = _GATES[layer.word("GateActivationFunction", "sigmoid", tuple(_GATES))]
        description: Description = {
            "layer": "LSTM",
            "input_size": inputs.shape[1],
            "hidden_size": units,
            "batch_first": None,
            "bidirectional": directions == 2,
            "dtype": "float32",
            "gate_activation": gate,
            "cell_activation": state,
            "output_activation": state,
        }
        if projection:
            description["proj_size"] = projection
            # The layout has no projection; its rows are those of a layer without one.
            arrays = {
                "weight_ih_l0": inputs,
                "weight_hh_l0": recurrent,
                "bias_ih_l0": bias,
                "bias_hh_l0": np.zeros_like(bias),
            }
        else:
            arrays = dict(as_torch(*_of_one_dtype(inputs, recurrent, bias), "matlab"))
        states = {"h_0": layer.state("HiddenState"), "c_0": layer.state("CellState")}
        if any(array is not None and array.any() for array in states.values()):
            description["learn_initial_state"] = True
            for name, given in states.items():
                width = gives if name == "h_0" else units
                array = np.zeros(directions * width, np.float32) if given is None else given
                if array.shape != (directions * width,):
                    raise ValueError(f"{layer} has states of another size than its units")
                for own, end in zip(np.split(array, directions), ("", "_reverse"), strict=False):
                    arrays[f"{name}_l0{end}"] = own
        self._add(layer.name, description, **arrays)

    def _projected(self, layer: _Layer, after: _Layer | None) -> bool:
        """Add an lstmProjectedLayer; tell whether the next layer was its projection."""
        inputs, recurrent = (layer.matrix(name) for name in LSTM_PROPERTIES)
        into, out = layer.matrix("InputProjector"), layer.matrix("OutputProjector")
        if into.shape[1] != inputs.shape[1] or out.shape[1] != recurrent.shape[1]:
            raise ValueError(
                f"{layer} has an InputProjector of {size_of(into.shape)} and an OutputProjector of "
                f"{size_of(out.shape)}, which do not fit its weights"
            )
        layer.agrees("InputSize", len(into))
        units = len(inputs) // 4
        if len(out) != units:
            raise ValueError(f"{layer} has an OutputProjector of {len(out)} rows for {units} units")
        if into.shape[0] != into.shape[1] or (into != np.eye(len(into))).any():
            self._dense(f"{layer.name}_in", into.T, None)
        is_last = layer.word("OutputMode", "sequence", ("sequence", "last")) == "last"
        # The output of torch's LSTM with a projection: a fullyConnectedLayer of the same matrix.
        projects = (
            after is not None
            and after.kind == "fullyconnectedlayer"
            and after.has("Weights")
            and np.array_equal(after.matrix("Weights"), out.T)
            and not after.vector("Bias", out.shape[1]).any()
            and out.shape[1] < units
            and not layer.has_state("HiddenState")
        )
        if projects:
            self._cells(layer, inputs, recurrent, 1, out.shape[1])
            self.state[f"{list(self.children)[-1]}.weight_hr_l0"] = out.T
        else:
            # The product may be far larger than its factors, so it is counted before it is made.
            self._budget.spend("inflated bytes", 8 * len(recurrent) * units)
            whole = recurrent.astype(np.float64) @ out.T.astype(np.float64)
            self._cells(layer, inputs, whole.astype(recurrent.dtype), 1, 0)
        if is_last:
            self._add(f"{layer.name}_last", {"layer": "Last"})
        return projects

    def _linear(self, layer: _Layer) -> None:
        weights = layer.matrix("Weights")
        layer.agrees("InputSize", weights.shape[1])
        layer.agrees("OutputSize", len(weights))
        self._is_double |= weights.dtype == np.float64
        self._dense(layer.name, weights, layer.vector("Bias", len(weights)))

    def _dense(self, name: str, weights: Array, bias: Array | None) -> None:
        sizes = {"in_features": weights.shape[1], "out_features": len(weights)}
        description = {"layer": "Linear", **sizes, "bias": bias is not None, "dtype": "float32"}
        arrays = {"weight": weights} | ({} if bias is None else {"bias": bias})
        self._add(name, description, **arrays)

    def _input(self, layer: _Layer) -> None:
        """Add what a sequenceInputLayer does to its input: two Linear layers, or nothing.

        The first one subtracts and the second one divides, so that no more is rounded than there.
        """
        size = layer.single("InputSize")
        if size is None or size < 1 or size % 1:
            got = spelled(layer.fields["InputSize"]) if layer.has("InputSize") else "nothing"
            raise ValueError(
                f"{layer}: InputSize must be one whole number, images as steps are not read; got "
                + (got if size is None else f"{size:g}")
            )
        features = self._features = int(size)
        known = ("none", "zerocenter", "zscore", "rescale-zero-one", "rescale-symmetric")
        kind = layer.word("Normalization", "none", known)
        if kind == "none":
            return
        self._budget.spend("inflated bytes", 2 * 8 * features * features)
        names = ("Mean", "StandardDeviation") if kind[0] == "z" else ("Min", "Max")
        low = layer.each("Mean" if kind == "zerocenter" else names[0], features)
        one = np.eye(features, dtype=low.dtype)
        self._dense(f"{layer.name}_center", one, -low)
        if kind == "zerocenter":
            return
        scale = layer.each(names[1], features)
        if kind != "zscore":
            scale = scale - low
        if not scale.all():
            raise ValueError(f"{layer} divides by 0: a feature was constant in training")
        times = 2 if kind == "rescale-symmetric" else 1
        bias = np.full(features, -1, low.dtype) if times == 2 else None
        self._dense(f"{layer.name}_scale", np.diag(times / scale), bias)


def _of_one_dtype(*arrays: Array) -> list[Array]:
    """Return arrays of floats in one precision, which is double if one of them is."""
    return [array.astype(np.result_type(*arrays)) for array in arrays]


class _Layer:
    """A layer of MATLAB as a file has it: checks of its properties."""

    def __init__(self, fields: dict[str, Any], number: int) -> None:
        self.fields = fields
        name = fields.get("Name")
        self.kind = _kind(fields)
        told = fields.get("Class")
        self.told = told if isinstance(told, str) else self.kind
        if self.kind == "lstmlayer" and not isinstance(told, str):
            self.kind = self._of_rows()
        self.own_name = name if isinstance(name, str) else ""
        self.name = re.sub(r"[.\0]", "_", self.own_name) or f"{self.kind.removesuffix('layer')}"
        self._number = number

    def __str__(self) -> str:
        named = f" ({short(self.own_name)})" if self.own_name else ""
        return f"layer {self._number}{named}"

    def _of_rows(self) -> str:
        """Tell one direction from both, by the rows of the matrices."""
        recurrent = self.fields.get("RecurrentWeights")
        if isinstance(recurrent, np.ndarray) and recurrent.ndim == 2:
            rows, columns = recurrent.shape
            return "bilstmlayer" if rows == 8 * columns else "lstmlayer"
        return "lstmlayer"

    def has(self, name: str) -> bool:
        """Tell whether a property is there and not empty."""
        return name in self.fields and not is_empty(self.fields[name])

    def has_state(self, name: str) -> bool:
        """Tell whether a state is there that is not zero."""
        found = self.state(name)
        return found is not None and bool(found.any())

    def _floats(self, name: str) -> Array:
        value = self.fields.get(name)
        if isinstance(value, Closed):
            hint = "; extractdata gives its numbers" if "dlarray" in value.what else ""
            raise ValueError(f"{self}: {name} is {value.what}, which is not opened{hint}")
        if value is None or is_empty(value):
            raise ValueError(f"{self} has no {name}: it may not have been trained")
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
            raise ValueError(f"{self}: {name} must be numbers, got {spelled(value)}")
        return value if value.dtype in (np.float32, np.float64) else value.astype(np.float64)

    def matrix(self, name: str) -> Array:
        """Return a property that is a matrix."""
        value = self._floats(name)
        if value.ndim != 2:
            raise ValueError(f"{self}: {name} must be a matrix, got {size_of(value.shape)}")
        return value

    def vector(self, name: str, size: int) -> Array:
        """Return a property that is a column, or a row, of so many numbers; zeros if empty."""
        if name in self.fields and is_empty(self.fields[name]):
            return np.zeros(size, np.float32)
        value = self._floats(name)
        if value.size != size or max(value.shape) != size:
            raise ValueError(f"{self}: {name} must have {size} numbers, got {size_of(value.shape)}")
        return value.reshape(-1)

    def state(self, name: str) -> Array | None:
        """Return a state with which each sequence begins; None if there is none."""
        if not self.has(name):
            return None
        value = self._floats(name)
        if value.ndim > 2 or min(value.shape) != 1:
            raise ValueError(
                f"{self}: {name} of {size_of(value.shape)} has the states of several sequences; "
                "save the network after resetState(net)"
            )
        return value.reshape(-1)

    def each(self, name: str, features: int) -> Array:
        """Return a property that is one number for each feature, or one for all."""
        value = self._floats(name).reshape(-1)
        if value.size not in (1, features):
            raise ValueError(
                f"{self}: {name} must have {features} numbers, got {value.size}: just "
                'NormalizationDimension="channel" and "all" are read'
            )
        return np.broadcast_to(value, (features,))

    def single(self, name: str) -> float | None:
        """Return a property that is one number; None if it is anything else."""
        return single(self.fields.get(name))

    def agrees(self, name: str, value: int) -> None:
        """Raise if a property is there and not this number."""
        if self.has(name) and isinstance(self.fields[name], np.ndarray):
            said = self.single(name)
            if said != value:
                shown = spelled(self.fields[name]) if said is None else f"{said:g}"
                raise ValueError(f"{self}: {name} is {shown}, but its arrays are of {value}")

    def fraction(self, name: str) -> float:
        """Return a property between 0 and 1."""
        value = self.single(name)
        if value is None or not 0 <= value <= 1:
            raise ValueError(f"{self}: {name} must be a number between 0 and 1")
        return value

    def flag(self, name: str) -> bool:
        """Return a property that is true or false."""
        return bool(self.single(name)) if self.has(name) else False

    def word(self, name: str, default: str, known: tuple[str, ...]) -> str:
        """Return a property that is one of these words."""
        value = self.fields.get(name, default)
        if isinstance(value, Closed):
            hint = " (write it in single quotes)" if "'string'" in value.what else ""
            raise ValueError(f"{self}: {name} is {value.what}, which is not opened{hint}")
        if not isinstance(value, str) or value not in known:
            shown = short(value) if isinstance(value, str) else spelled(value)
            raise ValueError(f"{self}: {name} is {shown}; known are {quoted(known)}")
        return value
