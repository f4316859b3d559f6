"""What fastlstm does not compute itself is computed by the onnx package's reference evaluator.

That computes in NumPy, and runs nothing that stands in a file. The sizes of its results are asked
for by onnx's own inference of shapes, before they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import short

if TYPE_CHECKING:
    from .limits import Limits
    from .plan import Compute, Operator, Value

_FEW = 16  # inputs of so few numbers may say how large a result is


def by_onnx(operator: Operator) -> Compute:
    """Return what computes an operator by onnx's own evaluator.

    Raises
    ------
    ValueError
        If that does not know it either.
    ImportError
        If onnx is missing.
    """
    domain = "" if operator.domain == "ai.onnx" else operator.domain
    try:
        import onnx
    except ImportError as fault:
        raise ImportError(f"operator {operator.type} needs onnx: pip install onnx") from fault
    from .plan import Body

    who = f"of {domain or 'ONNX'}, version {operator.version},"
    try:
        schema = onnx.defs.get_schema(operator.type, operator.version, domain)
    except onnx.defs.SchemaError:
        raise ValueError(f"the operator {who} is not known") from None
    if any(isinstance(value, Body) for value in operator.attributes.values()):
        raise ValueError(f"the operator {who} has a graph inside, and is not supported")
    if operator.type == "LSTM":
        raise ValueError("this form of it is not supported")  # the evaluator ignores its options
    if wrong := _wrong(operator):
        raise ValueError(wrong)
    try:
        return _ByOnnx(operator, domain, schema)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as fault:
        raise ValueError(f"the operator {who} is not supported: {_first_line(fault)}") from fault


def _wrong(operator: Operator) -> str:
    """Return why the evaluator would compute other values than an operator says, without a word.

    The forms were found by comparing it with onnxruntime.
    """
    given, kind = operator.attributes, operator.type
    after = given.get("post_transform", "NONE")
    is_border = given.get("mode") == "cubic" and given.get("padding_mode") == "border"
    is_one = len(given.get("intercepts", ())) < 2  # one score for two classes
    is_wrong, what = {
        "Attention": (given.get("softcap") and len(operator.outputs) > 3, "softcap in outputs"),
        "ConvTranspose": (_has_gaps(operator), "auto_pad, with strides larger than the kernel,"),
        "GridSample": (is_border, "cubic interpolation with the border as padding"),
        "LinearClassifier": (
            after == "PROBIT" or (is_one and after != "LOGISTIC"),
            f"post_transform {after!r:.20} of these classes",
        ),
        "LpPool": (given.get("ceil_mode"), "ceil_mode"),
        "Normalizer": (given.get("norm", "MAX") == "MAX", "the norm MAX"),
        "Resize": (_is_uneven(operator), "align_corners, with scales that are no whole numbers,"),
        "RoiAlign": (operator.version < 16, "it, in versions before 16,"),
        "SVMClassifier": (after not in ("NONE", "LOGISTIC"), f"post_transform {after!r:.20}"),
        "TreeEnsembleClassifier": (
            after == "PROBIT" or (after != "NONE" and len({*given.get("class_ids", ())}) < 2),
            f"post_transform {after!r:.20} of these classes",
        ),
    }.get(kind, (False, ""))
    return f"{what} is not supported" if is_wrong else ""


def _has_gaps(operator: Operator) -> bool:
    """Whether the kernel of a ConvTranspose may be smaller than its strides, with auto_pad."""
    given, weight = operator.attributes, operator.constant(1)
    if operator.type != "ConvTranspose" or not str(given.get("auto_pad")).startswith("SAME"):
        return False
    kernel = given.get("kernel_shape") or ([1] if weight is None else weight.shape[2:])
    return bool(min(kernel) < max(given.get("strides", (1,))))


def _is_uneven(operator: Operator) -> bool:
    """Whether a Resize may have scales that are no whole numbers, with align_corners."""
    if operator.attributes.get("coordinate_transformation_mode") != "align_corners":
        return False
    scales = operator.constant(2) if operator.has(2) else np.ones(1)
    return scales is None or not np.array_equal(scales, np.rint(scales))


class _ByOnnx:
    """One operator by onnx's evaluator, which is made anew from a pickle."""

    def __init__(self, operator: Operator, domain: str, schema: Any) -> None:
        import onnx

        # The evaluator takes the defaults of the newest version, whichever the file is for.
        newest = onnx.defs.get_schema(operator.type, domain).attributes
        attributes = {
            name: onnx.helper.get_attribute_value(attribute.default_value)
            for name, attribute in schema.attributes.items()
            if attribute.default_value.type
            and (name not in newest or attribute.default_value != newest[name].default_value)
        } | dict(operator.attributes)
        self._inputs = [f"x{n}" if name else "" for n, name in enumerate(operator.inputs)]
        self._outputs = [f"y{n}" for n in range(len(operator.outputs))]
        node = onnx.helper.make_node(operator.type, self._inputs, self._outputs, domain=domain)
        for name, value in attributes.items():
            if name not in schema.attributes:
                raise ValueError(f"it has no attribute {name!r}")
            if isinstance(value, np.ndarray):
                value = onnx.numpy_helper.from_array(value)
            kind = int(schema.attributes[name].type)
            node.attribute.append(onnx.helper.make_attribute(name, value, attr_type=kind))
        self._node = node.SerializeToString()
        self._domain, self._version = domain, operator.version
        self._function: bool = schema.has_function
        self._limits: Limits = operator.draft.limits
        self._start()

    def _start(self) -> None:
        from onnx import GraphProto, NodeProto
        from onnx.reference import ReferenceEvaluator

        self._parsed = NodeProto.FromString(self._node)
        self._asked: Any = None  # the last shapes and few numbers that were within the limits
        self._evaluator = ReferenceEvaluator(
            GraphProto(node=[self._parsed]), opsets={self._domain: self._version}
        )

    def __getstate__(self) -> dict[str, Any]:
        kept = "_inputs", "_outputs", "_node", "_domain", "_version", "_function", "_limits"
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __call__(self, *values: Value) -> Any:
        arrays = [np.asarray(x) if isinstance(x, np.generic) else x for x in values]
        feeds = {name: x for name, x in zip(self._inputs, arrays, strict=True) if name}
        self._ask(feeds)
        try:
            with np.errstate(all="ignore"):
                results = self._evaluator.run(self._outputs, feeds)
        except Exception as fault:  # whatever the evaluator raises, the operator cannot be computed
            raise ValueError(_first_line(fault)) from fault
        return results[0] if len(results) == 1 else tuple(results)

    def _ask(self, feeds: Mapping[str, Value]) -> None:
        """Ask the limits for the results, as far as their shapes are known beforehand."""
        if not all(isinstance(x, np.ndarray) for x in feeds.values()):
            return  # a list of arrays: what is made of these is as large as they are
        few = {name: x for name, x in feeds.items() if x.size <= _FEW}
        shapes = [(x.shape, x.dtype) for x in feeds.values()]
        letters = sum(_longest(x) for x in feeds.values() if x.dtype.kind == "O")
        question = shapes, [x.ravel().tolist() for x in few.values()], letters, self._limits.most
        if question == self._asked:
            return

        from onnx import helper, numpy_helper, shape_inference

        kinds = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in feeds.items()}
        graph = helper.make_graph(
            [self._parsed],
            "one",
            [
                helper.make_tensor_value_info(name, kinds[name], x.shape)
                for name, x in feeds.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in self._outputs],
            [numpy_helper.from_array(x, name) for name, x in few.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid(self._domain, self._version)]
        )
        strict = not self._function  # the bodies of functions are not always understood
        try:
            model = shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
        except Exception as fault:  # what onnx raises for an operator that is not as it should be
            raise ValueError(_first_line(fault)) from fault
        for output in model.graph.output:
            result = output.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(result.elem_type or 1)
            # A string is split into no more parts than it has letters, or joined with others.
            size = dtype.itemsize + 4 * letters * (dtype.kind == "O")
            shape = [
                axis.dim_value if axis.HasField("dim_value") else letters + 1
                for axis in result.shape.dim
            ]
            self._limits.allow(shape, size)
        self._asked = question


def _longest(strings: Value) -> int:
    """Return how many letters the longest string has."""
    return max(map(len, strings.flat), default=0)


def _first_line(fault: Exception) -> str:
    return f"{type(fault).__name__}: {short(str(fault).strip().splitlines()[0])}"
