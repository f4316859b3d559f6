"""Model files: the format of a file is told by its content, that of a new one by its suffix.

Each format is a module as `format.Format` describes it. To add one, write the module and put it
into the tables of `table`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ..checks import check_batch_first, check_dtype, quoted
from ..engines import choose
from ..engines.machine import threads
from ..files import written_aside
from ..graphs import GraphModel
from ..layers import LSTM, Layer, Sequential
from . import inference, npz, structure, untold
from .filling import agreeing, filled, layer_of, load_into, with_dot
from .format import MAX_BYTES, Choice, Wish
from .parts import as_lstm, find_lstm, find_parts, tell, within
from .source import file_name
from .table import naming, read, recognised, written_format

if TYPE_CHECKING:
    import os

    from ..arrays import Array
    from ..checks import Precision
    from ..engines import EngineChoice
    from .source import ModelFile

__all__ = ["load", "load_lstm", "load_notes", "load_state", "save"]

_OF_AN_LSTM = r"(^|\.)weight_ih(_l0)?($|[._])"  # a name that every LSTM has
_LOCAL = "(weight|bias)_([ih][hr]|c[ifo]|ln)|[hc]_0"  # how the names of its parameters begin
_Model = TypeVar("_Model", bound=Layer)


@overload
def load(
    path: ModelFile, *, into: _Model, key: str | None = None, prefix: str | None = None
) -> _Model: ...
@overload
def load(
    path: ModelFile,
    *,
    order: Sequence[str | Layer],
    key: str | None = None,
    prefix: str | None = None,
    batch_first: bool | None = None,
    into: None = None,
    dtype: Precision | None = None,
    engine: EngineChoice = "auto",
) -> Sequential: ...
@overload
def load(
    path: ModelFile,
    *,
    key: str | None = None,
    prefix: str | None = None,
    batch_first: bool | None = None,
    order: None = None,
    into: None = None,
    dtype: Precision | None = None,
    engine: EngineChoice = "auto",
    max_bytes: int = MAX_BYTES,
) -> Layer: ...
def load(
    path: ModelFile,
    *,
    key: str | None = None,
    prefix: str | None = None,
    batch_first: bool | None = None,
    order: Sequence[str | Layer] | None = None,
    into: Layer | None = None,
    dtype: Precision | None = None,
    engine: EngineChoice = "auto",
    max_bytes: int = MAX_BYTES,
) -> Layer:
    """Load a model from a file, ready to run.

    Parameters
    ----------
    path : str, path-like or binary file
        A file that torch wrote (.pt, .pth; a state dict, a checkpoint, a whole module or
        TorchScript, read without torch), a .safetensors or a .npz file; or one of a whole network,
        an ONNX file (.onnx), one of Keras (.keras, .h5), of TFLite (.tflite), of MATLAB (.mat) or
        for C (.fl). Also the index of a model in several files (.index.json), or its folder. An
        open file is read from its position on, and is put back to it; ``io.BytesIO(data)`` makes a
        file of bytes. From a `Checkpoint` of `fit`, the parameters of its model are read.
    key : str, optional
        Which state dict to take from a torch checkpoint that holds several, as ``"model_state"``
        or, nested deeper, ``"ema.model"``. It is not needed if only one of them has names as layers
        give them. Of a TFLite file, the key of one of its signatures.
    prefix : str, optional
        Take only this part of the model, a layer or all layers inside it: what the names of its
        parameters begin with, as ``"encoder.lstm"``. In an ONNX file this is the name of a node,
        with ``_`` in place of dots.
    batch_first : bool, optional
        How the LSTMs take their input, where the file does not tell: True for a torch model that
        was made with ``batch_first=True``. If it is left out, it stays undecided: unbatched and
        packed input runs, and the first batch is refused.
    order : list, optional
        In which order the parts run, where the file does not tell: their names, and layers without
        parameters, as ``["lstm", fastlstm.Last(), "fc1", fastlstm.ReLU(), "fc2"]``.
    into : Layer, optional
        Load the parameters into this model and return it. It must have the file's names. The
        arguments after `prefix` cannot be given then, because the model has decided them.
    dtype : {"float32", "float64"}, optional
        The dtype of the model; that of the file if not given.
    engine : str
        The engine of the model's layers; see `LSTM`.
    max_bytes : int
        The most bytes that one array may take whose size a number in the file decides, in files of
        whole graphs.

    Returns
    -------
    Layer
        In evaluation mode. If `save` has put the structure into the file, the model has that.
        A checkpoint of Darts, neuralforecast or neuralhydrology gives the model that it was, which
        its hyper-parameters tell. Otherwise, as in every torch file, the layers follow each other
        in the `order` given. If none is given, names and shapes must admit one chain only, and the
        common one (an embedding, LSTMs, a Linear); the `repr` of the model says what the file does
        not tell. If the names have no prefix (``weight_ih_l0``), the layer itself is returned. A
        file of a whole network gives that network: a `GraphModel`, which has named inputs and
        outputs, or the layers themselves where it is a chain of layers that fastlstm has.

    Raises
    ------
    ValueError
        If the file is damaged, hostile or of no known format, or does not tell the layers and
        their order. The sentence names the file, the fault, what was found and what to do. Also if
        the structure contradicts `batch_first`, or the model of `into`. Options of training and
        zoneout may differ.
    TypeError
        If an argument is of another type.
    OSError
        If the file cannot be opened.
    ImportError
        If the format needs a library that is missing.

    Warns
    -----
    UserWarning
        If `order` leaves out parts that fastlstm has no layer for. Also if the file is a checkpoint
        of a model with options that its arrays do not tell, such as ``gate_clip``.

    Notes
    -----
    A torch file holds only numbers and names. It does not tell in which order the layers run, which
    layers without parameters there are (activations, dropout, `Last`), whether the input of a layer
    is added to its output (`Residual`), and whether the batch comes first. A chain that is inferred
    has nothing between or beside its layers: an LSTM and a Linear give the values of the Linear at
    every step.

    Some parameters are stored in pieces: those of torch's weight norm, spectral norm and pruning,
    and the raw ones of weight drop. They are put together, in float64, to the parameters that the
    model has in evaluation. Parameters with other pieces are refused by name. Numbers without a
    dimension that belong to no layer, such as counters, are left out. float16 and bfloat16 are
    widened to float32, which is exact.

    Arrays tell the peepholes, the layer normalisation and the learned initial states of an LSTM,
    and its coupled gate if there are peepholes. Without these, an LSTM with a coupled gate is
    refused, because a GRU has the same arrays. Nothing tells clips, activations, `reverse` and
    zoneout: load such a model `into` one that has them.

    Cost: one pass over the file, and memory for twice its size and once for its largest array.

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
    options = _check_arguments(prefix, batch_first, dtype, engine)
    if order is not None:
        inference.check_order(order)
    if into is not None:
        asked = None if engine == "auto" else engine
        _check_into(into, batch_first=batch_first, order=order, dtype=dtype, engine=asked)
    with naming(path) as origin:
        content, form = read(path, Choice(key, engine=engine), origin)
        state, description = content.state, content.structure
        if content.build is None or into is not None:  # what makes a graph says itself what is bad
            state.require(with_dot(prefix) if description is None else "")
        if into is not None:
            told = {of: {"batch_first": value} for of, value in state.batch_first.items()}
            if description is not None:
                told = structure.recurrent(description)
            return load_into(into, state, told | dict(content.recurrent), key, prefix)
        if content.build is not None:
            if order is not None:
                raise ValueError("order= is for files that do not tell it; this one does")
            model = content.build(Wish(options["engine"], options.get("dtype"), max_bytes))
            model = model if prefix is None else layer_of(model, prefix)
            if isinstance(model, GraphModel) and batch_first is not None:
                raise ValueError(
                    "batch_first= is for models of layers; how a graph takes its inputs stands in "
                    "their shapes"
                )
            return agreeing(model, batch_first)
        if description is not None:
            if order is not None:
                raise ValueError("order= is for files that do not tell it; this one does")
            model = filled(description, state, batch_first, options)
            return model if prefix is None else layer_of(model, prefix)
        if content.offered is not None and order is None and prefix is None:
            description, arrays, unsaid = content.offered()
            model = filled(description, arrays, batch_first, options)
            model._untold = unsaid
            return model
        parts = find_parts(state, key)
        if prefix is not None:
            parts = within(parts, prefix)
        elif content.untold and order is None:
            raise ValueError(
                f"{content.untold}: say the order, as in fastlstm.load(path, order="
                f"{list(parts)[:5]!r}), with fastlstm.Last() and activations in their places; or "
                "load it into a model by into=model, or one layer by prefix="
            )
        left: list[str] = []
        if order is None:
            description, arrays, unsaid = inference.infer(parts, form.ORDERED)
        else:
            description, arrays, left = inference.arrange(parts, order, form.ORDERED)
            unused = [*left, *parts.numbers]
            unsaid = f"left out of the file: {quoted(unused)}" if unused else ""
        model = filled(description, arrays, batch_first, options)
    if unsaid := "; ".join(filter(None, [unsaid, content.untold])):
        model._untold = unsaid
    if left:
        warnings.warn(f"{file_name(path)}: {unsaid}", stacklevel=2)
    if lost := untold.in_text(content.model):
        warnings.warn(_lost(path, lost), stacklevel=2)
    return model


def load_lstm(
    path: ModelFile,
    *,
    prefix: str | None = None,
    key: str | None = None,
    batch_first: bool | None = None,
    dtype: Precision | None = None,
    engine: EngineChoice = "auto",
) -> LSTM:
    """Load one LSTM out of a file, whatever else the file holds.

    Parameters
    ----------
    path, key, batch_first, dtype, engine
        As for `load`.
    prefix : str, optional
        What the names of its parameters have before ``weight_ih_l0``, with or without the dot:
        ``"lstm"``, ``"encoder.rnn"``, ``""``. It is not needed if there is only one LSTM.

    Returns
    -------
    LSTM
        In evaluation mode. An LSTMCell (``weight_ih``) gives an LSTM of one layer.

    Raises
    ------
    ValueError
        As `load` raises it. Also if there is no such LSTM, or if there are several and no prefix is
        given; the sentence lists their prefixes.
    TypeError
        If the prefix is not a string.

    Warns
    -----
    UserWarning
        If arrays that stand beside the LSTM's own parameters, such as a learnt first state, are
        left out. Also as `load` warns of a checkpoint, and if the file is one of Keras that has
        weights alone, which do not tell activations.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pt")
    >>> save(fastlstm.Sequential({"rnn": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)}), path)
    >>> load_lstm(path, prefix="rnn", batch_first=True)
    LSTM(3, 4, batch_first=True)
    """
    options = _check_arguments(prefix, batch_first, dtype, engine)
    with naming(path) as origin:
        content, _ = read(path, Choice(key, _OF_AN_LSTM, engine), origin)
        state, description = content.state, content.structure
        if prefix is not None:
            state.require(with_dot(prefix), _LOCAL)
        parts = find_parts(state)
        if description is not None:
            tell(parts, structure.recurrent(description))
        tell(parts, content.recurrent)
        try:
            name, part = find_lstm(parts, prefix)
        except ValueError:
            state.require(local=".*" + _LOCAL)  # an array that was not read may be the reason
            raise
        state.require(with_dot(name), _LOCAL)
        if description is not None:
            layer = layer_of(filled(description, state, batch_first, options), name)
            if isinstance(layer, LSTM):
                return layer
        lstm = cast(LSTM, filled(*as_lstm(part), batch_first, options))
    if content.untold:
        warnings.warn(f"{file_name(path)}: {content.untold}", stacklevel=2)
    if left := [other for other in parts[name].arrays if other not in part.arrays]:
        what = f"what {quoted(left)} beside the LSTM's own parameters does is not known"
        warnings.warn(f"{file_name(path)}: {what}; left out", stacklevel=2)
    if description is None and (lost := untold.in_text(content.model)):
        warnings.warn(_lost(path, lost), stacklevel=2)
    return lstm


def load_state(path: ModelFile, *, key: str | None = None) -> dict[str, Array]:
    """Load the arrays of a file by their names, for `Layer.load_state_dict` or any other use.

    Parameters
    ----------
    path, key
        As for `load`.

    Returns
    -------
    dict of str -> ndarray
        The arrays as they are stored, but floats of 8 and 16 bits are widened to float32, which is
        exact. Weights that torch stored once under two names share their memory. An expanded tensor
        is a read-only view of the numbers that are stored. From a `Checkpoint` of `fit`, the
        parameters of its model are read. From an ONNX file, those of the layers in it are read,
        under torch's names behind that of the node; they are read-only.

    Raises
    ------
    ValueError, OSError, ImportError
        As `load` raises them. Also if an entry of the state dict is not an array: a sparse or
        quantised tensor, numbers of a type that NumPy lacks, an object in the place of a weight.
        `load_lstm` refuses such an entry only in the LSTM that it loads.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "linear.npz")
    >>> save(fastlstm.Linear(2, 1), path)
    >>> list(load_state(path))
    ['weight', 'bias']
    """
    with naming(path) as origin:
        content, _ = read(path, Choice(key, engine="numpy"), origin)
        return dict(content.state.require())


def load_notes(path: ModelFile, *, key: str | None = None) -> dict[str, Any]:
    """Load what a file says beside its model, such as the sample rate of a model of sound.

    Parameters
    ----------
    path, key
        As for `load`. Notes are of the whole file; `key` is what it takes to read one that holds
        several state dicts.

    Returns
    -------
    dict of str -> object
        As JSON has it, under the file's own names: of a .nam file and of RTNeural's and GuitarML's
        JSON all but the layers and their weights, of an .npz file the notes of its writer, of a
        checkpoint of Lightning's, as Darts and neuralforecast have them, those of its
        hyper-parameters that are plain values. Empty for a file that says nothing. Whatever they
        are, they are the writer's words: nothing of them has been checked.

    Raises
    ------
    ValueError, OSError, ImportError
        As `load` raises them.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "amp.nam")
    >>> amp = fastlstm.Sequential(fastlstm.LSTM(1, 8, seed=0), fastlstm.Linear(8, 1, seed=0))
    >>> save(amp, path, sample_rate=48000)
    >>> load_notes(path)["sample_rate"]
    48000.0
    """
    with naming(path) as origin, recognised(path, origin) as (source, form):
        if form is npz:  # which reads them alone: a model is right, whatever stands beside it
            Choice(key).refuse_key()
            return npz.read_notes(source) or {}
        return dict(form.read(source, Choice(key, engine="numpy")).notes)


def save(
    model: Layer,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    names: Mapping[str, str] | None = None,
    lengths: bool | None = None,
    states: bool | None = None,
    sample_rate: float | None = None,
    form: str | None = None,
) -> None:
    """Save a model; the suffix of the path decides the format.

    Parameters
    ----------
    model : Layer
    path : str or path-like
        ``.npz`` (fastlstm's own format, which np.load opens too) and ``.safetensors`` hold
        parameters and structure, so that `load` gives the same model. ``.pt`` and ``.pth`` hold the
        state dict for ``torch.load``, and no structure. ``.onnx`` holds what the model computes in
        evaluation, for onnxruntime, OpenVINO and others to run, and its structure too. ``.keras``
        is a model for Keras' ``load_model``, ``.weights.h5`` arrays for its ``load_weights``.
        ``.fl`` is a model for fastlstm's C library, with its structure.
        ``.json`` is a model for RTNeural and AIDA-X, ``.nam`` one for Neural Amp Modeler.
        ``.mat`` is a chain of layers for MATLAB.
    opset : int, optional
        For .onnx: the version of ONNX's operators, from 14, which is taken if it is left out and
        which the most programs know, to the newest of the installed onnx package.
    names : dict of str -> str, optional
        For .onnx: names for inputs and outputs, as ``{"input": "x", "output": "y"}``. Those that
        are left out are called ``input``, ``lengths``, ``output``; ``h_0``, ``c_0``, ``h_n``,
        ``c_n`` where one layer has states, ``encoder.h_0`` and so on where several have;
        ``h_0_l0``, ``h_0_l1`` and so on where layers have different widths.
    lengths : bool, optional
        For .onnx: whether the real steps of each sequence are an input, int64 of shape (batch,).
        Without it all steps are real.
    states : bool, optional
        For .onnx: whether initial and final states are inputs and outputs, in torch's shapes.
        Without it sequences begin with zeros, or with the learned states, and the final states are
        no outputs; but an LSTMCell always gives its own.
    sample_rate : float, optional
        For .fl, .nam and .json: how many steps of the signal that the model was made for are a
        second, in Hz.
    form : {"keras", "torch"}, optional
        For .json: which of RTNeural's two forms, the layers in their order, which is taken if it is
        left out, or the state dict.

    Raises
    ------
    ValueError
        If the suffix is not one of these, if it has no such option, or if the format cannot hold
        what the model computes; the sentence names the layer and its option.
    TypeError
        If `model` is not a layer, or its structure cannot be stored, as that of a `GraphModel`.
    ImportError
        If the format needs a library that is missing.

    Warns
    -----
    UserWarning
        If the file holds no structure, and the model has options of the recurrence that the arrays
        do not tell, such as ``gate_clip``, or a `Residual` or a `Concat`.

    Notes
    -----
    The file is written under another name and then renamed, so that a failure leaves an old file
    as it was.

    Examples
    --------
    >>> save(fastlstm.LSTM(3, 4), "model.h5")
    Traceback (most recent call last):
    ...
    ValueError: model.h5: the suffix must be one of .safetensors, .pt, .pth, .npz, .onnx, .fl, \
.keras, .weights.h5, .json, .nam, .mat, got '.h5'
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a layer, got {type(model).__name__}")
    path = Path(path)
    given: dict[str, Any] = {"opset": opset, "names": names, "lengths": lengths, "states": states}
    given |= {"sample_rate": sample_rate, "form": form}
    options = {name: value for name, value in given.items() if value is not None}
    written = written_format(path, options)
    if isinstance(model, GraphModel) and written.STRUCTURED:
        inside = quoted(name for name in model.children) or "none"
        raise TypeError(
            f"{path}: a model that was read from a graph is not written, its file can be copied; "
            f"one of its layers is, if prefix= (--prefix) names it when it is loaded: {inside}"
        )
    with written_aside(path) as file, naming(path):
        written.write(file, model, **options)
    if not written.STRUCTURED and (lost := untold.in_model(model)):
        warnings.warn(
            f"{path}: such a file holds arrays alone, which do not tell {lost}: load it with "
            "fastlstm.load(path, into=model), or save the model as .npz",
            stacklevel=2,
        )


def _check_arguments(
    prefix: str | None, batch_first: bool | None, dtype: Precision | None, engine: EngineChoice
) -> dict[str, Any]:
    """Check arguments before the file is read, because the file is not to blame for them.

    Return the options that go to the layers' constructors.
    """
    threads(None, choose(engine)[0])
    if not isinstance(prefix, (str, type(None))):
        raise TypeError(f"prefix must be a string, got {type(prefix).__name__}")
    check_batch_first(batch_first)
    return {"engine": engine} | ({} if dtype is None else {"dtype": check_dtype(dtype)})


def _lost(path: ModelFile, options: str) -> str:
    """Return the warning that a model is loaded without these options, which its file names."""
    return (
        f"{file_name(path)}: its model had {options}, and what is loaded here has not: "
        "fastlstm.load(path, into=model) takes these options from a model"
    )


def _check_into(model: Layer, **others: Any) -> None:
    if not isinstance(model, Layer):
        raise TypeError(f"into must be a layer, got {type(model).__name__}")
    if given := [name for name, value in others.items() if value is not None]:
        raise ValueError(f"{' and '.join(given)} cannot be given with into=: the model has its own")
