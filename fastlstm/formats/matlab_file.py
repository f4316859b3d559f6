"""MATLAB's .mat files of layers, read without MATLAB and without a library.

A file has variables. Those that are read are a struct of a layer's properties, an array or a cell
array of such structs, which is a chain, or the properties themselves as variables. An object of
MATLAB's, such as a network as it is, is known to MATLAB alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checks import listed, quoted, short
from . import mat5, mat73
from .format import ANY, Choice, Content
from .mat_values import Cell, Closed, Struct, is_empty, spelled
from .matlab_layers import LSTM_PROPERTIES, Chain, is_layer, layers_of
from .source import State

if TYPE_CHECKING:
    from .mat_values import Variable
    from .source import Source
    from .structure import Description

NAME = "MATLAB"
ORDERED = True

_PROPERTIES = (  # those that a file may have as variables
    *LSTM_PROPERTIES,
    *("Bias", "NumHiddenUnits", "OutputMode", "StateActivationFunction", "GateActivationFunction"),
    *("HiddenState", "CellState", "InputProjector", "OutputProjector", "Class", "Name"),
)
_NETWORKS = ("Layers", "layers")  # fields of a struct that is a network
_CONNECTIONS = ("Connections", "connections")
_HOW = (
    "save the properties of its layers as structs: docs/coming_from/matlab.md has the lines of "
    "MATLAB that do it"
)


def recognises(source: Source) -> bool:
    """Tell whether a file begins as MATLAB's do since version 5."""
    return mat5.recognises(source.head) or mat73.recognises(source.head)


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a layer or a chain of layers.

    Parameters
    ----------
    source : Source
    choice : Choice
        Its key is the name of a variable.

    Raises
    ------
    ValueError
        If the file is damaged, has no layers or several networks, or a layer that fastlstm has
        not.
    """
    reader = mat5 if mat5.recognises(source.head) else mat73
    found = reader.variables(source)
    value, others = _network(found, choice.key)
    structs = layers_of(value) or []
    chain = Chain(source.budget)
    chain.read(structs)
    _check_connections(chain.names, others)
    arrays = chain.state
    description: Description = {"layer": "Sequential", "children": chain.children}
    if isinstance(value, Struct) and len(chain.children) == 1:
        # A layer alone has no name before those of its arrays.
        name, description = next(iter(chain.children.items()))
        arrays = {local.removeprefix(f"{name}."): array for local, array in arrays.items()}
    state = State()
    state.update(arrays)
    return Content(state, description)


def _network(variables: dict[str, Variable], key: str | None) -> tuple[Any, Any]:
    """Return the value that is a network or a layer, and its connections or None."""
    if key is not None:
        if key not in variables:
            raise ValueError(f"no variable is called {short(key)}; there are {_listed(variables)}")
        value, connections = _opened(variables[key].read())
        if layers_of(value) is None:
            raise ValueError(f"variable {short(key)} is no layer and no list of layers: {_HOW}")
        return value, _connections(connections, variables)
    if set(LSTM_PROPERTIES) <= variables.keys():
        names = [name for name in _PROPERTIES if name in variables]
        return Struct((1, 1), [{name: variables[name].read() for name in names}]), None
    found = {}
    for name, variable in variables.items():
        if variable.kind in ("struct", "cell"):
            value, connections = _opened(variable.read())
            if layers_of(value) is not None:
                found[name] = value, connections
    if len(found) > 1:
        raise ValueError(f"it holds several networks, choose one with key=: {quoted(found)}")
    if not found:
        raise ValueError(
            f"it holds no layers as structs, but {_listed(variables) or 'nothing'}: {_HOW}"
        )
    value, connections = next(iter(found.values()))
    return value, _connections(connections, variables)


def _opened(value: Any) -> tuple[Any, Any]:
    """Return the layers of a struct that has them in a field, and its connections or None."""
    if not isinstance(value, Struct) or len(value.elements) != 1 or is_layer(value.elements[0]):
        return value, None
    fields = value.elements[0]
    name = next((name for name in _NETWORKS if name in fields), None)
    if name is None:
        return value, None
    return fields[name], next((fields[name] for name in _CONNECTIONS if name in fields), None)


def _connections(inside: Any, variables: dict[str, Variable]) -> Any:
    """Return the connections of a network: those inside, a variable beside it, or None."""
    if inside is not None:
        return inside
    return next((variables[name].read() for name in _CONNECTIONS if name in variables), None)


def _listed(variables: dict[str, Variable]) -> str:
    return listed(f"{short(name)} ({v.kind[:50] or 'no array'})" for name, v in variables.items())


def _check_connections(names: list[str], connections: Any) -> None:
    """Raise unless connections, where the file has them, lead from each layer to the next."""
    if isinstance(connections, Closed):
        raise ValueError(
            f"its connections are {connections.what}, which is not opened: save them as "
            "connections = cellstr(net.Connections{:, :}), or leave them out if its layers follow "
            "one another"
        )
    if connections is None or is_empty(connections):
        return
    elements = connections.elements if isinstance(connections, Cell) else []
    count = len(elements) // 2
    ends = elements[:count], elements[count:]
    is_pairs = isinstance(connections, Cell) and connections.shape == (count, 2)
    if not is_pairs or not all(isinstance(end, str) for end in elements):
        raise ValueError(
            "its connections must be a cell array of two columns of names, got "
            f"{spelled(connections)}: save them as connections = cellstr(net.Connections{{:, :}})"
        )
    pairs = [tuple(end.split("/")[0] for end in pair) for pair in zip(*ends, strict=True)]
    if pairs != list(zip(names, names[1:], strict=False)):
        raise ValueError(
            "its layers are not a chain, its connections lead from layers to others than the next: "
            "save the layers of a chain, or one layer alone"
        )
