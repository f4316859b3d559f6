"""The tables of TFLite files: which field has which number, as far as fastlstm reads them.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs in TensorFlow, version "3c" of the schema.
The kinds of numbers are those of the module struct. Fields that are not named are not read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

IDENTIFIER = b"TFL3"  # bytes 4 to 8 of a file
VERSION = 3


class MODEL:
    """The fields of a Model."""

    VERSION, OPERATOR_CODES, SUBGRAPHS, DESCRIPTION, BUFFERS, METADATA, SIGNATURES = *range(5), 6, 7


class CODE:
    """The fields of an OperatorCode: which operator it is; files before 2020 have the old field."""

    OLD_BUILTIN, CUSTOM, VERSION, BUILTIN = range(4)


class SUBGRAPH:
    """The fields of a SubGraph."""

    TENSORS, INPUTS, OUTPUTS, OPERATORS, NAME = range(5)


class TENSOR:
    """The fields of a Tensor. A signature is a shape with -1 for sizes that are open."""

    SHAPE, TYPE, BUFFER, NAME, QUANTIZATION, IS_VARIABLE, SPARSITY, SIGNATURE, HAS_RANK = range(9)


class QUANTIZATION:
    """The fields of QuantizationParameters."""

    SCALE, ZERO_POINT, AXIS = 2, 3, 6


class BUFFER:
    """The fields of a Buffer. Large files have numbers behind the tables, from an offset on."""

    DATA, OFFSET, SIZE = range(3)


class OPERATOR:
    """The fields of an Operator."""

    CODE, INPUTS, OUTPUTS, OPTIONS_TYPE, OPTIONS = range(5)


class SIGNATURE:
    """The fields of a SignatureDef: names for inputs and outputs of a subgraph."""

    INPUTS, OUTPUTS, KEY, SUBGRAPH = 0, 1, 2, 4


class NAMED:
    """The fields of a TensorMap: a name in a signature, and the tensor that it stands for."""

    NAME, TENSOR = range(2)


class METADATA:
    """The fields of a Metadata."""

    NAME, BUFFER = range(2)


# TensorType. Numbers of the types behind the last one are not read.
TYPES = (
    *("float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64"),
    *("int8", "float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16"),
    *("int4", "bfloat16", "int2", "uint4", "float8_e4m3fn", "float8_e5m2"),
)

# ActivationFunctionType.
ACTIVATIONS = "none", "relu", "relu_n1_to_1", "relu6", "tanh", "sign_bit"


class Options(NamedTuple):
    """The options of an operator: their number in the union BuiltinOptions, and their fields.

    Each field has a name, and its number and kind; also its default, if that is not 0. The kind
    "[i" is a vector of int32.
    """

    type: int
    fields: dict[str, tuple[Any, ...]]


_WINDOWS = {"padding": (0, "b"), "stride_w": (1, "i"), "stride_h": (2, "i")}
_POOL = Options(5, {**_WINDOWS, "width": (3, "i"), "height": (4, "i"), "activation": (5, "b")})
_REDUCER = Options(27, {"keep_dims": (0, "?")})
_LSTM = {"activation": (0, "b"), "cell_clip": (1, "f"), "proj_clip": (2, "f")}

OPTIONS: dict[str, Options] = {
    "ADD": Options(11, {"activation": (0, "b")}),
    "ARG_MAX": Options(40, {"output_type": (0, "b")}),
    "ARG_MIN": Options(57, {"output_type": (0, "b")}),
    "AVERAGE_POOL_2D": _POOL,
    "BATCH_MATMUL": Options(101, {"adj_x": (0, "?"), "adj_y": (1, "?")}),
    "BIDIRECTIONAL_SEQUENCE_LSTM": Options(
        69, {**_LSTM, "merge_outputs": (3, "?"), "time_major": (4, "?", True)}
    ),
    "CALL_ONCE": Options(103, {"init": (0, "i")}),
    "CAST": Options(37, {"in_type": (0, "b"), "out_type": (1, "b")}),
    "CONCATENATION": Options(10, {"axis": (0, "i"), "activation": (1, "b")}),
    "CONV_2D": Options(
        1,
        {
            **_WINDOWS,
            "activation": (3, "b"),
            "dilation_w": (4, "i", 1),
            "dilation_h": (5, "i", 1),
        },
    ),
    "CUMSUM": Options(102, {"exclusive": (0, "?"), "reverse": (1, "?")}),
    "DEPTHWISE_CONV_2D": Options(
        2,
        {
            **_WINDOWS,
            "multiplier": (3, "i"),
            "activation": (4, "b"),
            "dilation_w": (5, "i", 1),
            "dilation_h": (6, "i", 1),
        },
    ),
    "DIV": Options(29, {"activation": (0, "b")}),
    "FULLY_CONNECTED": Options(
        8, {"activation": (0, "b"), "weights_format": (1, "b"), "keep_num_dims": (2, "?")}
    ),
    "GATHER": Options(23, {"axis": (0, "i"), "batch_dims": (1, "i")}),
    "GELU": Options(116, {"approximate": (0, "?")}),
    "IF": Options(92, {"then": (0, "i"), "else": (1, "i")}),
    "LEAKY_RELU": Options(75, {"alpha": (0, "f")}),
    "LSTM": Options(14, {**_LSTM, "kernel_type": (3, "b")}),
    "MAX_POOL_2D": _POOL,
    "MEAN": _REDUCER,
    "MIRROR_PAD": Options(77, {"mode": (0, "b")}),
    "MUL": Options(21, {"activation": (0, "b")}),
    "ONE_HOT": Options(61, {"axis": (0, "i")}),
    "PACK": Options(59, {"count": (0, "i"), "axis": (1, "i")}),
    "REDUCE_ALL": _REDUCER,
    "REDUCE_ANY": _REDUCER,
    "REDUCE_MAX": _REDUCER,
    "REDUCE_MIN": _REDUCER,
    "REDUCE_PROD": _REDUCER,
    "RESHAPE": Options(17, {"new_shape": (0, "[i")}),
    "REVERSE_SEQUENCE": Options(87, {"seq_dim": (0, "i"), "batch_dim": (1, "i")}),
    "SHAPE": Options(55, {"out_type": (0, "b")}),
    "SOFTMAX": Options(9, {"beta": (0, "f")}),
    "SPLIT": Options(35, {"count": (0, "i")}),
    "SPLIT_V": Options(79, {"count": (0, "i")}),
    "SQUEEZE": Options(30, {"axes": (0, "[i")}),
    "STRIDED_SLICE": Options(
        32,
        {
            "begin": (0, "i"),
            "end": (1, "i"),
            "ellipsis": (2, "i"),
            "new_axis": (3, "i"),
            "shrink": (4, "i"),
            "offset": (5, "?"),
        },
    ),
    "SUB": Options(28, {"activation": (0, "b")}),
    "SUM": _REDUCER,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Options(
        71, {**_LSTM, "time_major": (3, "?"), "diagonal": (5, "?")}
    ),
    "UNPACK": Options(64, {"count": (0, "i"), "axis": (1, "i")}),
    "VAR_HANDLE": Options(111, {"name": (1, "text")}),
    "WHILE": Options(93, {"cond": (0, "i"), "body": (1, "i")}),
}
"""Those that are read, by the operators' names. Others have none that matter here."""

OPERATORS = tuple(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU
    RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH
    CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB
    DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP
    TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX
    MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV
    SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN
    FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK
    REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
    RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL
    REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE
    MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5
    SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES
    CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE
    HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
    READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE
    RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD
    UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST
    BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE
    STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
    STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
    STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE
    STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE
    STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT
    STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA
    STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE
    STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW
    STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
    """.split()
)
"""BuiltinOperator: the names of operators, in the order of their numbers."""
