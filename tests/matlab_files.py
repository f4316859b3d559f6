"""MATLAB's files for tests: layers as structs, as scipy writes them, and as MATLAB writes HDF5."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM"


def cell(*elements: Any) -> np.ndarray:
    """Return a cell array as scipy takes it: a column of objects."""
    made = np.empty((len(elements), 1), object)
    made[:, 0] = elements
    return made


def mat5(compressed: bool = False, **variables: Any) -> bytes:
    """Return a file of version 6, or of version 7, which scipy has written."""
    import scipy.io

    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed, long_field_names=True)
    return file.getvalue()


def mat73(path: Path, deflated: bool = True, **variables: Any) -> bytes:
    """Return a file of version 7.3, as MATLAB lays it out, which h5py has written to a path."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        refs: list[Any] = []

        def referred(value: Any) -> Any:
            group = file.require_group("#refs#")
            put(group, f"r{len(refs)}", value)
            refs.append(value)
            return group[f"r{len(refs) - 1}"].ref

        def array(parent: Any, name: str, data: Any, kind: str, **options: Any) -> Any:
            if deflated and np.size(data) > 20 and not options:
                options = {"compression": 3, "chunks": tuple(-(-n // 2) for n in data.shape)}
            made = parent.create_dataset(name, data=data, **options)
            made.attrs["MATLAB_class"] = np.bytes_(kind)
            return made

        def put(parent: Any, name: str, value: Any) -> None:
            if isinstance(value, dict):
                group = parent.create_group(name)
                group.attrs["MATLAB_class"] = np.bytes_("struct")
                for field, inside in value.items():
                    put(group, field, inside)
            elif isinstance(value, list):  # of structs: for each field an array of references
                group = parent.create_group(name)
                group.attrs["MATLAB_class"] = np.bytes_("struct")
                for field in value[0]:
                    found = [[referred(one[field])] for one in value]
                    group.create_dataset(field, data=np.array(found, h5py.ref_dtype))
            elif isinstance(value, str):
                codes = np.frombuffer(value.encode("utf-16-le"), "<u2")[:, None]
                made = array(parent, name, codes, "char", shape=codes.shape)
                made.attrs["MATLAB_int_decode"] = np.int32(2)
            elif np.asarray(value).dtype == object:
                found = [[referred(one) for one in np.asarray(value).ravel()]]
                array(parent, name, np.array(found, h5py.ref_dtype), "cell", dtype=h5py.ref_dtype)
            else:
                numbers = np.atleast_2d(value)
                kinds = {"f8": "double", "f4": "single", "b1": "logical"}
                kind = kinds.get(numbers.dtype.str[1:], numbers.dtype.name)
                if not numbers.size:
                    made = array(parent, name, np.array(numbers.shape, "u8"), kind)
                    made.attrs["MATLAB_empty"] = np.uint8(1)
                    return
                stored = numbers.T.astype("u1") if kind == "logical" else numbers.T
                array(parent, name, np.ascontiguousarray(stored), kind)

        for name, value in variables.items():
            put(file, name, value)
    data = path.read_bytes()
    return MAGIC + data[len(MAGIC) :]
