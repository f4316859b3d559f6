"""Networks of Keras: which layer takes what, and the model that is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import quoted, short
from ..graphs import GraphModel, Port, State
from ..graphs import keras_functions as functions
from ..graphs.limits import Limits
from ..graphs.plan import Draft, Node
from ..layers import Layer, Sequential
from .keras_layers import NETWORKS, KerasLayer, walked
from .keras_steps import Making, Step, is_known, step_of, unknown

if TYPE_CHECKING:
    from ..graphs.plan import Compute
    from .budget import Budget
    from .format import Wish

_DEEPEST = 8  # lists inside each other, as arguments of operations have them

# Which layer gives a value, at which of its calls, and at which place of its results.
_Reference = tuple[str, int, int]


class _Call(NamedTuple):
    """One call of a layer: which one it is, what it takes, and a mask that is given to it.

    ``arguments`` are those of an operation, in which places stand for the inputs.
    """

    layer: KerasLayer
    number: int
    inputs: list[_Reference]
    mask: _Reference | None = None
    arguments: list[Any] | None = None


class _Wiring(NamedTuple):
    """How the layers of a network go together; calls stand in an order in which they can run."""

    inputs: list[KerasLayer]
    calls: list[_Call]
    outputs: list[tuple[str, _Reference]]


class _Value(NamedTuple):
    """A value in the plan, and the mask that goes with it, if there is one."""

    name: str
    mask: str = ""


class _Done(NamedTuple):
    """A step that has been put into the plan."""

    path: str
    step: Step
    inputs: list[_Value]
    outputs: list[_Value]
    is_plain: bool  # no mask is given to it by its caller


def build(network: KerasLayer, budget: Budget, size: int, wish: Wish) -> Layer:
    """Return the model of a network: a Sequential if fastlstm has its layers, or a GraphModel."""
    limits = Limits.for_file(size)
    dtype = wish.dtype or _precision(network)
    making = Making(dtype, wish.engine, limits, partial(_inside_a_layer, budget))
    builder = _Builder(network, making, budget)
    model = builder.sequential() or builder.graph()
    limits.most = wish.max_bytes
    return model


def _inside_a_layer(
    budget: Budget, network: KerasLayer, making: Making
) -> tuple[Compute, Mapping[str, Layer]]:
    """Return what computes a network of one input and output, and the layers in it."""
    builder = _Builder(network, making, budget)
    if len(builder.inputs) != 1 or len(builder.outputs) != 1 or builder.states:
        raise ValueError(f"{network} inside a layer has several inputs or outputs")
    plan = builder.draft.plan(builder.names, [builder.outputs[0].name])
    return partial(functions.planned, plan), {
        f"/{name}": layer for name, layer in builder.draft.layers.items()
    }


def _precision(network: KerasLayer) -> np.dtype[Any]:
    """Return float64 if any layer has it, and float32 otherwise."""
    layers = [part for _, layer in walked(network) for part in (layer, *layer.inside)]
    wide = any("float64" in layer.precision() for layer in layers if layer.kind != "InputLayer")
    return np.dtype(np.float64 if wide else np.float32)


class _Builder:
    """Puts the calls of a network's layers into a plan."""

    def __init__(self, network: KerasLayer, making: Making, budget: Budget) -> None:
        self.making, self.budget = making, budget
        self.draft = Draft(making.engine, making.limits, making.limits.most)
        self.steps: dict[int, Step] = {}  # by the identities of layers
        self.wirings: dict[int, _Wiring] = {}
        self.done: list[_Done] = []
        self.states: list[State] = []
        self.carried: list[tuple[str, str]] = []  # the names of final states, and of their values
        self.indices: set[str] = set()  # values that are taken as indices
        wiring = wiring_of(network)
        self.layers = wiring.inputs
        self.names = _unique([layer.name for layer in wiring.inputs])
        self.inputs = [_Value(name) for name in self.names]
        self.ports = _unique([name for name, _ in wiring.outputs])
        self.outputs = self._run(wiring, self.inputs, "")

    def _run(self, wiring: _Wiring, inputs: list[_Value], path: str) -> list[_Value]:
        """Add all calls of a network, and return its outputs."""
        if len(inputs) != len(wiring.inputs):
            raise ValueError(
                f"network {short(path[:-1])} takes {len(wiring.inputs)} inputs, got {len(inputs)}"
            )
        values: dict[_Reference, _Value] = {}
        for layer, value in zip(wiring.inputs, inputs, strict=True):
            values[layer.name, 0, 0] = value
        for call in wiring.calls:
            self.budget.spend("operators")
            given = [_found(values, reference, call) for reference in call.inputs]
            mask = None if call.mask is None else _found(values, call.mask, call)
            name = f"{path}{call.layer.name}"
            if not given:
                raise ValueError(f"{call.layer} is called on nothing")
            if call.layer.kind in NETWORKS:
                if mask is not None:
                    given[0] = given[0]._replace(mask=mask.name)
                if id(call.layer) not in self.wirings:
                    self.wirings[id(call.layer)] = wiring_of(call.layer)
                results = self._run(self.wirings[id(call.layer)], given, f"{name}/")
            else:
                results = self._add(call, name, given, mask)
            for place, value in enumerate(results):
                values[call.layer.name, call.number, place] = value
        return [_found(values, reference, None) for _, reference in wiring.outputs]

    def _add(
        self, call: _Call, path: str, inputs: list[_Value], mask: _Value | None
    ) -> list[_Value]:
        """Add one call of a layer, and return what it gives."""
        layer, is_plain = call.layer, mask is None
        again = id(layer) in self.steps
        if not again:
            self.steps[id(layer)] = step = step_of(layer, self.making)
            for end, own in step.layers.items():
                self.draft.layer(f"{path}{end}", own)
        step = self.steps[id(layer)]
        if step.takes_indices:
            self.indices |= {value.name for value in inputs}
        if mask is not None:
            inputs = [inputs[0]._replace(mask=mask.name), *inputs[1:]]
        number = len(self.done)
        if step.compute is None:
            outputs = inputs[:1]
        else:
            names = [value.name for value in inputs]
            compute: Compute = step.compute
            if step.options is not None:
                compute = partial(compute, call.arguments, step.options)
            if step.takes_mask and step.merges and len(inputs) > 1:
                names += [value.mask for value in inputs]
            elif step.takes_mask:
                # In Keras 3, a mask does not reach a layer that is given states too, unless its
                # caller gives it.
                hidden = layer.version > 2 and len(inputs) > 1 and mask is None
                names.insert(1, "" if hidden else inputs[0].mask)
            outputs = [_Value(f"{path} [{number}] {place}") for place in range(step.outputs)]
            given = [value.name for value in outputs]
            if step.states and len(inputs) == 1:
                if again:
                    raise ValueError(f"{layer} is stateful, and is called twice")
                names += self._stateful(layer, path, step, given)
            by = "fastlstm" if step.layers else "numpy"
            self.draft.add(Node(path, layer.kind, compute, tuple(names), tuple(given), by))
        outputs = self._masked(layer, path, step, inputs, outputs, number)
        self.done.append(_Done(path, step, inputs, outputs, is_plain))
        return outputs

    def _masked(
        self,
        layer: KerasLayer,
        path: str,
        step: Step,
        inputs: list[_Value],
        outputs: list[_Value],
        number: int,
    ) -> list[_Value]:
        """Return the outputs with their masks."""
        if step.mask == "stop":
            return [_Value(value.name) for value in outputs]
        if step.mask == "pass":
            mask = inputs[0].mask
        else:
            masks = [value.mask for value in inputs]
            if step.merges and not any(masks):
                return outputs
            mask = f"{path} [{number}] mask"
            names = [value.name for value in inputs] + masks * step.merges
            assert callable(step.mask)
            self.draft.add(Node(path, f"mask of {layer.kind}", step.mask, tuple(names), (mask,)))
        return [
            value._replace(mask=mask if place < step.masked else "")
            for place, value in enumerate(outputs)
        ]

    def _stateful(self, layer: KerasLayer, path: str, step: Step, outputs: list[str]) -> list[str]:
        """Add inputs and outputs for the states of a layer; return the names of the inputs."""
        names = []
        for place, size in enumerate(step.states):
            name = f"{path}/{'hc'[place % 2]}{place // 2 or ''}"
            port = Port(name, self.making.dtype, (None, size))
            self.states.append(State(port, f"{name}_n"))
            names.append(name)
            self.carried.append((f"{name}_n", outputs[step.outputs - len(step.states) + place]))
        return names

    def sequential(self) -> Sequential | None:
        """Return the model as a Sequential, if it is a chain of layers that fastlstm has."""
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            return None
        value = self.inputs[0]
        children: dict[str, Layer] = {}
        numbers: dict[str, int] = {}
        for done in self.done:
            chain = done.step.chain
            if chain is None or not done.is_plain or done.inputs != [value]:
                return None
            for end, layer in chain.items():
                children[_free(f"{done.path}{end}", children, numbers)] = layer
            value = done.outputs[0]
        if self.outputs != [value] or not children:
            return None
        try:
            return Sequential(children).eval()
        except (TypeError, ValueError) as fault:
            raise ValueError(f"its layers do not fit together: {fault}") from fault

    def graph(self) -> GraphModel:
        """Return the model as a GraphModel."""
        inputs = [
            Port(name, None if name in self.indices else self._dtype(layer), _shape(layer))
            for name, layer in zip(self.names, self.layers, strict=True)
        ]
        inputs += [state.input for state in self.states]
        outputs = [Port(name) for name in self.ports] + [Port(name) for name, _ in self.carried]
        names = [value.name for value in self.outputs] + [name for _, name in self.carried]
        plan = self.draft.plan([port.name for port in inputs], names)
        return GraphModel(plan, inputs, outputs, self.states, self.draft.layers, self.making.limits)

    def _dtype(self, layer: KerasLayer) -> np.dtype[Any] | None:
        """Return the precision of an input; None if it may be integers too."""
        dtype = layer.config.get("dtype", "float32")
        return self.making.dtype if "float" in str(dtype) else None


def _shape(layer: KerasLayer) -> tuple[int | None, ...] | None:
    """Return the shape of an input, as far as it is known; any batch will do."""
    for option in ("batch_shape", "batch_input_shape"):
        shape = layer.config.get(option)
        if isinstance(shape, list) and all(n is None or type(n) is int for n in shape):
            return (None, *shape[1:]) if shape else ()
    return None


def _found(
    values: Mapping[_Reference, _Value], reference: _Reference, call: _Call | None
) -> _Value:
    if reference not in values:
        who = "the network" if call is None else str(call.layer)
        raise ValueError(f"{who} takes {short(reference)}, which nothing gives")
    return values[reference]


def _unique(names: list[str]) -> list[str]:
    """Return names of which none is there twice."""
    given: dict[str, None] = {}
    numbers: dict[str, int] = {}
    for name in names:
        given[_free(name, given, numbers)] = None
    return list(given)


def _free(name: str, taken: Mapping[str, Any], numbers: dict[str, int]) -> str:
    """Return a name with a number behind it, if it is taken; `numbers` has the last ones."""
    free = name
    while free in taken:
        numbers[name] = numbers.get(name, 0) + 1
        free = f"{name}_{numbers[name]}"
    return free


# ---- how the layers of a network go together ----------------------------------------------------


def wiring_of(network: KerasLayer) -> _Wiring:
    """Return how the layers of a network go together; raise ValueError if that is not clear."""
    if network.kind == "Sequential":
        return _in_a_row(network)
    layers = {layer.name: layer for layer in network.inside}
    inputs = [_reference(one, network) for _, one in _ends(network, "input_layers")]
    outputs = [(name, _reference(one, network)) for name, one in _ends(network, "output_layers")]
    for name, _, _ in inputs:
        if name not in layers or layers[name].kind != "InputLayer":
            raise ValueError(f"{network}: input {short(name)} is no InputLayer")
    calls: dict[tuple[str, int], _Call] = {}
    for layer in network.inside:
        for call in _calls(layer):
            calls[layer.name, call.number] = call
    given = [layers[name] for name, _, _ in inputs]
    return _Wiring(given, _in_order(calls, {name for name, _, _ in inputs}), outputs)


def _in_a_row(network: KerasLayer) -> _Wiring:
    """Return the wiring of a Sequential."""
    layers = [layer for layer in network.inside if layer.kind != "InputLayer"]
    begin = [layer for layer in network.inside if layer.kind == "InputLayer"]
    if not layers:
        raise ValueError(f"{network} has no layers")
    if not begin:
        config = {"batch_input_shape": layers[0].config.get("batch_input_shape")}
        begin = [KerasLayer("InputLayer", "input", config, network.version)]
    calls, last = [], (begin[0].name, 0, 0)
    for layer in layers:
        calls.append(_Call(layer, 0, [last]))
        last = layer.name, 0, 0
    return _Wiring(begin[:1], calls, [(last[0], last)])


def _in_order(calls: Mapping[tuple[str, int], _Call], inputs: set[str]) -> list[_Call]:
    """Return calls in an order in which each finds what it takes."""
    needs: dict[tuple[str, int], set[tuple[str, int]]] = {}
    feeds: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for key, call in calls.items():
        taken = [*call.inputs, *([call.mask] if call.mask else [])]
        needs[key] = {(name, number) for name, number, _ in taken if name not in inputs}
        for source in needs[key]:
            feeds.setdefault(source, []).append(key)
    ready = [key for key in calls if not needs[key]]
    order = []
    while ready:
        key = ready.pop()
        order.append(calls[key])
        for other in feeds.get(key, []):
            needs[other].discard(key)
            if not needs[other]:
                ready.append(other)
    if len(order) < len(calls):
        left = [name for name, number in calls if needs[name, number]]
        raise ValueError(f"layers wait for each other, or for what is not there: {quoted(left)}")
    return order


def _ends(network: KerasLayer, option: str) -> list[tuple[str, Any]]:
    """Return the inputs or outputs of a network, each with its name."""
    ends = network.config.get(option)
    if isinstance(ends, dict):
        return [(str(name), one) for name, one in ends.items()]
    if isinstance(ends, list) and ends and isinstance(ends[0], str):
        ends = [ends]
    if not isinstance(ends, list) or not ends:
        raise ValueError(f"{network} has no {option}")
    return [(str(one[0]) if isinstance(one, list) and one else "", one) for one in ends]


def _reference(value: Any, owner: KerasLayer) -> _Reference:
    """Return what a file has as [name, call, place]."""
    if (
        isinstance(value, list)
        and len(value) >= 3
        and isinstance(value[0], str)
        and type(value[1]) is type(value[2]) is int
    ):
        return value[0].replace(".", "_"), value[1], value[2]
    raise ValueError(f"{owner} refers to {short(value)}, which is no value")


def _calls(layer: KerasLayer) -> Iterator[_Call]:
    """Yield the calls of a layer in a network."""
    if layer.kind == "InputLayer" or layer.calls is None:
        return
    if not isinstance(layer.calls, list):
        raise ValueError(f"{layer} is called on {short(layer.calls)}")
    # In Keras 2 a network that begins with an input has been called once already.
    begins = layer.kind in NETWORKS and any(one.kind == "InputLayer" for one in layer.inside[:1])
    first = int(layer.version == 2 and begins)
    for number, node in enumerate(layer.calls):
        arguments = None
        if isinstance(node, dict) and "args" in node:
            options = node.get("kwargs")
            if layer.kind.startswith("ops."):
                inputs: list[_Reference] = []
                arguments = _arguments(node["args"], inputs, layer)
            else:
                inputs = [*_tensors(node["args"], layer)]
        else:
            inputs, options = _of_keras2(node, layer)
        mask = None
        options = options if isinstance(options, dict) else {}
        for name, value in options.items():
            if name == "mask" and value is not None:
                found = [*_tensors(value, layer)]
                mask = found[0] if found else None
            elif name == "initial_state":
                inputs += _tensors(value, layer)
            elif name == "training" and not value or value is None:
                continue
            elif not is_known(layer):
                raise unknown(layer)
            else:
                raise ValueError(f"{layer} is called with {short(name)}, which is not known here")
        yield _Call(layer, number + first, inputs, mask, arguments)


def _arguments(value: Any, inputs: list[_Reference], layer: KerasLayer, level: int = 0) -> Any:
    """Return the arguments of an operation; values in them are added to `inputs`."""
    if isinstance(value, list) and level < _DEEPEST:
        return [_arguments(one, inputs, layer, level + 1) for one in value]
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, dict):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "__keras_tensor__":
            inputs += _tensors(value, layer)
            return functions.Place(len(inputs) - 1)
        if kind == "__ellipsis__":
            return ...
        if kind == "__slice__" and isinstance(config, dict):
            ends = [config.get(name) for name in ("start", "stop", "step")]
            if all(end is None or type(end) is int for end in ends):
                return slice(*ends)
    raise ValueError(f"{layer} is called on {short(value)}, which is not known here")


def _of_keras2(node: Any, layer: KerasLayer) -> tuple[list[_Reference], Any]:
    """Return the inputs and the options of a call as Keras 2 writes it."""
    if isinstance(node, dict):
        node = list(node.values())
    if not isinstance(node, list):
        raise ValueError(f"{layer} is called on {short(node)}")
    if node and isinstance(node[0], str):
        node = [node]
    inputs = [_reference(one, layer) for one in node]
    return inputs, node[0][3] if node and len(node[0]) > 3 else {}


def _tensors(value: Any, layer: KerasLayer) -> Iterator[_Reference]:
    """Yield the values that an argument of a call names, in their order."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list) and len(one) == 3 and isinstance(one[0], str):
            yield _reference(one, layer)
        elif isinstance(one, list):
            waiting += reversed(one)
        elif isinstance(one, dict) and one.get("class_name") == "__keras_tensor__":
            config = one.get("config")
            history = config.get("keras_history") if isinstance(config, dict) else None
            yield _reference(history, layer)
        elif isinstance(one, dict) and one.get("class_name") == "__tuple__":
            waiting.append(one.get("items"))
        elif one is not None:
            raise ValueError(f"{layer} is called on {short(one)}, which is not known here")
