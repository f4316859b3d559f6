"""Model files: which format, told by its content when reading and by its suffix when writing.

A format is a module with equal names: ``SUFFIXES``; ``ORDERED``, whether a file keeps the order of
the parameters; ``recognises(source)``; ``read(source)`` -> (arrays by torch's names, structure or
None); ``write(file, model)``. All of them refuse what they do not know with a ValueError, take no
more than the budget of the file has, and run nothing from it.
"""

import errno
import io
import os
from contextlib import contextmanager
from pathlib import Path

from ..engines import choose, threads
from ..files import written_aside
from ..parameters import Layer, check_bool
from . import foreign, npz, safetensors, structure, torch_pt
from .source import Source

__all__ = ["load", "load_lstm", "load_state", "save"]

# Asked in this order: safetensors' first bytes could otherwise pass for those of a pickle.
_FORMATS = {"safetensors": safetensors, "torch": torch_pt, "npz": npz}
_BYTES = (bytes, bytearray, memoryview)
_LONGEST_PATH = 4096  # characters, the most that Linux takes


def load(path, *, key=None, batch_first=False, engine="auto"):
    """Load a model from a file, ready to run.

    Parameters
    ----------
    path : str, path-like or binary file
        A file of torch's (.pt, .pth; a state dict, a checkpoint, a whole module or TorchScript,
        read without torch), a .safetensors or a .npz file. An open file is read from where it
        stands; ``io.BytesIO(data)`` makes one of bytes.
    key : str, optional
        Which state dict of a torch checkpoint that nests several, as ``"model_state"`` or, nested
        deeper, ``"ema.model"``. Not needed if only one has names as layers give them.
    batch_first : bool
        How the LSTMs take their input, where the file does not tell: True for a torch model that
        was made with ``batch_first=True``.
    engine : str
        For the model's LSTMs; see `LSTM`.

    Returns
    -------
    Layer
        In evaluation mode. With the structure that `save` put into the file. Without one, as in
        every torch file: what names and shapes tell. An LSTM's own names without prefix
        (``weight_ih_l0``) give an LSTM; several layers, or a prefix, give a Sequential of an
        Embedding, LSTMs and Linears, chained by their sizes.

    Raises
    ------
    ValueError
        If the file is damaged, hostile or of no known format, or does not tell the layers and
        their order; the sentence names the file, the fault and what was found. Also if its
        structure is time-major and `batch_first` is True.
    OSError
        If it cannot be opened.
    ImportError
        If the format needs a library that is missing.

    Notes
    -----
    A torch file holds numbers and names only. Whether the batch comes first is not in it: say so
    with `batch_first`, or the two axes are mixed up in silence. Dropout and layers without
    parameters (activations, `Last`) are not in it either, and the model has none: an LSTM and a
    Linear give the Linear's values at every step. float16 and bfloat16 are widened to float32,
    which is exact. Cost: one pass over the file; memory for it twice.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> model = fastlstm.Sequential(fastlstm.LSTM(3, 4), fastlstm.Last(), fastlstm.Linear(4, 1))
    >>> save(model, path)
    >>> load(path)(np.zeros((5, 2, 3), np.float32)).shape
    (2, 1)
    """
    batch_first = check_bool("batch_first", batch_first)
    threads(None, choose(engine)[0])  # here, for what is wrong there is not the file's fault
    with _naming(path):
        state, description, form = _read(path, key)
        state.require()
        if description is None:
            description = structure.infer(state, form.ORDERED, batch_first)
        return _fill(description, state, batch_first, engine)


def load_lstm(path, *, prefix=None, key=None, batch_first=False, engine="auto"):
    """Load one LSTM out of a file, whatever else there is in it.

    Parameters
    ----------
    path, key, batch_first, engine
        As for `load`.
    prefix : str, optional
        What stands before ``weight_ih_l0`` in the parameters' names, with or without its dot:
        ``"lstm"``, ``"encoder.rnn"``, ``""``. Not needed if there is one LSTM only.

    Returns
    -------
    LSTM
        In evaluation mode.

    Raises
    ------
    ValueError
        As `load`; also if there is no such LSTM, or several and no prefix: the sentence lists
        their prefixes.
    TypeError
        If the prefix is not a string.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pt")
    >>> save(fastlstm.Sequential({"rnn": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)}), path)
    >>> load_lstm(path, prefix="rnn")
    LSTM(3, 4)
    """
    batch_first = check_bool("batch_first", batch_first)
    threads(None, choose(engine)[0])
    if not isinstance(prefix, (str, type(None))):
        raise TypeError(f"prefix must be a string, got {type(prefix).__name__}")
    with _naming(path):
        state, description, _ = _read(path, key, r"(^|\.)weight_ih_l0$")
        found = structure.lstms(state)
        listed = ", ".join(map(repr, list(found)[:20]))
        if prefix is None and len(found) > 1:
            raise ValueError(f"it holds several LSTMs, choose one with prefix=: {listed}")
        if prefix is None:
            (prefix,) = found
        elif prefix and not prefix.endswith("."):
            prefix += "."
        if prefix not in found:
            raise ValueError(f"no LSTM has the prefix {prefix!r}; there are {listed}")
        state.require(prefix, "(weight|bias)_[ih][hr]_l")
        if description is not None:
            model = _fill(description, state, batch_first, engine)
            return dict(model.named_layers())[prefix]
        description = structure.describe_lstm(prefix, found[prefix], batch_first)
        return _fill(description, found[prefix], batch_first, engine)


def load_state(path, *, key=None):
    """Load the arrays of a file by their names, for `Layer.load_state_dict` or any other use.

    Parameters
    ----------
    path, key
        As for `load`.

    Returns
    -------
    dict of str -> ndarray
        Of the file's dtypes, but floats of 8 and 16 bits widened to float32 (exact). Weights that
        torch stored once under two names share their memory; an expanded tensor is a read-only
        view of the numbers that are stored.

    Raises
    ------
    ValueError, OSError, ImportError
        As `load`.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "linear.npz")
    >>> save(fastlstm.Linear(2, 1), path)
    >>> list(load_state(path))
    ['weight', 'bias']
    """
    with _naming(path):
        return dict(_read(path, key)[0].require())


def save(model, path):
    """Save a model; the suffix of the path tells the format.

    Parameters
    ----------
    model : Layer
    path : str or path-like
        ``.npz`` (fastlstm's own, for np.load too) and ``.safetensors`` hold parameters and
        structure, so that `load` gives the same model. ``.pt`` and ``.pth`` hold the state dict
        for ``torch.load``, and no structure.

    Raises
    ------
    ValueError
        If the suffix is not one of these.
    TypeError
        If `model` is not a layer, or its structure cannot be stored.
    ImportError
        If the format needs a library that is missing.

    Notes
    -----
    The file is written aside and renamed, so a failure leaves the old one as it was.

    Examples
    --------
    >>> save(fastlstm.LSTM(3, 4), "model.h5")
    Traceback (most recent call last):
    ...
    ValueError: model.h5: the suffix must be one of .safetensors, .pt, .pth, .npz, got '.h5'
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a layer, got {type(model).__name__}")
    path = Path(path)
    known = {suffix: form for form in _FORMATS.values() for suffix in form.SUFFIXES}
    if path.suffix.lower() not in known:
        raise ValueError(
            f"{path}: the suffix must be one of {', '.join(known)}, got {path.suffix!r}"
        )
    with written_aside(path) as file:
        known[path.suffix.lower()].write(file, model)


@contextmanager
def _naming(path):
    """Put the file's name before every fault that is found in it; refuse what is no file."""
    name = _name(path)
    try:
        yield
    except ValueError as fault:
        raise ValueError(f"{name}: {fault}") from fault


def _name(path):
    """The name of a path or of an open file, for messages."""
    if isinstance(path, io.TextIOBase):
        raise TypeError('a file must be open for bytes, as open(path, "rb") gives it, not for text')
    if hasattr(path, "read"):
        name = getattr(path, "name", None)
        return name if isinstance(name, str) else f"<{type(path).__name__}>"
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(name, str):
        way_out = "; io.BytesIO(...) makes a file of bytes" if isinstance(name, _BYTES) else ""
        raise TypeError(
            f"path must be a str, a path-like or a binary file, got {type(name).__name__}{way_out}"
        )
    if len(name) > _LONGEST_PATH:
        raise ValueError(f"path must be the name of a file, got a str of {len(name)} characters")
    return name


@contextmanager
def _opened(path):
    if hasattr(path, "read"):
        yield path
        return
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, a file is expected", path)
    with open(path, "rb") as file:
        yield file


def _read(path, key, likely=torch_pt.PARAMETER):
    """Return arrays, structure or None, and the format's module."""
    with _opened(path) as file:
        source = Source(file)
        for form in _FORMATS.values():
            if form.recognises(source):
                break
        else:
            known = f"its content is of no known format; known are {', '.join(_FORMATS)}"
            found = foreign.name(source)
            raise ValueError(f"it is {found}: {known}" if found else known)
        if form is torch_pt:
            return *torch_pt.read(source, key, likely), form
        if key is not None:
            raise ValueError(f"key={key!r} is for torch checkpoints, which nest; this file is flat")
        return *form.read(source), form


def _fill(description, state, batch_first, engine):
    numbers = sum(array.size for array in state.values())
    model = structure.build(description, engine, numbers=numbers)
    if batch_first and not all(getattr(n, "batch_first", True) for _, n in model.named_layers()):
        raise ValueError("batch_first=True contradicts its structure, which is time-major")
    model.load_state_dict(state)
    return model.eval()
