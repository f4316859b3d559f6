"""Stored bytes to arrays: the dtypes that model files hold, by their common names."""

import numpy as np

_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "bool": 1}
_SIZES |= {f"{kind}{8 * size}": size for kind in ("int", "uint") for size in (1, 2, 4, 8)}
_SIZES |= {"complex64": 8, "complex128": 16}


def itemsize(dtype):
    """Bytes of one stored number of this name."""
    return _SIZES[dtype]


def numbers(data, dtype):
    """Return a flat array over little-endian bytes.

    Half types, float16 and bfloat16, are widened to float32, which is exact; every other type
    stays what it is, and its array shares the memory of `data`.
    """
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return array.astype("<f4") if dtype == "float16" else array
