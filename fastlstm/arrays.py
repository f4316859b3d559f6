"""What a caller may hand in: the one rule by which values become arrays.

- Anything that carries a dtype (arrays of any stride and byte order, torch tensors, whatever has
  the buffer protocol, ``__array__`` or DLPack) must carry the layer's dtype. Half types (float16,
  bfloat16) are widened, which is exact. Every other dtype is refused with torch's sentence: a
  silent conversion from float64 would lose digits, and from integers hides a forgotten scaling.
- Lists, tuples and numbers carry no dtype and are converted.
- Masked arrays are refused: the mask would be lost.

Nothing is copied that need not be: a tensor on the CPU shares its memory.
"""

import numpy as np

_HALF = ("float16", "bfloat16")


def as_float(value, dtype, name="input", owner="RNN"):
    """Return `value` as an array of `dtype` (native byte order), by the rule of this module."""
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
        way_out += f', or convert model: build it with dtype="{array.dtype}"'
    raise ValueError(
        f"{owner} {name} dtype ({array.dtype}) does not match weight dtype ({dtype}). {way_out}"
    )


def as_integers(value, name):
    """Return `value` as an int64 array; ValueError if it holds anything but integers."""
    array = as_array(value, name)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"{name} must hold integers, got dtype {array.dtype}")
    return array.astype(np.int64)


def as_rows(x):
    """Return x (..., I) as engines want it: (N, I), values side by side and aligned."""
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned):
        x = np.require(x, requirements=("C", "A"))
    return x.reshape(-1, x.shape[-1])


def as_array(value, name):
    """Return `value` as a plain array of whatever dtype it has."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost. Pass {name}.filled(...), "
            "or lengths= for sequences of different lengths"
        )
    if _is_torch_bfloat16(value):
        value = value.float()  # exact; NumPy has no such type
    if isinstance(value, tuple) and any(hasattr(part, "shape") for part in value):
        raise TypeError(
            f"{name} is a tuple of arrays, not an array; of what an LSTM returns, "
            "(output, (h_n, c_n)), pass the output on"
        )
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
    except TypeError as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error
    except (ValueError, RuntimeError, BufferError) as error:  # as a tensor that requires grad
        raise ValueError(f"{name} cannot be read as an array: {error}") from error
    if array.dtype.kind in "OUS":
        raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}")
    return array


def _is_torch_bfloat16(value):
    return str(getattr(value, "dtype", None)) == "torch.bfloat16"
