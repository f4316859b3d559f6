"""ONNX files, written: a model as a graph of ONNX's operators, which other programs run.

`onnx_layers` draws the graph. It holds the numbers of all parameters, exact to the bit. The
structure of the model stands in the metadata, as JSON; `told` takes it from there, so that a file
becomes the same model again.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..checks import check_size
from ..layers import Layer
from ..layers.parameters import undrawn
from . import structure
from .onnx_layers import Options, Parameter, draw, parameters_of, stateful

if TYPE_CHECKING:
    from ..arrays import Array
    from .structure import Description

_OLDEST = 14  # the first opset whose LSTM and Reshape are today's, but for further types
_MOST_BYTES = 2**31 - 1  # of a message of protobuf
_STRUCTURE, _OPTIONS = "fastlstm", "fastlstm_options"  # keys of the metadata


def write(
    file: IO[bytes],
    model: Layer,
    *,
    opset: int = _OLDEST,
    names: Mapping[str, str] | None = None,
    lengths: bool = False,
    states: bool = False,
) -> None:
    """Write a model as it computes in evaluation; `fastlstm.save` explains the options.

    Raises
    ------
    ValueError
        If an option of a layer is none that ONNX can express, if an argument is out of its range,
        or if the file would be too large. Nothing has been written then.
    TypeError
        If a layer is none of fastlstm's own.
    ImportError
        If the onnx package is missing.

    Warns
    -----
    UserWarning
        If the model has LSTMs in float64.
    """
    options = Options({} if names is None else names, lengths, states)
    proto, parameters = _file_of(model, opset, options)
    sizes = {name: math.prod(p.shape) * p.dtype.itemsize for name, p in parameters.items()}
    # Behind each array stand its size and the kind of field, in 16 bytes at most.
    if proto.ByteSize() + sum(sizes.values()) + 16 * len(sizes) > _MOST_BYTES:
        raise ValueError(
            f"its parameters have {sum(sizes.values())} bytes, and an ONNX file may have at most "
            f"{_MOST_BYTES}"
        )
    if model.dtype == np.float64 and stateful(model):
        warnings.warn(
            "onnxruntime has no LSTM in float64; model.astype('float32') can be run there",
            stacklevel=3,
        )
    for tensor in proto.graph.initializer:
        if parameter := parameters.get(tensor.name):
            array = parameter.array()
            tensor.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    file.write(proto.SerializeToString(deterministic=True))


def told(proto: Any, read: Callable[[Any], Array]) -> tuple[Description, dict[str, Array]] | None:
    """Return the structure of a model that `write` wrote, and its parameters by torch's names.

    The metadata are believed only if the model that they describe would be written as this very
    graph: other programs keep the metadata of graphs that they change.

    Parameters
    ----------
    proto : onnx.ModelProto
    read : callable
        Returns the array of a TensorProto.

    Returns
    -------
    (dict, dict of str -> ndarray), or None if it is not such a file
        The arrays are views, where the order of the numbers is the same in the file.
    """
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if _STRUCTURE not in metadata or len(proto.opset_import) != 1:
        return None
    initializers = {tensor.name: read(tensor) for tensor in proto.graph.initializer}
    try:
        description = structure.loads(metadata[_STRUCTURE])
        # One array of the file holds up to six of the model: P those of three gates and two
        # directions.
        with undrawn():
            model = structure.build(
                description, state=initializers, engine="numpy", most_arrays=6 * len(initializers)
            )
        options = Options(**json.loads(metadata.get(_OPTIONS, "")))
        anew, parameters = _file_of(model, proto.opset_import[0].version, options)
    except (ValueError, TypeError, RecursionError):
        return None
    if not _is_same(proto, anew, initializers, parameters):
        return None
    state = parameters_of(model, {name: initializers[name] for name in parameters})
    return None if state is None else (description, state)


def _is_same(
    proto: Any, anew: Any, arrays: Mapping[str, Array], parameters: Mapping[str, Parameter]
) -> bool:
    """Whether two files differ in nothing but the numbers of parameters."""
    graph, other = proto.graph, anew.graph
    for field in ("node", "input", "output"):
        if list(getattr(graph, field)) != list(getattr(other, field)):
            return False
    if graph.sparse_initializer or proto.functions or proto.opset_import[0].domain:
        return False
    mine, others = (
        [(t.name, t.data_type, list(t.dims)) for t in one.initializer] for one in (graph, other)
    )
    if sorted(mine) != sorted(others):
        return False
    constants = {t.name: t for t in other.initializer if t.name not in parameters}
    return all(arrays[name].tobytes() == t.raw_data for name, t in constants.items())


def _file_of(model: Layer, opset: int, options: Options) -> tuple[Any, dict[str, Parameter]]:
    """Return the file of a model without the numbers of its parameters, and these by their names.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `write`.
    """
    onnx = _library()
    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST <= check_size("opset", opset) <= newest:
        raise ValueError(
            f"opset must be {_OLDEST} to {newest}, which the installed onnx knows, got {opset}"
        )
    options.check()
    text = structure.dumps(model)  # which refuses a graph and a layer of one's own
    graph = draw(model, options)
    names = graph.named()
    helper = onnx.helper
    nodes = [
        helper.make_node(
            node.type,
            [names.get(name, name) for name in node.inputs],
            [names.get(name, name) for name in node.outputs],
            node.name,
            **node.attributes,
        )
        for node in graph.nodes
    ]
    ports = [
        [
            helper.make_tensor_value_info(
                names[value.name], helper.np_dtype_to_tensor_dtype(dtype), value.axes
            )
            for _, value, dtype in some
        ]
        for some in (graph.inputs, graph.outputs)
    ]
    tensors = [
        onnx.TensorProto(
            name=name, dims=shape, data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )
        for name, (shape, dtype, _) in graph.parameters.items()
    ]
    tensors += [onnx.numpy_helper.from_array(a, name) for name, a in graph.constants.items()]
    versions = [helper.make_opsetid("", opset)]
    proto = helper.make_model(
        helper.make_graph(nodes, type(model).__name__, *ports, initializer=tensors),
        opset_imports=versions,
        ir_version=helper.find_min_ir_version_for(versions),
        producer_name="fastlstm",
    )
    chosen = json.dumps({**options._asdict(), "names": dict(options.names)})
    helper.set_model_props(proto, {_STRUCTURE: text, _OPTIONS: chosen})
    return proto, graph.parameters


def _library() -> Any:
    try:
        import onnx
    except ImportError as fault:
        raise ImportError("ONNX files need the onnx package: pip install onnx") from fault
    return onnx
