"""Weights of torch as engine native packs them, once for each version of the parameters."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..arrays import quiet
from ..engines.contract import Array, Cell

if TYPE_CHECKING:
    from ..engines import _native
else:
    from ..engines import load

    try:
        _native = load("native")
    except ImportError as fault:
        raise ImportError(f"fastlstm.torch computes with engine native alone: {fault}") from fault


class Misfit(ValueError):
    """Arguments that do not belong together, such as weights of other layers."""


class _Pack:
    """The stack of one version of some parameters, and what tells whether it still is theirs."""

    def __init__(
        self,
        key: tuple[int, ...],
        weights: Sequence[torch.Tensor],
        each: int,
        directions: int,
        back: bool,
    ) -> None:
        self.versions, self.places = _versions(weights), [w.data_ptr() for w in weights]
        self.back = back
        _check(weights, each, directions)
        arrays = [as_array(w) for w in weights]
        # What is not contiguous, or yet to be negated, has been copied, and later writes to it
        # would not be seen.
        self.is_watched = all(w.is_contiguous() and not w.is_neg() for w in weights)
        self.sample = _native.Sample(arrays, whole=not self.versions)
        cells = [_cell(arrays[k : k + each]) for k in range(0, len(arrays), each)]
        if directions == 2:
            for k in range(1, len(cells), 2):
                vars(cells[k])["reverse"] = True
        self.stack = _native.Stack(cells, directions, back, _spare if back else None)
        # The entry goes when one of the parameters does, so that an identity that is found among
        # the entries is that of the same tensor.
        self.owners = [_Owner(w, _drop) for w in weights]
        for owner in self.owners:
            owner.key = key

    def is_of(self, weights: Sequence[torch.Tensor], back: bool) -> bool:
        """Whether nobody has written the parameters since.

        Operators of torch count the version up when they write. Fused optimisers do not, nor does
        who writes through `.data` or an array of NumPy, so some values are looked at too.
        """
        return (
            (self.back or not back)
            and self.is_watched
            and self.versions == _versions(weights)
            and self.places == [w.data_ptr() for w in weights]
            and self.sample.holds()
        )


# Training packs the weights anew and fills other tapes and gradients at every step. Fresh memory
# would cost a tenth of the time: the system gives it page by page. All LSTMs hand on the same.
_spare = _native.Spare(1 << 28)

_packs: dict[tuple[int, ...], _Pack] = {}  # by the identities of the parameters


class _Owner(weakref.ref[torch.Tensor]):
    """A parameter of which a pack is kept, under this key."""

    key: tuple[int, ...]


def _drop(owner: Any) -> None:
    _packs.pop(owner.key, None)


def stack_of(
    weights: Sequence[torch.Tensor], each: int, directions: int, back: bool
) -> _native.Stack:
    """Return the stack of these parameters: packed now, unless they are as they were.

    Parameters
    ----------
    weights : sequence of Tensor
        On the CPU, of float32 or float64, in torch's order: for each layer and direction W_ih
        (4H, I), W_hh (4H, P), b_ih and b_hh (4H,) if there are biases, and W_hr (P, H) if there is
        a projection.
    each : int
        How many of them a layer has in each direction, which tells what there is: 2 to 5.
    directions : {1, 2}
    back : bool
        Whether gradients will be asked for. Such a stack has one layer.
    """
    key = (each, directions, *map(id, weights))
    pack = _packs.get(key)
    if pack is not None and pack.is_of(weights, back):
        return pack.stack
    if pack is not None:
        back = back or pack.back
        _packs.pop(key, None)
        del pack  # so that its memory is there to take again
    pack = _packs[key] = _Pack(key, weights, each, directions, back)
    return pack.stack


def forget(weights: Iterable[torch.Tensor | None]) -> None:
    """Drop all that is kept of these parameters."""
    for weight in weights:
        for owner in [] if weight is None else weakref.getweakrefs(weight):
            if isinstance(owner, _Owner):
                _drop(owner)


def _check(weights: Sequence[torch.Tensor], each: int, directions: int) -> None:
    """Refuse what a kernel in C would read beyond."""
    (gates, inputs), outputs = weights[0].shape, weights[1].shape[-1]
    for n, w in enumerate(weights):
        features = inputs if n < each * directions else directions * outputs
        shape = {0: (gates, features), 1: (gates, outputs)}.get(n % each, (gates,))
        if each % 2 and n % each == each - 1:
            shape = outputs, gates // 4
        if w.shape != shape or w.dtype is not weights[0].dtype or w.device.type != "cpu":
            raise Misfit(
                f"Expected weight {n} of shape {shape} and {weights[0].dtype} on the CPU, "
                f"got {tuple(w.shape)}, {w.dtype} on {w.device}"
            )
    if gates % 4 or (outputs != gates // 4 and not each % 2):
        raise Misfit(f"Expected 4H rows and H columns of W_hh, got {tuple(weights[1].shape)}")


@quiet
def _cell(arrays: Sequence[Array]) -> Cell:
    """Return one layer's parameters in one direction, with torch's two biases added up."""
    w_ih, w_hh, *more = arrays
    b = more[0] + more[1] if len(arrays) > 3 else np.zeros(len(w_ih), w_ih.dtype)
    w_hr = more[-1] if len(arrays) % 2 else None
    return Cell(w_ih, w_hh, b, w_hr)


def as_array(tensor: torch.Tensor) -> Array:
    """Return what a tensor on the CPU holds, C-contiguous; not a copy if it is so already."""
    array: Array = tensor.contiguous().numpy(force=True)
    return array


def _versions(weights: Sequence[torch.Tensor]) -> list[int]:
    """Count how often operators of torch have written each of them; [] if one does not count."""
    try:
        return [w._version for w in weights]
    except RuntimeError:  # it has been made in inference mode
        return []


_one = np.zeros((4, 1), np.float32)
VECTOR_BYTES = 4 * _native.Stack([Cell(_one, _one, _one[:, 0])], 1).lanes
"""The bytes of a vector of the instruction set that runs, to which tapes are laid out."""
