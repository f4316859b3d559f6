"""The operators ``fastlstm::lstm``, ``lstm_layer`` and ``lstm_layer_backward`` of torch.library.

`lstm` is what modules call: layers on top of each other, as torch's own ``aten::lstm`` has them
without dropout. Its kernel for autograd runs layer by layer, by `lstm_layer`, which keeps what the
gradients need in a tensor, the tape; `lstm_layer_backward` computes them. All three are functions
of their arguments alone, write none of these, and return tensors of their own.

Shapes, with the names of `fastlstm.engines.contract` and D directions: a padded input is (T, B, I),
or (B, T, I) if `batch_first`; packed rows are (N, I), and `batch_sizes` says how many sequences
each step has, as in torch's PackedSequence. States are (layers * D, B, P) and (layers * D, B, H).
`weights` are what `packs.stack_of` takes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .dynamo import untraced
from .packs import VECTOR_BYTES, stack_of

_library = torch.library.Library("fastlstm", "DEF")
_library.define(
    "lstm(Tensor input, Tensor? batch_sizes, Tensor h_0, Tensor c_0, Tensor[] weights, "
    "bool has_biases, int num_layers, bool bidirectional, bool batch_first) "
    "-> (Tensor output, Tensor h_n, Tensor c_n)"
)
_library.define(
    "lstm_layer(Tensor input, Tensor? batch_sizes, Tensor h_0, Tensor c_0, Tensor[] weights, "
    "bool has_biases, bool bidirectional) "
    "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor tape)"
)
_library.define(
    "lstm_layer_backward(Tensor d_output, Tensor d_h_n, Tensor d_c_n, Tensor input, "
    "Tensor? batch_sizes, Tensor[] weights, bool has_biases, bool bidirectional, Tensor output, "
    "Tensor tape, bool input_gradient) "
    "-> (Tensor d_input, Tensor d_h_0, Tensor d_c_0, Tensor[] d_weights)"
)
lstm = torch.ops.fastlstm.lstm.default
lstm_layer = torch.ops.fastlstm.lstm_layer.default
lstm_layer_backward = torch.ops.fastlstm.lstm_layer_backward.default


# ---- what the arguments say --------------------------------------------------------------------


class _Sizes(NamedTuple):
    """What the weights tell of a stack of layers."""

    each: int  # how many parameters a layer has in each direction
    directions: int
    I: int  # noqa: E741
    H: int
    P: int


class Steps(NamedTuple):
    """How many sequences each step has."""

    sizes: Tensor | None  # contiguous; None: `batch` at every step
    number: int
    batch: int
    rows: int

    @property
    def told(self) -> tuple[int, int, int, int]:
        """The same, as engine native is told."""
        return 0 if self.sizes is None else self.sizes.data_ptr(), *self[1:]


def _sizes(weights: Sequence[Tensor], num_layers: int, bidirectional: bool) -> _Sizes:
    w_ih, w_hh, directions = weights[0], weights[1], 1 + bidirectional
    each = len(weights) // (num_layers * directions)
    return _Sizes(each, directions, w_ih.shape[1], w_ih.shape[0] // 4, w_hh.shape[1])


def _checked(
    input: Tensor,
    batch_sizes: Tensor | None,
    states: tuple[Tensor, Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> tuple[_Sizes, Steps]:
    """Refuse what a kernel in C would read beyond; return the sizes, and the steps.

    A padded input is (T, B, I). The shapes of the weights are checked when they are packed.
    """
    cells = num_layers * (1 + bidirectional)
    kinds = (4 * cells, 5 * cells) if has_biases else (2 * cells, 3 * cells)
    if num_layers < 1 or len(weights) not in kinds:
        raise ValueError(
            f"Expected {kinds[0]} weights for num_layers={num_layers}, has_biases={has_biases}, "
            f"bidirectional={bidirectional}, or {kinds[1]} with projections, got {len(weights)}"
        )
    dtype = weights[0].dtype
    if dtype is not torch.float32 and dtype is not torch.float64:
        raise TypeError(f"Expected weights of float32 or float64, got {dtype}")
    sizes = _sizes(weights, num_layers, bidirectional)
    packed = batch_sizes is not None
    if input.dim() != 3 - packed or input.shape[-1] != sizes.I:
        raise ValueError(
            f"Expected {'packed rows (N, ' if packed else 'input (T, B, '}{sizes.I}), "
            f"got {[*input.shape]}"
        )
    if batch_sizes is None:
        number, batch = input.shape[0], input.shape[1]
        steps = Steps(None, number, batch, number * batch)
    else:
        of_steps, batch = batch_sizes.contiguous(), states[0].shape[1]
        array = of_steps.numpy()
        if (
            array.dtype != np.int64
            or array.ndim != 1
            or array.sum() != len(input)
            or (array[:1] != batch).any()
            or (array < 1).any()
            or (array[1:] > array[:-1]).any()
        ):
            raise ValueError(
                f"Expected batch_sizes that begin with {batch} as the states, never increase and "
                f"add up to {len(input)} rows, got {array.tolist()!s:.100}"
            )
        steps = Steps(of_steps, len(array), batch, len(input))
    for tensor, shape in (
        (input, input.shape),
        (states[0], (cells, batch, sizes.P)),
        (states[1], (cells, batch, sizes.H)),
    ):
        if tensor.dtype is not dtype or tensor.shape != shape:
            raise ValueError(
                f"Expected input and states of {dtype}, states of shapes {(cells, batch, sizes.P)} "
                f"and {(cells, batch, sizes.H)}, got {tensor.dtype} of {[*tensor.shape]}"
            )
    return sizes, steps


def _tape_bytes(rows: Any, batch: Any, sizes: _Sizes, itemsize: int) -> Any:
    """Return how large the tape is that engine native keeps; also of symbolic rows and batches.

    It is what `fl_place_tape` in native/run.c places, which refuses less.
    """
    lanes = VECTOR_BYTES // itemsize
    units = -(-sizes.H // lanes) * lanes
    together = max(1, 2048 // (4 * VECTOR_BYTES))  # rows of a panel that go together
    panel_rows = ((rows + together - 1) // together // 2 * 2 + 1) * together
    values = batch * sizes.P, batch * units, panel_rows * units * 4, panel_rows * units
    return sum((count * itemsize + 63) // 64 * 64 for count in values) * sizes.directions + 64


_tape_room = functools.lru_cache(64)(_tape_bytes)  # which is not for symbolic numbers


# ---- kernels of the CPU ------------------------------------------------------------------------


def _time_major(input: Tensor, batch_first: bool) -> Tensor:
    return input.transpose(0, 1) if batch_first else input


def _memory(size: int) -> Tensor:
    """Return bytes for a tape, which begin at a multiple of 64.

    Linux gives memory page by page when it is first written, which for a large tape can take longer
    than the run that it is of. NumPy asks for huge pages, torch does not.
    """
    if size < 1 << 22:  # as little as NumPy does not ask for either
        return torch.empty(size, dtype=torch.uint8)
    memory = np.empty(size + 63, np.uint8)
    begin = -memory.ctypes.data % 64
    return torch.from_numpy(memory[begin : begin + size])


def _copy(state: Tensor) -> Tensor:
    return state.detach().clone(memory_format=torch.contiguous_format)


@torch.library.impl(_library, "lstm", "CPU")
@untraced
def _lstm(
    input: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run layers on top of each other: equations (1) to (5)."""
    x = _time_major(input, batch_first)
    sizes, steps = _checked(
        x, batch_sizes, (h_0, c_0), weights, has_biases, num_layers, bidirectional
    )
    stack = stack_of(weights, sizes.each, sizes.directions, False)
    h, c = _copy(h_0), _copy(c_0)
    output = run(stack, x, steps, h, c, sizes.directions * sizes.P)
    return _time_major(output, batch_first), h, c


def run(stack: Any, x: Tensor, steps: Steps, h: Tensor, c: Tensor, features: int) -> Tensor:
    """Run a stack over x, and return y; h and c, C-contiguous, become the final states.

    Nothing is checked, and nobody sees it: autograd, modes and profilers are the caller's.
    """
    x = x.contiguous()
    output = x.new_empty((*x.shape[:-1], features))
    if steps.rows:
        places = x.data_ptr(), h.data_ptr(), c.data_ptr(), output.data_ptr()
        stack.run_at(steps.told, *places, torch.get_num_threads())
    return output


@torch.library.impl(_library, "lstm_layer", "CPU")
@untraced
def _lstm_layer(
    input: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run one layer, and keep a tape of it."""
    sizes, steps = _checked(input, batch_sizes, (h_0, c_0), weights, has_biases, 1, bidirectional)
    stack = stack_of(weights, sizes.each, sizes.directions, True)
    x, h, c = input.contiguous(), _copy(h_0), _copy(c_0)
    output = x.new_empty((*x.shape[:-1], sizes.directions * sizes.P))
    tape = _memory(_tape_room(steps.rows, steps.batch, sizes, x.element_size()))
    if steps.rows:
        places = x.data_ptr(), h.data_ptr(), c.data_ptr(), output.data_ptr(), tape.data_ptr()
        stack.record_at(steps.told, *places, len(tape), torch.get_num_threads())
    return output, h, c, tape


@torch.library.impl(_library, "lstm_layer_backward", "CPU")
@untraced
def _lstm_layer_backward(
    d_output: Tensor,
    d_h_n: Tensor,
    d_c_n: Tensor,
    input: Tensor,
    batch_sizes: Tensor | None,
    weights: list[Tensor],
    has_biases: bool,
    bidirectional: bool,
    output: Tensor,
    tape: Tensor,
    input_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Go back through one layer: equations (6) to (10)."""
    sizes, steps = _checked(
        input, batch_sizes, (d_h_n, d_c_n), weights, has_biases, 1, bidirectional
    )
    if d_output.shape != output.shape or d_output.dtype is not output.dtype:
        raise ValueError(f"Expected d_output of {[*output.shape]}, got {[*d_output.shape]}")
    stack = stack_of(weights, sizes.each, sizes.directions, True)
    x, y, dy = input.contiguous(), output.contiguous(), d_output.contiguous()
    dh, dc, dx = _copy(d_h_n), _copy(d_c_n), input.new_empty(input.shape if input_gradient else 0)
    # The engine adds to gradients, and that of b is those of b_ih and b_hh.
    dw = [w.new_zeros(w.shape) for w in weights]
    if steps.rows:
        if tape.data_ptr() % 64:  # it has been copied to a place that is aligned otherwise
            tape = tape.clone()
        b = None if has_biases else x.new_zeros(4 * sizes.H)
        of_cells = [dw[k : k + sizes.each] for k in range(0, len(dw), sizes.each)]
        places = [
            (
                of[0].data_ptr(),
                of[1].data_ptr(),
                (of[2] if b is None else b).data_ptr(),
                of[-1].data_ptr() if sizes.each % 2 else 0,
            )
            for of in of_cells
        ]
        stack.back_at(
            steps.told, x.data_ptr(), y.data_ptr(), tape.data_ptr(), len(tape),
            dy.data_ptr(), dh.data_ptr(), dc.data_ptr(), dx.data_ptr() if input_gradient else 0,
            places, torch.get_num_threads(),
        )  # fmt: skip
        if b is None:
            for of in of_cells:
                of[3].copy_(of[2])
    return dx, dh, dc, dw


# ---- kernels for tensors that have shapes alone ------------------------------------------------


@torch.library.register_fake("fastlstm::lstm", lib=_library)
def _fake_lstm(
    input: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    sizes, x = _sizes(weights, num_layers, bidirectional), _time_major(input, batch_first)
    output = x.new_empty((*x.shape[:-1], sizes.directions * sizes.P))
    return _time_major(output, batch_first), h_0.new_empty(h_0.shape), c_0.new_empty(c_0.shape)


@torch.library.register_fake("fastlstm::lstm_layer", lib=_library)
def _fake_lstm_layer(
    input: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes, rows = _sizes(weights, 1, bidirectional), input[..., 0].numel()
    needed = _tape_bytes(rows, h_0.shape[1], sizes, input.element_size())
    return (
        input.new_empty((*input.shape[:-1], sizes.directions * sizes.P)),
        h_0.new_empty(h_0.shape),
        c_0.new_empty(c_0.shape),
        input.new_empty(needed, dtype=torch.uint8),
    )


@torch.library.register_fake("fastlstm::lstm_layer_backward", lib=_library)
def _fake_lstm_layer_backward(
    d_output: Tensor,
    d_h_n: Tensor,
    d_c_n: Tensor,
    input: Tensor,
    batch_sizes: Tensor | None,
    weights: list[Tensor],
    has_biases: bool,
    bidirectional: bool,
    output: Tensor,
    tape: Tensor,
    input_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    return (
        input.new_empty(input.shape if input_gradient else 0),
        d_h_n.new_empty(d_h_n.shape),
        d_c_n.new_empty(d_c_n.shape),
        [w.new_empty(w.shape) for w in weights],
    )


# ---- autograd ----------------------------------------------------------------------------------


@torch.library.impl(_library, "lstm", "Autograd")
@untraced
def _lstm_autograd(
    input: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run layer by layer if somebody will ask for gradients, and all layers at once otherwise."""
    if not torch.is_grad_enabled() or not any(
        tensor.requires_grad for tensor in (input, h_0, c_0, *weights)
    ):
        with torch._C._AutoDispatchBelowAutograd():
            return lstm(
                input, batch_sizes, h_0, c_0, weights,
                has_biases, num_layers, bidirectional, batch_first,
            )  # fmt: skip
    x, d, per_layer = _time_major(input, batch_first), 1 + bidirectional, len(weights) // num_layers
    h, c = h_0.split(d), c_0.split(d)
    states = []
    for k in range(num_layers):
        own = weights[k * per_layer : (k + 1) * per_layer]
        x, *final = _Layer.apply(x, batch_sizes, h[k], c[k], has_biases, bidirectional, *own)
        states.append(final)
    h_n, c_n = (of[0] if num_layers == 1 else torch.cat(of) for of in zip(*states, strict=True))
    return _time_major(x, batch_first), h_n, c_n


@torch.library.impl(_library, "lstm_layer", "Autograd")
@untraced
def _lstm_layer_autograd(*args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return lstm_layer(*args)


class _Layer(torch.autograd.Function):
    """One layer, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        batch_sizes: Tensor | None,
        h_0: Tensor,
        c_0: Tensor,
        has_biases: bool,
        bidirectional: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            output, h_n, c_n, tape = lstm_layer(
                input, batch_sizes, h_0, c_0, weights, has_biases, bidirectional
            )
        ctx.save_for_backward(input, batch_sizes, h_0, c_0, output, tape, *weights)
        ctx.options = has_biases, bidirectional
        return output, h_n, c_n

    @staticmethod
    @untraced
    def backward(ctx: Any, *d_results: Tensor) -> Any:
        input, batch_sizes, h_0, c_0, output, tape, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(ctx, d_results, input, batch_sizes, h_0, c_0, weights)
        wanted = ctx.needs_input_grad
        d_input, d_h_0, d_c_0, d_weights = lstm_layer_backward(
            *d_results, input, batch_sizes, weights, *ctx.options, output, tape, wanted[0]
        )
        found = d_input, None, d_h_0, d_c_0, None, None, *d_weights
        return tuple(d if want else None for d, want in zip(found, wanted, strict=True))


def _differentiable(
    ctx: Any,
    d_results: tuple[Tensor, ...],
    input: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
) -> tuple[Tensor | None, ...]:
    """Return gradients that can be differentiated again: those of torch's own operators."""
    has_biases, bidirectional = ctx.options
    if batch_sizes is None:
        steps, batch = input.shape[:2]
        batch_sizes = torch.full((steps,), batch, dtype=torch.int64)
    # Torch has no second derivative of oneDNN's LSTM, which it does not take for packed rows.
    rows = input.flatten(0, -2)
    output, h_n, c_n = torch._VF.lstm(
        rows, batch_sizes, (h_0, c_0), weights, has_biases, 1, 0.0, True, bidirectional
    )
    given = [input, h_0, c_0, *weights]
    places = [0, 2, 3, *range(6, 6 + len(weights))]
    wanted = [place for place in places if ctx.needs_input_grad[place]]
    found = torch.autograd.grad(
        (output, h_n, c_n),
        [tensor for tensor, place in zip(given, places, strict=True) if place in wanted],
        (d_results[0].flatten(0, -2), *d_results[1:]),
        create_graph=True,
        allow_unused=True,
    )
    by_place = dict(zip(wanted, found, strict=True))
    return tuple(by_place.get(place) for place in range(6 + len(weights)))
