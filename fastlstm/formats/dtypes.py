"""How stored bytes become arrays, for the dtypes of model files, named as in torch and NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..arrays import Array

_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "bool": 1}
_SIZES |= {f"{kind}{8 * size}": size for kind in ("int", "uint") for size in (1, 2, 4, 8)}
_SIZES |= {"complex32": 4, "complex64": 8, "complex128": 16}
# The bits of the fraction, the bias of the exponent, and the codes that are no finite number.
_FLOAT8: dict[str, tuple[int, int, dict[int, float]]] = {
    "float8_e4m3fn": (3, 7, {0x7F: np.nan}),
    "float8_e4m3fnuz": (3, 8, {0x80: np.nan}),
    "float8_e5m2": (2, 15, {0x7C: np.inf, 0x7D: np.nan, 0x7E: np.nan, 0x7F: np.nan}),
    "float8_e5m2fnuz": (2, 16, {0x80: np.nan}),
}
_SIZES |= dict.fromkeys(_FLOAT8, 1)


def is_known(dtype: str) -> bool:
    """Tell whether `numbers` reads the type of this name."""
    return dtype in _SIZES


def itemsize(dtype: str) -> int:
    """Return the bytes of one stored number of the type of this name."""
    return _SIZES[dtype]


def numbers(data: bytes | bytearray, dtype: str) -> Array:
    """Return a flat array of little-endian numbers.

    Floats of 8 and 16 bits are widened to float32, and complex32 to complex64, which is exact. An
    array of any other type shares the memory of `data`.
    """
    array: Array
    if dtype == "bfloat16":  # the upper half of a float32
        array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif dtype == "complex32":
        array = np.frombuffer(data, "<f2").astype("<f4").view("<c8")
    elif dtype in _FLOAT8:
        array = _float8(*_FLOAT8[dtype])[np.frombuffer(data, "u1")]
    elif dtype == "float16":
        array = np.frombuffer(data, "<f2").astype("<f4")
    else:
        array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return array


def _float8(fraction_bits: int, bias: int, others: Mapping[int, float]) -> NDArray[np.float32]:
    """Return the numbers that the 256 codes of a float of 8 bits stand for."""
    codes = np.arange(128)
    exponent, fraction = divmod(codes, 1 << fraction_bits)
    significand = fraction / (1 << fraction_bits) + (exponent > 0)
    positive = np.ldexp(significand, np.maximum(exponent, 1) - bias)
    table = np.concatenate([positive, -positive]).astype("<f4")
    for code, value in others.items():
        table[code] = value
        table[code | 0x80] = -value
    return table
