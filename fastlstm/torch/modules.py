"""LSTM and LSTMCell: torch's own modules, whose work on the CPU is done by engine native."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.utils.rnn import PackedSequence

from .dynamo import beside_graphs, is_transformed, trace
from .operator import PLAIN, is_seen, lstm, lstm_unseen, step_unseen
from .packs import Misfit, forget
from .resets import run_with_resets

_TENSORS = PLAIN | {FakeTensor, FunctionalTensor}
_DTYPES = torch.float32, torch.float64


def _is_served(input: Tensor, weights: list[Any]) -> bool:
    """Whether the operator takes these; all else goes to torch's own."""
    w = weights[0]
    if (
        is_transformed()
        or not isinstance(w, Tensor)
        or input.dtype not in _DTYPES
        or input.dtype is not w.dtype
        or input.device.type != "cpu"
        or w.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    if torch.compiler.is_compiling():
        # ONNX has an operator for torch's own LSTM, and none for ours.
        return not (torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export())
    return (
        type(input) in _TENSORS
        and _are_like(input, *weights)
        and input.layout is torch.strided
        and input.numel() > 0
        and torch._C._get_tracing_state() is None
        and torch.autograd.forward_ad._current_level < 0
    )


def _are_like(input: Tensor, *others: Tensor) -> bool:
    """Whether these are of kinds that go with this input, which torch tells by their classes."""
    kinds = PLAIN if type(input) in PLAIN else _TENSORS
    return kinds.issuperset(map(type, others))


def _are_states(hx: Any, input: Tensor) -> bool:
    """Whether this is a pair of tensors, so that their shapes can be looked at."""
    return (
        isinstance(hx, (tuple, list))
        and len(hx) == 2
        and isinstance(hx[0], Tensor)
        and isinstance(hx[1], Tensor)
        and (torch.compiler.is_compiling() or _are_like(input, *hx))
    )


def _fit(x: Tensor, h: Tensor, c: Tensor, h_shape: Any, c_shape: Any) -> bool:
    """Whether states have the shapes that they must have, and the dtype and device of x."""
    return (
        h.shape == h_shape
        and c.shape == c_shape
        and h.dtype is c.dtype is x.dtype
        and h.device == x.device == c.device
    )


class _OfTorch(torch.nn.Module):
    """What torch does with its modules where it may not notice that ours are others."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Torch exchanges no tensors that have weak references, as packs have.
        forget(self._parameters.values())
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        forget(self._parameters.values())
        super()._load_from_state_dict(*args, **options)

    def _in_graph(self, tracer: Any, *args: Any) -> Any:
        """Return what a graph of torch.fx has for torch's own modules: a call of the module."""
        return tracer.create_proxy("call_module", tracer.path_of_module(self), args, {})

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """Return torch's own module with these parameters, for `torch.jit.script` to compile."""
        torchs = {LSTM: torch.nn.LSTM, LSTMCell: torch.nn.LSTMCell}.get(type(self))
        if torchs is None:
            return self
        other = copy.copy(self)
        other.__class__ = torchs
        return other


class LSTM(_OfTorch, torch.nn.LSTM):
    """`torch.nn.LSTM` with the work on the CPU done by engine native.

    It is a `torch.nn.LSTM`: constructor, parameters, state dict, hooks, errors and numbers are
    torch's own, so optimisers, checkpoints, `torch.compile`, `torch.export` and
    DistributedDataParallel take it as they take that one. float32 and float64 on the CPU run on the
    engine, forward and backward, padded or packed. All else goes to torch's own code: other devices
    and dtypes, autocast, the transforms of `torch.func`, forward-mode derivatives, TorchScript,
    export to ONNX, and second derivatives.

    Parameters
    ----------
    *args, **kwargs
        Those of `torch.nn.LSTM`.

    Notes
    -----
    The engine takes as many threads as ``torch.get_num_threads()`` says at each call. It packs the
    weights once for each version of the parameters. What is written past torch's count of versions,
    through ``parameter.data``, another tensor or array of the same memory, or by a fused optimiser,
    is noticed too, but for writes of single values: of each row and each column of a parameter of
    more than 16 KiB one value is looked at. ``with torch.no_grad(): parameter[...] = value`` is
    always noticed.

    The output of a sequence is the same, bit for bit, whatever the batch around it, the padding
    and the number of threads, and that of a `fastlstm.LSTM` with engine native.

    Examples
    --------
    >>> import fastlstm.torch
    >>> import torch
    >>> lstm = fastlstm.torch.LSTM(3, 4, num_layers=2, batch_first=True)
    >>> isinstance(lstm, torch.nn.LSTM)
    True
    >>> output, (h_n, c_n) = lstm(torch.ones(2, 5, 3))
    >>> output.sum().backward()
    >>> output.shape, lstm.weight_ih_l0.grad.shape
    (torch.Size([2, 5, 4]), torch.Size([16, 3]))
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        trace(cls)

    def forward(self, input: Any, hx: Any = None, *, reset: Any = None) -> Any:
        """Run, as `torch.nn.LSTM` does.

        Parameters
        ----------
        input : Tensor of shape (T, B, I), (B, T, I) if `batch_first`, or (T, I); PackedSequence
        hx : (h_0, c_0), optional
            Tensors of shape (layers * D, B, P) and (layers * D, B, H), without B as `input`.
        reset : bool Tensor of shape (T, B), (B, T) if `batch_first`, or (T,), optional
            True where a sequence begins anew, as episodes do in reinforcement learning: before
            that step, the states of all layers are 0. At step 0 this replaces `hx`. For a
            PackedSequence (T, B), with the sequences in the order in which they were packed. The
            backward direction begins anew on its way from such a step to the step before it. No
            gradient passes a reset.

        Returns
        -------
        output : Tensor or PackedSequence, as `input`
        (h_n, c_n) : Tensors, as `hx`

        Raises
        ------
        RuntimeError, ValueError
            As torch's. ValueError if `reset` has another shape, or does not hold booleans.

        Notes
        -----
        Cost: that of `fastlstm.LSTM`, and some 15 microseconds for each call in which nobody asks
        for gradients. With `reset`, the pieces between resets are sequences that are packed and run
        at the same time, so that it costs two copies of input and output.

        Examples
        --------
        >>> lstm = fastlstm.torch.LSTM(3, 4)
        >>> x, reset = torch.ones(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
        >>> reset[3] = True
        >>> output, _ = lstm(x, reset=reset)
        >>> torch.equal(output[3], output[0])
        True
        """
        if reset is not None:
            # Not self.forward: a class that derives from this one may have its own, which runs now.
            run = functools.partial(LSTM.forward, self)
            return run_with_resets(run, self, input, hx, reset)
        packed = isinstance(input, PackedSequence)
        x: Tensor = input.data if packed else input
        if isinstance(x, torch.fx.Proxy):
            return self._in_graph(x.tracer, input, hx)
        weights = self._weights()
        if not (isinstance(x, Tensor) and _is_served(x, weights)):
            return self._by_torch(input, hx)
        batch_sizes: Tensor | None = input.batch_sizes if packed else None
        time_major, unbatched = packed or not self.batch_first, not packed and x.dim() == 2
        if unbatched:
            x = x.unsqueeze(1 if time_major else 0)
        if x.dim() != 3 - packed or x.shape[-1] != self.input_size:
            if packed:  # of which torch checks nothing, and reads beyond the rows
                self.check_input(x, batch_sizes)
            return self._by_torch(input, hx)
        batch: Any  # a symbol, where a program is exported
        batch = x.shape[1 if time_major else 0] if batch_sizes is None else batch_sizes[0].item()
        cells = self.num_layers * (1 + self.bidirectional)
        h_shape = cells, batch, self.proj_size or self.hidden_size
        c_shape = cells, batch, self.hidden_size
        if hx is None:
            h_0, c_0 = x.new_zeros(h_shape), x.new_zeros(c_shape)
        else:
            if not _are_states(hx, x):
                return self._by_torch(input, hx)
            h_0, c_0 = hx
            if unbatched and h_0.dim() == 2 and c_0.dim() == 2:
                h_0, c_0 = h_0.unsqueeze(1), c_0.unsqueeze(1)
            if not _fit(x, h_0, c_0, h_shape, c_shape):
                if packed:
                    self.check_forward_args(x, (h_0, c_0), batch_sizes)
                return self._by_torch(input, hx)
            if packed:
                h_0, c_0 = self.permute_hidden((h_0, c_0), input.sorted_indices)
        try:
            if self.num_layers > 1 and self.training and self.dropout:
                output, h_n, c_n = self._with_dropout(x, batch_sizes, h_0, c_0, weights, time_major)
            elif is_seen(x, h_0, c_0):
                output, h_n, c_n = lstm(
                    x, batch_sizes, h_0, c_0, weights,
                    self.bias, self.num_layers, self.bidirectional, not time_major,
                )  # fmt: skip
            else:
                output, h_n, c_n = lstm_unseen(
                    x if time_major else x.transpose(0, 1), batch_sizes, h_0, c_0, weights,
                    self.bias, self.num_layers, self.bidirectional,
                )  # fmt: skip
                output = output if time_major else output.transpose(0, 1)
        except Misfit:  # weights that do not belong together: torch says it in its own words
            return self._by_torch(input, hx)
        if packed:
            unsorted = input.unsorted_indices
            result = PackedSequence(output, batch_sizes, input.sorted_indices, unsorted)
            return result, self.permute_hidden((h_n, c_n), unsorted)
        if unbatched:
            output = output.squeeze(1 if time_major else 0)
            h_n, c_n = h_n.squeeze(1), c_n.squeeze(1)
        return output, (h_n, c_n)

    def _by_torch(self, input: Any, hx: Any) -> Any:
        """Run torch's own code, which torch.compile has in no graph, while torch.export has."""
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return _torchs_forward(self, input, hx)
        return super().forward(input, hx)

    def _weights(self) -> list[Any]:
        """Return the parameters in torch's order, as they are now."""
        own = self._parameters
        try:
            return [own[name] for name in self._flat_weights_names]
        except KeyError:  # a parametrization computes them: as often as for torch's own forward
            self._update_flat_weights()
            return self._flat_weights

    def _with_dropout(
        self,
        x: Tensor,
        batch_sizes: Tensor | None,
        h_0: Tensor,
        c_0: Tensor,
        weights: list[Tensor],
        time_major: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run layer by layer, with torch's own dropout between them: the same masks as torch's."""
        x = x if time_major else x.transpose(0, 1)
        d, each, states = 1 + self.bidirectional, len(weights) // self.num_layers, []
        for k, (h, c) in enumerate(zip(h_0.split(d), c_0.split(d), strict=True)):
            if k:
                x = torch.dropout(x, self.dropout, True)
            own = weights[k * each : (k + 1) * each]
            x, *final = lstm(x, batch_sizes, h, c, own, self.bias, 1, self.bidirectional, False)
            states.append(final)
        h_n, c_n = map(torch.cat, zip(*states, strict=True))
        return x if time_major else x.transpose(0, 1), h_n, c_n


trace(LSTM)


@beside_graphs
def _torchs_forward(lstm: LSTM, input: Any, hx: Any) -> Any:
    return torch.nn.LSTM.forward(lstm, input, hx)


class LSTMCell(_OfTorch, torch.nn.LSTMCell):
    """`torch.nn.LSTMCell` with the work on the CPU done by engine native.

    What `LSTM` says holds here too. A loop over a cell still pays torch for every step: where the
    whole sequence is known, `LSTM` is many times as fast.

    Examples
    --------
    >>> import fastlstm.torch
    >>> import torch
    >>> cell = fastlstm.torch.LSTMCell(3, 4)
    >>> h, c = cell(torch.ones(2, 3))
    >>> h, c = cell(torch.ones(2, 3), (h, c))
    >>> h.shape
    torch.Size([2, 4])
    """

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance by one step, as `torch.nn.LSTMCell` does.

        Parameters
        ----------
        input : Tensor of shape (B, I) or (I,)
        hx : (h, c), optional
            Tensors of shape (B, H) or (H,); zeros, if not given.

        Returns
        -------
        h, c : Tensors, as `hx`

        Raises
        ------
        RuntimeError, ValueError
            As torch's.
        """
        if isinstance(input, torch.fx.Proxy):
            return self._in_graph(input.tracer, input, hx)
        own = self._parameters
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        try:
            weights: list[Any] = [own[name] for name in names]
        except KeyError:
            weights = [getattr(self, name) for name in names]
        if not (
            isinstance(input, Tensor)
            and _is_served(input, weights)
            and input.dim() in (1, 2)
            and input.shape[-1] == self.input_size
        ):
            return super().forward(input, hx)
        is_batch = input.dim() == 2
        x = input if is_batch else input.unsqueeze(0)
        shape = (len(x), self.hidden_size) if is_batch else (self.hidden_size,)
        if hx is None:
            h = c = x.new_zeros((len(x), self.hidden_size))
        else:
            if not _are_states(hx, input):
                return super().forward(input, hx)
            h, c = hx
            if not _fit(x, h, c, shape, shape):
                return super().forward(input, hx)
            if not is_batch:
                h, c = h.unsqueeze(0), c.unsqueeze(0)
        try:
            if is_seen(x, h, c):
                each = (tensor.unsqueeze(0) for tensor in (h, c))
                states = lstm(x.unsqueeze(0), None, *each, weights, self.bias, 1, False, False)
                h, c = (state.squeeze(0) for state in states[1:])
            else:
                h, c = step_unseen(x, h, c, weights, self.bias)
        except Misfit:  # as in LSTM
            return super().forward(input, hx)
        return (h, c) if is_batch else (h.squeeze(0), c.squeeze(0))
