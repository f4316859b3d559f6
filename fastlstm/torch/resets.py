"""Sequences that begin anew in the middle: `reset` of `LSTM`, as reinforcement learning needs it.

The pieces between resets are sequences of their own, packed, which any LSTM of torch can run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..arrays import as_array
from ..sequences import batch, packing
from .dynamo import beside_graphs, is_transformed

if TYPE_CHECKING:
    from .modules import LSTM


@beside_graphs  # what is computed depends on values
def run_with_resets(
    run: Callable[[Any, Any], Any], lstm: LSTM, input: Any, hx: Any, reset: Any
) -> Any:
    """Do what ``run(input, hx)`` of `lstm` does, with zeros for states before steps of `reset`."""
    if is_transformed():
        raise RuntimeError("reset decides what is computed, and cannot be given in a transform")
    packed = isinstance(input, PackedSequence)
    x: Tensor = input.data if packed else input
    unbatched = not packed and x.dim() == 2
    if hx is not None:
        h_0, c_0 = (state.unsqueeze(1) if unbatched else state for state in hx)
        whole = x.unsqueeze(0 if lstm.batch_first else 1) if unbatched else x
        lstm.check_forward_args(whole, (h_0, c_0), input.batch_sizes if packed else None)
    told = as_array(reset.detach().cpu() if isinstance(reset, Tensor) else reset, "reset")
    backward = (False, True)[: 1 + lstm.bidirectional]
    if not packed and told.dtype == bool and told.shape == x.shape[:-1]:
        steps = told.T if lstm.batch_first else told
        if not steps[1:].any():
            return run(input, _begun_anew(hx, steps[:1], len(backward)))
    rows: Any = np.zeros((*x.shape[:-1], 1), np.float32)  # only where they go is asked for
    if packed:
        order = (None if part is None else part.cpu().numpy() for part in input[2:])
        rows = packing.PackedSequence(rows, input.batch_sizes.numpy(), *order)
    pieces = batch.arrange(
        rows, None, 1, np.dtype(np.float32), lstm.batch_first, reset=told, backward=backward
    )
    if not isinstance(pieces, batch.Pieces):  # there are no sequences
        return run(input, hx)

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(x.device)

    index = tensor(pieces.index)
    inverse = torch.empty_like(index)
    inverse[index] = torch.arange(len(index), device=x.device)
    together = PackedSequence(
        _Reorder.apply(x.flatten(0, -2), index, inverse), torch.from_numpy(pieces.batch_sizes)
    )
    d, count = len(backward), len(pieces.sequences)
    if hx is not None:
        # For each direction: the states of some sequences go to the pieces with which these begin.
        starts = []
        for state in (h_0, c_0):
            each = [
                state.new_zeros((state.shape[0] // d, count, state.shape[2])).index_copy(
                    1, tensor(end.first[0]), state[k::d].index_select(1, tensor(end.first[1]))
                )
                for k, end in enumerate(pieces.ends)
            ]
            starts.append(torch.stack(each, 1).flatten(0, 1))
        hx = tuple(starts)
    result, final = run(together, hx)
    y = _Reorder.apply(result.data, inverse, index)
    states = []
    for state in final:
        each = [
            state[k::d].index_select(1, tensor(end.last[0][np.argsort(end.last[1])]))
            for k, end in enumerate(pieces.ends)
        ]
        whole = torch.stack(each, 1).flatten(0, 1)
        states.append(whole.squeeze(1) if unbatched else whole)
    if packed:
        return PackedSequence(y, *input[1:]), tuple(states)
    return y.reshape((*x.shape[:-1], y.shape[-1])), tuple(states)


def _begun_anew(hx: Any, first: Any, directions: int) -> Any:
    """Return the states to begin with where `first`, (1, B) or (1,), is the reset of step 0.

    Those of the direction from the end stay: it comes to step 0 last.
    """
    if hx is None or not first.any():
        return hx
    gone = torch.from_numpy(np.ascontiguousarray(first))[..., None].to(hx[0].device)
    given = [state.clone() for state in hx]
    for state in given:
        state[::directions].masked_fill_(gone if state.dim() == 3 else gone[0], 0)
    return tuple(given)


class _Reorder(torch.autograd.Function):
    """Rows in another order, and back: a gather each time, where torch's own gradient adds."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, d_rows: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Reorder.apply(d_rows, inverse, index), None, None
