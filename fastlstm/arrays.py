"""How the values that callers hand in become arrays, by one rule for the whole package.

- Anything that carries a dtype (arrays of any stride and byte order, torch tensors, whatever has
  the buffer protocol, ``__array__`` or DLPack) must carry the layer's dtype. Half types (float16,
  bfloat16) are widened, which is exact. Every other dtype is refused with torch's sentence: a
  silent conversion from float64 would lose digits, and one from integers would hide a forgotten
  scaling.
- Lists, tuples and numbers carry no dtype and are converted.
- Masked arrays are refused, because their mask would be lost. Dates are refused too, because as
  numbers they would be huge.
- Tables and columns of pandas, polars or pyarrow must hold numbers. A missing value becomes nan.

Values are copied only where that is necessary: a tensor on the CPU shares its memory.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Floats: TypeAlias = NDArray[np.floating[Any]]
    Integers: TypeAlias = NDArray[np.int64]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_HALF = ("float16", "bfloat16")


def as_float(value: Any, dtype: np.dtype[Any], name: str = "input", owner: str = "RNN") -> Floats:
    """Return `value` as an array of `dtype` (native byte order), by the rule of this module.

    Errors call the value `name`, and say that it is for `owner`.
    """
    if type(value) is np.ndarray and value.dtype == dtype:
        return value  # as is usual: small calls are spared the questions below
    array = as_array(value, name)
    if array.dtype == dtype:
        return array
    swapped = array.dtype.newbyteorder("=") == dtype
    untyped = isinstance(value, (list, tuple, int, float)) and array.dtype.kind in "fiub"
    half = array.dtype.name in _HALF or _is_torch_bfloat16(value)
    if swapped or untyped or half:
        with np.errstate(under="ignore"):
            return array.astype(dtype)
    way_out = f'Convert {name}: {name}.astype("{dtype}")'
    if array.dtype.name in ("float32", "float64"):
        way_out += f', or convert model: model.astype("{array.dtype}")'
    raise ValueError(
        f"{owner} {name} dtype ({array.dtype}) does not match weight dtype ({dtype}). {way_out}"
    )


def as_integers(value: Any, name: str) -> Integers:
    """Return `value` as an int64 array; raise ValueError if it holds anything but integers."""
    array = as_array(value, name)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"{name} must hold integers, got dtype {array.dtype}")
    return array.astype(np.int64)


def as_rows(x: Floats) -> Floats:
    """Return x (..., I) in the form that engines take: (N, I), contiguous and aligned."""
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned):
        x = x.copy()
    return x.reshape(-1, x.shape[-1])


def as_array(value: Any, name: str) -> Array:
    """Return `value` as a plain array of the dtype that it has, by the rule of this module."""
    if type(value) is np.ndarray and value.dtype.kind not in "mM":
        if value.dtype.kind == "O":
            _refuse_ragged(value, name)
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost. Pass {name}.filled(...), "
            "or lengths= for sequences of different lengths"
        )
    if _is_torch_bfloat16(value):
        value = value.float()  # exact; NumPy has no such type
    if isinstance(value, tuple) and hasattr(value, "batch_sizes"):
        raise TypeError(
            f"{name} is a PackedSequence, which LSTMs alone take: pass its data, or pad it with "
            "fastlstm.pad_packed_sequence and give the model lengths="
        )
    if isinstance(value, tuple) and any(hasattr(part, "shape") for part in value):
        raise TypeError(
            f"{name} is a tuple of arrays, not an array; of what an LSTM returns, "
            "(output, (h_n, c_n)), pass the output on"
        )
    if column_names(value) is not None:
        return _as_columns(value)
    if is_column(value):
        _refuse_ragged(value, name)
        return _as_columns(value.to_frame()).squeeze(axis=1)
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
    except TypeError as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error
    except (ValueError, RuntimeError, BufferError) as error:  # as a tensor that requires grad
        _refuse_ragged(value, name)
        raise ValueError(f"{name} cannot be read as an array: {error}") from error
    if array.dtype.kind in "OUSmM":
        _refuse_ragged(value, name)
        got = array.dtype if array.dtype.kind in "mM" else type(value).__name__
        raise TypeError(f"{name} must be an array of numbers, got {got}")
    return array


def _refuse_ragged(value: Any, name: str) -> None:
    """Refuse sequences of different lengths, and say what to do with them."""
    try:
        lengths = [len(sequence) for sequence in value]
    except TypeError:
        return
    others = (str, bytes, dict)
    if len(set(lengths)) > 1 and not any(isinstance(sequence, others) for sequence in value):
        shown = str(lengths[:10])[:-1] + (", ...]" if len(lengths) > 10 else "]")
        raise ValueError(
            f"{name} cannot be read as an array: its shape is inhomogeneous, as it has sequences "
            f"of different lengths, {shown}. Pad them with fastlstm.pad_sequence, batch_first as "
            f"the model's, and give that lengths={shown}, or make a data set of them with "
            "fastlstm.training.Sequences"
        )


def column_names(value: Any) -> list[Any] | None:
    """Return the names of the columns of a table; None if `value` is no table.

    Tables are those of pandas, polars and pyarrow. None of these is imported here.
    """
    names = getattr(value, "column_names", None)  # pyarrow's `columns` are the columns themselves
    names = getattr(value, "columns", None) if names is None else names
    return None if names is None or callable(names) else list(names)


def is_column(value: Any) -> bool:
    """Tell whether `value` is a single column of pandas or polars, which may have a name."""
    return hasattr(value, "to_frame") and column_names(value) is None


def _as_columns(table: Any) -> Array:
    """Return a table as one array (T, F), without a copy if its memory allows that."""
    names = column_names(table) or []
    if hasattr(table, "iloc"):
        found = [_as_column(table.iloc[:, n]) for n in range(len(names))]
    else:
        found = [_as_column(table[name]) for name in names]
    columns = [array for array in found if array is not None]
    if wrong := [name for name, array in zip(names, found, strict=True) if array is None]:
        raise ValueError(
            f"Expected columns of numbers, got others in {wrong}: leave them out, or make them "
            "the index"
        )
    if len({array.dtype for array in columns}) == 1 and hasattr(table, "to_numpy"):
        whole: Array = table.to_numpy()
        if whole.dtype == columns[0].dtype:
            return whole
    return np.stack(columns, axis=1) if columns else np.empty((len(table), 0))


def _as_column(column: Any) -> Array | None:
    """Return a column of a table as an array of numbers (T,); None if it holds anything else."""
    if hasattr(column, "iloc"):
        if column.dtype.kind not in "biuf":
            return None
        values: Array = column.to_numpy()
        if values.dtype.kind not in "biuf":  # a type of pandas' own, with missing values
            values = column.to_numpy("float64", na_value=np.nan)
        return values
    array = np.asarray(column)
    if array.dtype.kind == "O" and {*map(type, array)} <= {bool, type(None)}:
        array = array.astype(float)  # these are truth values of which some are missing
    return array if array.ndim == 1 and array.dtype.kind in "biuf" else None


def _is_torch_bfloat16(value: Any) -> bool:
    return str(getattr(value, "dtype", None)) == "torch.bfloat16"


def as_gradient(
    value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], owner: str, what: str = "d_output"
) -> Floats:
    """Return the gradient of an output; raise ValueError unless it has its `shape` and `dtype`."""
    given = as_array(value, what)
    try:
        dy = as_float(value, dtype)
    except ValueError:
        raise ValueError(
            f"{owner}: Expected {what} of the output's dtype {dtype}, got {given.dtype}"
        ) from None
    if dy.shape != shape:
        raise ValueError(f"{owner}: Expected {what} of the output's shape {shape}, got {dy.shape}")
    return dy


def as_any_float(value: Any, owner: str) -> Floats:
    """Return `value` as an array of float32 or float64, whichever it has.

    Layers without parameters, which have no dtype of their own, take their input so.
    """
    array = as_array(value, "input")
    wanted = np.float32 if array.dtype.itemsize <= 4 else np.float64
    try:
        return as_float(value, np.dtype(wanted))
    except ValueError:
        raise ValueError(
            f"{owner}: Expected input of float32 or float64, got {array.dtype}"
        ) from None


def quiet(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Make a function run without NumPy's floating-point errors, whatever its caller's errstate.

    A number that underflows is rightly 0, and inf and nan come out as torch's do, without a
    warning.
    """

    @functools.wraps(function)
    def quietly(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return quietly
