"""Model files: which format, told by its content when reading and by its suffix when writing.

A format is a module with equal names: ``SUFFIXES``; ``ORDERED``, whether a file keeps the order of
the parameters; ``recognises(source)``; ``read(source)`` -> (arrays by torch's names, structure or
None); ``write(file, model)``. All of them refuse what they do not know with a ValueError, take no
more than the budget of the file has, and run nothing from it.
"""

import json
import warnings
from contextlib import contextmanager
from pathlib import Path

from ..checks import check_batch_first, check_dtype, quoted, short
from ..engines import choose, threads
from ..files import written_aside
from ..layers import LSTM, Last, Layer
from . import foreign, inference, npz, safetensors, structure, torch_pt
from .folding import fold
from .source import Source, State, file_name, opened

__all__ = ["load", "load_lstm", "load_state", "save"]

# Asked in this order: safetensors' first bytes could otherwise pass for those of a pickle.
_FORMATS = {"safetensors": safetensors, "torch": torch_pt, "npz": npz}
_OF_AN_LSTM = r"(^|\.)weight_ih(_l0)?($|[._])"
_LOCAL = "(weight|bias)_[ih][hr]"
_TRAINING = "__training__"  # what a `Checkpoint` of `fit` has among its arrays


def load(
    path,
    *,
    key: str | None = None,
    prefix: str | None = None,
    batch_first: bool | None = None,
    order: list | None = None,
    into: Layer | None = None,
    dtype: str | None = None,
    engine: str = "auto",
) -> Layer:
    """Load a model from a file, ready to run.

    Parameters
    ----------
    path : str, path-like or binary file
        A file of torch's (.pt, .pth; a state dict, a checkpoint, a whole module or TorchScript,
        read without torch), a .safetensors or a .npz file. An open file is read from where it
        stands, and stands there again; ``io.BytesIO(data)`` makes one of bytes. Of a `Checkpoint`
        of `fit`, its model's parameters.
    key : str, optional
        Which state dict of a torch checkpoint that nests several, as ``"model_state"`` or, nested
        deeper, ``"ema.model"``. Not needed if only one has names as layers give them.
    prefix : str, optional
        Take only this part of the model: a layer, or all layers inside it, by what stands before
        their parameters' names, as ``"encoder.lstm"``.
    batch_first : bool, optional
        How the LSTMs take their input, where the file does not tell: True for a torch model that
        was made with ``batch_first=True``. Left out, it stays undecided: unbatched and packed input
        runs, and the first batch is refused.
    order : list, optional
        In which order the parts run, where the file does not tell: their names, and layers without
        parameters, as ``["lstm", fastlstm.Last(), "fc1", fastlstm.ReLU(), "fc2"]``.
    into : Layer, optional
        Load the parameters into this model instead, whose names must be the file's, and return it.
        The other arguments below `prefix` are the model's own then.
    dtype : {"float32", "float64"}, optional
        Of the model; the file's if not given.
    engine : str
        For the model's LSTMs; see `LSTM`.

    Returns
    -------
    Layer
        In evaluation mode. With the structure that `save` put into the file. Without one, as in
        every torch file, in the `order` given or, if the names and shapes admit but one chain and
        that is the common one (an embedding, LSTMs, a Linear), as this chain; its `repr` says what
        the file does not tell. Names without prefix (``weight_ih_l0``) give the layer itself.

    Raises
    ------
    ValueError
        If the file is damaged, hostile or of no known format, or does not tell the layers and
        their order; the sentence names the file, the fault, what was found and what to do. Also if
        its structure contradicts `batch_first`, or the model of `into`.
    TypeError
        If an argument is of another type.
    OSError
        If it cannot be opened.
    ImportError
        If the format needs a library that is missing.

    Warns
    -----
    UserWarning
        If `order` leaves out what fastlstm has no layer for.

    Notes
    -----
    A torch file holds numbers and names only. In which order the layers run, what has no parameters
    (activations, dropout, `Last`) and whether the batch comes first are not in it. An inferred
    chain has nothing between its layers: an LSTM and a Linear give the Linear's values at every
    step. Parameters that torch's weight norm, spectral norm and pruning store in pieces, and weight
    drop's raw ones, are put together, in float64, to what the model runs with in evaluation;
    others are refused by name. Numbers without a dimension that belong to no layer, as counters,
    are left out. float16 and bfloat16 are widened to float32, which is exact. Cost: one pass over
    the file; memory for it twice.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pt")
    >>> save(fastlstm.Sequential({"rnn": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)}), path)
    >>> load(path, batch_first=True)(np.zeros((2, 5, 3), np.float32)).shape
    (2, 5, 1)
    >>> model = load(path, order=["rnn", fastlstm.Last(), "fc"], batch_first=True)
    >>> model(np.zeros((2, 5, 3), np.float32)).shape
    (2, 1)
    >>> load(path, prefix="fc")
    Linear(in_features=4, out_features=1, bias=True)
    """
    batch_first, dtype = _check(prefix, batch_first, dtype, engine)
    if order is not None:
        inference.check_order(order)
    if into is not None:
        asked = None if engine == "auto" else engine
        _check_into(into, batch_first=batch_first, order=order, dtype=dtype, engine=asked)
    with _naming(path) as origin:
        state, description, form = _read(path, key, origin)
        state.require(_dotted(prefix) if description is None else "")
        if into is not None:
            told = state.batch_first if description is None else structure.layouts(description)
            return _load_into(into, state, told, key, prefix)
        if description is not None:
            if order is not None:
                raise ValueError("order= is for files that do not tell it; this one does")
            model = _fill(description, state, batch_first, dtype, engine)
            return model if prefix is None else _layer(model, prefix)
        parts = inference.find_parts(state, key)
        if prefix is not None:
            parts = inference.within(parts, prefix)
        if order is None:
            description, arrays, untold = inference.infer(parts, form.ORDERED)
        else:
            description, arrays, left = inference.arrange(parts, order, form.ORDERED)
            unused = [*left, *parts.numbers]
            untold = f"left out of the file: {quoted(unused)}" if unused else ""
        model = _fill(description, arrays, batch_first, dtype, engine)
    if untold:
        model._untold = untold
    if order is not None and left:
        warnings.warn(f"{file_name(path)}: {untold}", stacklevel=2)
    return model


def load_lstm(
    path,
    *,
    prefix: str | None = None,
    key: str | None = None,
    batch_first: bool | None = None,
    dtype: str | None = None,
    engine: str = "auto",
) -> LSTM:
    """Load one LSTM out of a file, whatever else there is in it.

    Parameters
    ----------
    path, key, batch_first, dtype, engine
        As for `load`.
    prefix : str, optional
        What stands before ``weight_ih_l0`` in the parameters' names, with or without its dot:
        ``"lstm"``, ``"encoder.rnn"``, ``""``. Not needed if there is one LSTM only.

    Returns
    -------
    LSTM
        In evaluation mode. An LSTMCell (``weight_ih``) gives an LSTM of one layer.

    Raises
    ------
    ValueError
        As `load`; also if there is no such LSTM, or several and no prefix: the sentence lists
        their prefixes.
    TypeError
        If the prefix is not a string.

    Warns
    -----
    UserWarning
        If arrays of other names beside the LSTM's own, as a learnt first state, are left out.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pt")
    >>> save(fastlstm.Sequential({"rnn": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)}), path)
    >>> load_lstm(path, prefix="rnn", batch_first=True)
    LSTM(3, 4, batch_first=True)
    """
    batch_first, dtype = _check(prefix, batch_first, dtype, engine)
    with _naming(path) as origin:
        state, description, _ = _read(path, key, origin, _OF_AN_LSTM)
        if prefix is not None:
            state.require(_dotted(prefix), _LOCAL)
        parts = inference.find_parts(state)
        try:
            name, part = inference.find_lstm(parts, prefix)
        except ValueError:
            state.require(local=".*" + _LOCAL)  # what was not read is why there is none
            raise
        state.require(_dotted(name), _LOCAL)
        if description is not None:
            lstm = _layer(_fill(description, state, batch_first, dtype, engine), name)
            if isinstance(lstm, LSTM):
                return lstm
        lstm = _fill(*inference.as_lstm(part), batch_first, dtype, engine)
    if left := [other for other in parts[name].arrays if other not in part.arrays]:
        what = f"what {quoted(left)} beside the LSTM's own parameters does is not known"
        warnings.warn(f"{file_name(path)}: {what}; left out", stacklevel=2)
    return lstm


def load_state(path, *, key=None):
    """Load the arrays of a file by their names, for `Layer.load_state_dict` or any other use.

    Parameters
    ----------
    path, key
        As for `load`.

    Returns
    -------
    dict of str -> ndarray
        As they are stored, but floats of 8 and 16 bits widened to float32 (exact). Weights that
        torch stored once under two names share their memory; an expanded tensor is a read-only
        view of the numbers that are stored. Of a `Checkpoint` of `fit`, the parameters of its
        model.

    Raises
    ------
    ValueError, OSError, ImportError
        As `load`; so also if anything in the state dict is no array: a sparse or quantised tensor,
        numbers of a type that NumPy lacks, an object in the place of a weight. `load_lstm` minds
        this only in the LSTM that it loads.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "linear.npz")
    >>> save(fastlstm.Linear(2, 1), path)
    >>> list(load_state(path))
    ['weight', 'bias']
    """
    with _naming(path) as origin:
        return dict(_read(path, key, origin)[0].require())


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
    """Put the file's name, and what it is, before its faults; refuse what is no file."""
    origin = [file_name(path)]
    try:
        yield origin
    except ValueError as fault:
        raise ValueError(": ".join([*origin, str(fault)])) from fault


def _read(path, key, origin, likely=torch_pt.PARAMETER):
    """Return arrays, structure or None, the format; what else to say of faults goes to `origin`."""
    with opened(path) as file:
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
        state, description = form.read(source)
        if _TRAINING in state:
            origin.append(
                "it is a checkpoint of a training, of which the model's parameters are taken"
            )
            source.budget.check("bytes of a training's JSON", state[_TRAINING].nbytes)
            state = _of_training(state)
        return state, description, form


def _check(prefix, batch_first, dtype, engine):
    """Check the arguments before the file, for what is wrong with them is not the file's fault."""
    threads(None, choose(engine)[0])
    if not isinstance(prefix, (str, type(None))):
        raise TypeError(f"prefix must be a string, got {type(prefix).__name__}")
    return check_batch_first(batch_first), None if dtype is None else check_dtype(dtype)


def _check_into(model, **others):
    if not isinstance(model, Layer):
        raise TypeError(f"into must be a layer, got {type(model).__name__}")
    if given := [name for name, value in others.items() if value is not None]:
        raise ValueError(f"{' and '.join(given)} cannot be given with into=: they are the model's")


def _load_into(model, state, told, key, prefix):
    arrays = _state_for(model, state, prefix)
    _agree(model, told, _dotted(prefix))
    try:
        model.load_state_dict(arrays)
    except ValueError as fault:
        if prefix is not None or arrays.keys() <= model.state_dict().keys():
            raise
        where = inference.called_with(key)
        raise ValueError(
            f"{fault}\n\tmodel.load_state_dict(fastlstm.load_state({where}), strict=False) "
            "leaves out what the model lacks, and returns its names."
        ) from fault
    return model.eval()


def _state_for(model, state, prefix):
    """The arrays for a model of the caller's: put together, unless it wants the pieces itself."""
    prefix = _dotted(prefix)
    wanted = {prefix + name for name in model.state_dict()}
    folded, faults = fold(state)
    if wanted <= folded.keys() or not wanted <= state.keys():
        state = folded
        if fault := next((faults[at] for at in faults if at.startswith(prefix)), None):
            raise ValueError(fault)
    inside = {name: array for name, array in state.items() if name.startswith(prefix)}
    return {name[len(prefix) :]: a for name, a in inside.items() if a.ndim or name in wanted}


def _agree(model, told, prefix):
    """Refuse a model of the caller's where its LSTMs take their input otherwise than the file's."""
    for name, layer in model.named_layers(prefix):
        said = told.get(name) if isinstance(layer, LSTM) else None
        if said is not None and layer.batch_first is not None and said != layer.batch_first:
            raise ValueError(
                f"{name.removesuffix('.') or 'the LSTM'} has batch_first={said} in the file, "
                f"{layer.batch_first} in the model given"
            )


def _dotted(prefix):
    return f"{prefix.removesuffix('.')}." if prefix else ""


def _layer(model, prefix):
    """The layer of a model whose parameters have this prefix."""
    layers = {prefix[:-1]: layer for prefix, layer in model.named_layers()}
    prefix = prefix.removesuffix(".")
    if prefix not in layers:
        raise ValueError(f"nothing has the prefix {short(prefix)}; there are {quoted(layers)}")
    return layers[prefix]


def _of_training(state):
    """The parameters of the model in a checkpoint of a training."""
    try:
        model = json.loads(state[_TRAINING].item())["kept"]["model"]
        found = State()
        found.update({name: state[str(place["__array__"])] for name, place in model.items()})
        return found
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as fault:
        raise ValueError(f"they are damaged: {type(fault).__name__}: {str(fault)[:200]}") from fault


def _fill(description, state, batch_first, dtype, engine):
    model = structure.build(description, engine, dtype=dtype, state=state)
    for _, layer in model.named_layers():
        if batch_first is None or not isinstance(layer, (LSTM, Last)):
            continue
        if layer.batch_first is None:
            layer.batch_first = batch_first
        elif layer.batch_first != batch_first:
            major = "batch-first" if layer.batch_first else "time-major"
            raise ValueError(
                f"batch_first={batch_first} contradicts its structure, which is {major}"
            )
    model.load_state_dict(state)
    return model.eval()
