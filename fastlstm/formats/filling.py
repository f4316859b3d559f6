"""Models that get the parameters of a file: built as it describes them, or the caller's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import quoted, short
from ..layers import LSTM, Last, Layer, LSTMCell
from ..layers.parameters import undrawn
from . import structure, untold
from .folding import fold
from .parts import called_with

if TYPE_CHECKING:
    from ..arrays import Array
    from .source import State

_Model = TypeVar("_Model", bound=Layer)


def filled(
    description: Any, arrays: Mapping[str, Array], batch_first: bool | None, options: dict[str, Any]
) -> Layer:
    """Build the model that is described, and load its parameters."""
    with undrawn():
        model = structure.build(description, state=arrays, **options)
    agreeing(model, batch_first)
    model.load_state_dict(arrays)
    return model.eval()


def agreeing(model: Layer, batch_first: bool | None) -> Layer:
    """Return a model whose layers take their input as the caller says; refuse a contradiction."""
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
    return model


def load_into(
    model: _Model,
    state: State,
    told: dict[str, dict[str, Any]],
    key: str | None,
    prefix: str | None,
) -> _Model:
    """Fill a model of the caller's.

    `told` has what the file tells of the arguments of LSTMs and LSTMCells, by their prefixes.
    """
    arrays = _state_for(model, state, prefix)
    _refuse_others(model, told, with_dot(prefix))
    try:
        model.load_state_dict(arrays)
    except ValueError as fault:
        if prefix is not None or arrays.keys() <= model.state_dict().keys():
            raise
        where = called_with(key)
        raise ValueError(
            f"{fault}\n\tmodel.load_state_dict(fastlstm.load_state({where}), strict=False) "
            "leaves out what the model lacks, and returns its names."
        ) from fault
    model.eval()
    return model


def _state_for(model: Layer, state: State, prefix: str | None) -> dict[str, Array]:
    """Return the arrays for a model of the caller's.

    Parameters that are stored in pieces are put together, unless the model has the pieces itself.
    """
    prefix = with_dot(prefix)
    wanted = {prefix + name for name in model.state_dict()}
    folded, faults = fold(state)
    arrays: dict[str, Array] = state
    if wanted <= folded.keys() or not wanted <= state.keys():
        arrays = folded
        if fault := next((faults[at] for at in faults if at.startswith(prefix)), None):
            raise ValueError(fault)
    inside = {name: array for name, array in arrays.items() if name.startswith(prefix)}
    return {name[len(prefix) :]: a for name, a in inside.items() if a.ndim or name in wanted}


def _refuse_others(model: Layer, told: dict[str, dict[str, Any]], prefix: str) -> None:
    """Refuse a model of the caller's if the file says another layout or cell of one of its LSTMs.

    What matters in training alone, and zoneout, which can be set at any time, may differ.
    """
    for name, layer in model.named_layers(prefix):
        if not isinstance(layer, (LSTM, LSTMCell)):
            continue
        for argument, said in told.get(name, {}).items():
            own = structure.argument(layer, argument) if hasattr(layer, argument) else said
            is_open = argument == "batch_first" and None in (said, own)
            if argument in {"batch_first", *untold.CELL} and said != own and not is_open:
                raise ValueError(
                    f"{name.removesuffix('.') or f'the {type(layer).__name__}'} has "
                    f"{argument}={said!r:.100} in the file, {own!r} in the model given"
                )


def layer_of(model: Layer, prefix: str) -> Layer:
    """Return the layer of a model whose parameters have this prefix."""
    layers = {prefix[:-1]: layer for prefix, layer in model.named_layers()}
    prefix = prefix.removesuffix(".")
    if prefix not in layers:
        raise ValueError(f"nothing has the prefix {short(prefix)}; there are {quoted(layers)}")
    return layers[prefix]


def with_dot(prefix: str | None) -> str:
    return f"{prefix.removesuffix('.')}." if prefix else ""
