"""Stored bytes to arrays: the dtypes that model files hold, by torch's and NumPy's names."""

import numpy as np

_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "bool": 1}
_SIZES |= {f"{kind}{8 * size}": size for kind in ("int", "uint") for size in (1, 2, 4, 8)}
_SIZES |= {"complex32": 4, "complex64": 8, "complex128": 16}
# Bits of the fraction, the exponent's bias, codes that stand for no finite number.
_FLOAT8 = {
    "float8_e4m3fn": (3, 7, {0x7F: np.nan}),
    "float8_e4m3fnuz": (3, 8, {0x80: np.nan}),
    "float8_e5m2": (2, 15, {0x7C: np.inf, 0x7D: np.nan, 0x7E: np.nan, 0x7F: np.nan}),
    "float8_e5m2fnuz": (2, 16, {0x80: np.nan}),
}
_SIZES |= dict.fromkeys(_FLOAT8, 1)


def is_known(dtype):
    """Tell whether `numbers` reads this type."""
    return dtype in _SIZES


def itemsize(dtype):
    """Bytes of one stored number of this name."""
    return _SIZES[dtype]


def numbers(data, dtype):
    """Return a flat array over little-endian bytes.

    Floats of 8 and 16 bits are widened to float32, complex32 to complex64, which is exact; every
    other type stays what it is, and its array shares the memory of `data`.
    """
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    if dtype == "complex32":
        return np.frombuffer(data, "<f2").astype("<f4").view("<c8")
    if dtype in _FLOAT8:
        return _float8(*_FLOAT8[dtype])[np.frombuffer(data, "u1")]
    array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return array.astype("<f4") if dtype == "float16" else array


def _float8(fraction_bits, bias, others):
    """The numbers that the 256 codes of a float of 8 bits stand for, as float32."""
    codes = np.arange(128)
    exponent, fraction = divmod(codes, 1 << fraction_bits)
    fraction = fraction / (1 << fraction_bits) + (exponent > 0)
    positive = np.ldexp(fraction, np.maximum(exponent, 1) - bias)
    table = np.concatenate([positive, -positive]).astype("<f4")
    for code, value in others.items():
        table[code] = value
        table[code | 0x80] = -value
    return table
