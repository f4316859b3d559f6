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
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .dynamo import untraced
from .packs import VECTOR_BYTES, Misfit, stack_of

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
        raise Misfit(
            f"Expected {kinds[0]} weights for num_layers={num_layers}, has_biases={has_biases}, "
            f"bidirectional={bidirectional}, or {kinds[1]} with projections, got {len(weights)}"
        )
    dtype = weights[0].dtype
    if dtype is not torch.float32 and dtype is not torch.float64:
        raise TypeError(f"Expected weights of float32 or float64, got {dtype}")
    sizes = _sizes(weights, num_layers, bidirectional)
    packed = batch_sizes is not None
    if input.dim() != 3 - packed or input.shape[-1] != sizes.I:
        raise Misfit(
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
            raise Misfit(
                f"Expected batch_sizes of int64 that begin with {batch} as the states, never "
                f"increase and add up to {len(input)} rows, got {array.tolist()!s:.100} of "
                f"{array.dtype}"
            )
        steps = Steps(of_steps, len(array), batch, len(input))
    h, c = states
    h_shape, c_shape = (cells, batch, sizes.P), (cells, batch, sizes.H)
    if not (
        input.dtype is h.dtype is c.dtype is dtype and h.shape == h_shape and c.shape == c_shape
    ):
        raise Misfit(
            f"Expected input and states of {dtype}, states of shapes {h_shape} and {c_shape}, got "
            f"{input.dtype}, {h.dtype} of {[*h.shape]} and {c.dtype} of {[*c.shape]}"
        )
    return sizes, steps


def _checked_step(
    x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor]
) -> tuple[_Sizes, Steps]:
    """Do what `_checked` does for a step of a cell: x (B, I), h and c (B, H)."""
    sizes, batch = _sizes(weights, 1, False), len(x)
    if not (x.shape[1] == sizes.I and h.shape == c.shape == (batch, sizes.H)):
        raise Misfit(
            f"Expected x (B, {sizes.I}), h and c (B, {sizes.H}), "
            f"got {[*x.shape]}, {[*h.shape]} and {[*c.shape]}"
        )
    return sizes, Steps(None, 1, batch, batch)


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


def _tape(stack: Any, size: int) -> Tensor:
    """Return bytes for a tape, which begin at a multiple of 64."""
    if size < 1 << 20:
        return torch.empty(size, dtype=torch.uint8)
    return torch.from_numpy(stack.lend("tape", (size,), False))


def _gradient(stack: Any, number: int, of: Tensor) -> Tensor:
    """Return a tensor for the gradient of a weight; it holds anything."""
    if of.nbytes < 1 << 17:  # for more than this the C library asks the system each time
        return torch.empty_like(of, memory_format=torch.contiguous_format)
    return torch.from_numpy(stack.lend(f"gradient {number}", of.shape, True))


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
    output, h_n, c_n = _run(stack, sizes, steps, x, h_0, c_0)
    return _time_major(output, batch_first), h_n, c_n


def _run(
    stack: Any,
    sizes: _Sizes,
    steps: Steps,
    input: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    tape: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run layers. Of tensors only the numbers of values count: those of one step may lack T.

    If there is a tape, this is one layer, and is recorded.
    """
    x, h_0, c_0 = input.contiguous(), h_0.contiguous(), c_0.contiguous()
    output = x.new_empty((*x.shape[:-1], sizes.directions * sizes.P))
    if not steps.rows:
        return output, h_0.clone(), c_0.clone()
    h, c, threads = torch.empty_like(h_0), torch.empty_like(c_0), torch.get_num_threads()
    states = h_0.data_ptr(), c_0.data_ptr(), h.data_ptr(), c.data_ptr()
    if tape is None:
        stack.run_at(steps.told, states, x.data_ptr(), output.data_ptr(), threads)
    else:
        stack.record_at(
            steps.told, states, x.data_ptr(), output.data_ptr(), tape.data_ptr(), len(tape), threads
        )
    return output, h, c


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
    room = _tape_room(steps.rows, steps.batch, sizes, input.element_size())
    # A run leaves gaps between what it writes. Those of a small tape are zeros, so that two runs
    # have the same bytes, as `torch.library.opcheck` wants it; in a large one that would take time.
    tape = torch.zeros(room, dtype=torch.uint8) if room < 1 << 16 else _tape(stack, room)
    return *_run(stack, sizes, steps, input, h_0, c_0, tape), tape


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
    shape = (*input.shape[:-1], sizes.directions * sizes.P)
    for tensor in (d_output, output):
        if tensor.shape != shape or tensor.dtype is not input.dtype:
            raise ValueError(f"Expected outputs of {[*shape]}, got {[*tensor.shape]}")
    stack = stack_of(weights, sizes.each, sizes.directions, True)
    return _go_back(
        stack, sizes, steps, (d_output, d_h_n, d_c_n), input, weights, has_biases, output, tape,
        input_gradient,
    )  # fmt: skip


def _go_back(
    stack: Any,
    sizes: _Sizes,
    steps: Steps,
    d_results: tuple[Tensor, Tensor | None, Tensor],
    input: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    output: Tensor,
    tape: Tensor,
    input_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Go back through what `_run` has recorded; the gradient of h_n may be None, for zeros."""
    x, y, dy = input.contiguous(), output.contiguous(), d_results[0].contiguous()
    d_h_n, d_c_n = d_results[1], d_results[2].contiguous()
    if d_h_n is not None:
        d_h_n = d_h_n.contiguous()
    dx = input.new_empty(input.shape if input_gradient else 0)
    dw = [_gradient(stack, k, w) for k, w in enumerate(weights)]
    if not steps.rows:
        torch._foreach_zero_(dw)
        assert d_h_n is not None
        return dx, d_h_n.clone(), d_c_n.clone(), dw
    if tape.dtype is not torch.uint8:  # a hook that saves tensors has made numbers of it
        raise TypeError(f"Expected a tape of torch.uint8, as it was saved, got {tape.dtype}")
    if tape.data_ptr() % 64 or not tape.is_contiguous():  # it has been copied on its way
        tape = tape.clone(memory_format=torch.contiguous_format)
    dc = torch.empty_like(d_c_n)
    dh = torch.empty_like(dc if d_h_n is None else d_h_n)
    b = None if has_biases else x.new_empty(4 * sizes.H)
    places = [d.data_ptr() for d in dw]
    each, of_cells = sizes.each, []
    for k in range(0, len(dw), each):
        biases = places[k + 2 : k + 4] if b is None else [b.data_ptr(), 0]
        of_cells.append((*places[k : k + 2], *biases, places[k + each - 1] if each % 2 else 0))
    stack.back_at(
        steps.told,
        (0 if d_h_n is None else d_h_n.data_ptr(), d_c_n.data_ptr(), dh.data_ptr(), dc.data_ptr()),
        x.data_ptr(), y.data_ptr(), tape.data_ptr(), len(tape), dy.data_ptr(),
        dx.data_ptr() if input_gradient else 0, of_cells, torch.get_num_threads(),
    )  # fmt: skip
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


# ---- operations, for torch.utils.flop_counter --------------------------------------------------


def _flops(input: Sequence[int], weights: Sequence[Sequence[int]]) -> int:
    """Return two for each product of a row and a matrix, as torch counts them; shapes come in."""
    return 2 * math.prod(input[:-1]) * sum(math.prod(w) for w in weights if len(w) == 2)


@register_flop_formula([torch.ops.fastlstm.lstm, torch.ops.fastlstm.lstm_layer])
def _flops_forward(
    input: Sequence[int],
    batch_sizes: Any,
    h_0: Any,
    c_0: Any,
    weights: Sequence[Sequence[int]],
    *options: Any,
    **results: Any,
) -> int:
    return _flops(input, weights)


@register_flop_formula(torch.ops.fastlstm.lstm_layer_backward)
def _flops_backward(
    d_output: Any,
    d_h_n: Any,
    d_c_n: Any,
    input: Sequence[int],
    batch_sizes: Any,
    weights: Sequence[Sequence[int]],
    has_biases: bool,
    bidirectional: bool,
    output: Any,
    tape: Any,
    input_gradient: bool,
    **results: Any,
) -> int:
    """Return those of the gradients of the matrices, and of what they are multiplied with."""
    each = len(weights) // (1 + bidirectional)
    not_needed = [] if input_gradient else weights[::each]
    return 2 * _flops(input, weights) - _flops(input, not_needed)


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
    if not _ask_for_gradients(input, h_0, c_0, *weights):
        with torch._C._AutoDispatchBelowAutograd():
            return lstm(
                input, batch_sizes, h_0, c_0, weights,
                has_biases, num_layers, bidirectional, batch_first,
            )  # fmt: skip
    x = _time_major(input, batch_first)
    output, h_n, c_n = _layers(
        False, x, batch_sizes, h_0, c_0, weights, has_biases, num_layers, bidirectional
    )
    return _time_major(output, batch_first), h_n, c_n


@torch.library.impl(_library, "lstm_layer", "Autograd")
@untraced
def _lstm_layer_autograd(*args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return lstm_layer(*args)


def _ask_for_gradients(*tensors: Tensor) -> bool:
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return True
    return False


def _layers(
    direct: bool,
    x: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run layers, of each of which autograd knows, and nobody else if they are called directly."""
    options = direct, has_biases, bidirectional
    if num_layers == 1:
        return _Layer.apply(options, x, batch_sizes, h_0, c_0, *weights)
    d, per_layer, states = 1 + bidirectional, len(weights) // num_layers, []
    for k, (h, c) in enumerate(zip(h_0.split(d), c_0.split(d), strict=True)):
        own = weights[k * per_layer : (k + 1) * per_layer]
        x, *final = _Layer.apply(options, x, batch_sizes, h, c, *own)
        states.append(final)
    h_n, c_n = (torch.cat(of) for of in zip(*states, strict=True))
    return x, h_n, c_n


class _Layer(torch.autograd.Function):
    """One layer, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        options: tuple[bool, bool, bool],
        input: Tensor,
        batch_sizes: Tensor | None,
        h_0: Tensor,
        c_0: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        direct, *kinds = options
        given: Any = (input, batch_sizes, h_0, c_0, weights, *kinds)
        if direct:
            output, h_n, c_n, tape = _lstm_layer(*given)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                output, h_n, c_n, tape = lstm_layer(*given)
        ctx.save_for_backward(input, batch_sizes, h_0, c_0, output, tape, *weights)
        ctx.options = options
        return output, h_n, c_n

    @staticmethod
    @untraced
    def backward(ctx: Any, *d_results: Tensor) -> Any:
        input, batch_sizes, h_0, c_0, output, tape, *weights = ctx.saved_tensors
        (direct, *kinds), wanted = ctx.options, ctx.needs_input_grad
        if _takes_torchs_own(d_results):
            given = ctx.options, input, batch_sizes, h_0, c_0, *weights
            return _by_torch(_layer_of_torch, d_results, given, wanted)
        direct = direct and not is_seen(input, *d_results)
        go_back: Any = _lstm_layer_backward if direct else lstm_layer_backward
        d_input, d_h_0, d_c_0, d_weights = go_back(
            *d_results, input, batch_sizes, weights, *kinds, output, tape, wanted[1]
        )
        found = None, d_input, None, d_h_0, d_c_0, *d_weights
        return tuple(d if want else None for d, want in zip(found, wanted, strict=True))


def _takes_torchs_own(d_results: Sequence[Tensor]) -> bool:
    """Whether a way back is torch's own: it is differentiated in turn, or many go at once."""
    return (
        torch.is_grad_enabled()
        or torch.autograd.forward_ad._current_level >= 0
        or any(map(torch._C._functorch.is_legacy_batchedtensor, d_results))
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _layer_of_torch(
    options: tuple[bool, bool, bool],
    input: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `_Layer` does, by torch's own operators, which can be differentiated twice."""
    _, has_biases, bidirectional = options
    if batch_sizes is None:
        steps, batch = input.shape[:2]
        batch_sizes = torch.full((steps,), batch, dtype=torch.int64)
    # Torch has no second derivative of oneDNN's LSTM, which it does not take for packed rows.
    rows, h_n, c_n = torch._VF.lstm(
        input.flatten(0, -2), batch_sizes, (h_0, c_0), weights, has_biases,
        1, 0.0, True, bidirectional,
    )  # fmt: skip
    return rows.view(*input.shape[:-1], -1), h_n, c_n


def _step_of_torch(
    has_biases: bool, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Do what `_Step` does, by torch's own operators."""
    h_n, c_n = torch._VF.lstm_cell(x, (h, c), *weights)
    return h_n, c_n


def _by_torch(
    forward: Callable[..., Any], d_results: Sequence[Tensor], given: Sequence[Any], wanted: Any
) -> tuple[Tensor | None, ...]:
    """Return gradients of what torch's own operators give; they can be differentiated again."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Where two of these are one, or some come from others, autograd would go on from one to the
        # next: from a layer's input, through the layers below, to its own state, a part of the
        # states of all.
        views = [t.view_as(t) if want else t for t, want in zip(given, wanted, strict=True)]
        results = forward(*views)
    asked = [view for view, want in zip(views, wanted, strict=True) if want]
    found = iter(
        torch.autograd.grad(
            results, asked, d_results, create_graph=differentiable, allow_unused=True
        )
    )
    return tuple(next(found) if want else None for want in wanted)


class _Step(torch.autograd.Function):
    """One step of a cell, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any, has_biases: bool, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.sizes, ctx.steps = _checked_step(x, h, c, weights)
        ctx.stack = stack_of(weights, len(weights), 1, True)
        tape = _tape(ctx.stack, _tape_room(len(x), len(x), ctx.sizes, x.element_size()))
        y, _, c_n = _run(ctx.stack, ctx.sizes, ctx.steps, x, h, c, tape)
        ctx.save_for_backward(x, h, c, y, tape, *weights)
        ctx.has_biases = has_biases
        return y, c_n

    @staticmethod
    @untraced
    def backward(ctx: Any, *d_states: Tensor) -> Any:
        x, h, c, y, tape, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if _takes_torchs_own(d_states) or is_seen(x, *d_states):
            given = ctx.has_biases, x, h, c, *weights
            return _by_torch(_step_of_torch, d_states, given, wanted)
        # Nobody has written the weights since, or they could not have been taken out. The first way
        # back lets go of their stack, as somebody may keep the graph while others are packed.
        stack, ctx.stack = ctx.stack or stack_of(weights, len(weights), 1, True), None
        dx, dh, dc, dw = _go_back(
            stack, ctx.sizes, ctx.steps, (d_states[0], None, d_states[1]), x, weights,
            ctx.has_biases, y, tape, wanted[1],
        )  # fmt: skip
        found = None, dx, dh, dc, *dw
        return tuple(d if want else None for d, want in zip(found, wanted, strict=True))


# ---- below the operators -----------------------------------------------------------------------


PLAIN = frozenset({Tensor, torch.nn.Parameter})
"""Classes of tensors that are memory and nothing else, but for those that are put off."""


def _are_put_off(tensors: Sequence[Tensor]) -> bool:
    """Whether torch has yet to negate the values of one, or to fill memory with zeros.

    The imaginary part of what is conjugate is such a tensor, and a derivative that is zero. On the
    way to an operator, torch makes others of them.
    """
    return any(map(Tensor.is_neg, tensors)) or any(map(Tensor._is_zerotensor, tensors))


def is_seen(*tensors: Tensor) -> bool:
    """Whether a mode, a profiler or a compiler, of whom these may be, looks at what operators run.

    If none does, modules call what is below the operators, which take as long again for a step of a
    small layer.
    """
    return bool(
        torch.compiler.is_compiling()
        or not PLAIN.issuperset(map(type, tensors))
        or _are_put_off(tensors)
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._autograd._profiler_enabled()
    )


@untraced
def lstm_unseen(
    x: Tensor,
    batch_sizes: Tensor | None,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `lstm` does, where it is not seen; a padded x is (T, B, I)."""
    options = has_biases, num_layers, bidirectional
    if _ask_for_gradients(x, h_0, c_0, *weights):
        return _layers(True, x, batch_sizes, h_0, c_0, weights, *options)
    sizes, steps = _checked(x, batch_sizes, (h_0, c_0), weights, *options)
    stack = stack_of(weights, sizes.each, sizes.directions, False)
    return _run(stack, sizes, steps, x, h_0, c_0)


@untraced
def step_unseen(
    x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor], has_biases: bool
) -> tuple[Tensor, Tensor]:
    """Run one step of a cell where it is not seen: x (B, I), h and c (B, H), of one dtype."""
    if _ask_for_gradients(x, h, c, *weights):
        return _Step.apply(has_biases, x, h, c, *weights)
    sizes, steps = _checked_step(x, h, c, weights)
    _, h_n, c_n = _run(stack_of(weights, len(weights), 1, False), sizes, steps, x, h, c)
    return h_n, c_n
