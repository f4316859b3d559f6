"""LSTM, shaped as torch's: checks, states, the order of layers; no arithmetic."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from ..arrays import as_float, quiet
from ..checks import check_bool, check_probability, check_size
from ..sequences.batch import Pieces, arrange
from ..sequences.packing import check_packed
from .chain import Given, who
from .dropout import dropout_mask, masks_of
from .layer import Back, States, accepted
from .layouts import in_blocks
from .lookup import Lookup
from .noise import draw_noise, input_factors
from .options import options_text, zones_of
from .parameters import undrawn
from .recurrent import Recurrent, Sizes, describe, each_cell
from .stream import Begins, Live, Stream

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats
    from ..checks import Precision
    from ..engines import EngineChoice
    from ..engines.contract import Noise, Stack
    from ..sequences.batch import Batch
    from .options import Coupling, Function, Norm


class Gates(NamedTuple):
    """The gates of every step of one layer, after their activations.

    Attributes
    ----------
    i, f, g, o : ndarrays of shape (T, B, D*H), in the output's layout; or PackedSequences
        Input gate, forget gate, candidate and output gate.
    """

    i: Any
    f: Any
    g: Any
    o: Any

    def __repr__(self) -> str:
        if hasattr(self.i, "batch_sizes"):
            return f"Gates(i, f, g, o: {self.i!r})"
        return f"Gates(i, f, g, o: {self.i.shape} of {self.i.dtype})"


class _Tape(NamedTuple):
    """What a run over one layer leaves for the way back.

    `kept` is what its stack recorded, None without steps; `wide` is H; `dropped` is the mask of the
    dropout before the layer; `y` (N, D*P) is what the layer handed on.
    """

    stack: Stack
    kept: Any
    wide: int
    dropped: Floats | None
    y: Floats


class LSTM(Recurrent):
    """A stack of LSTM layers over whole sequences: torch.nn.LSTM's arguments, names and shapes.

    Parameters
    ----------
    input_size : int
        I, the features of a step.
    hidden_size : int, or list of int
        H, the units of a layer. A list gives each layer a number of its own, from the first to the
        last. The attribute is then a tuple, or one int if all are equal.
    num_layers : int
        Layers on top of each other, each fed with the outputs of the one below. It follows from a
        list of `hidden_size`, and can be left out then.
    bias : bool
        With biases ``bias_ih``, ``bias_hh`` or without.
    batch_first : bool or None
        Input and output are (B, T, ...) instead of (T, B, ...). States never are. None is
        undecided, as a file may leave it: unbatched and packed input runs, batched input is
        refused until ``lstm.batch_first`` is set.
    dropout : float in [0, 1]
        In training mode: the share of every layer's outputs, the last one's excepted, that is
        zeroed, the others scaled by 1 / (1 - dropout).
    bidirectional : bool
        Each layer also runs from the end; outputs are [forward, backward].
    proj_size : int
        P > 0 projects h to so many values with ``weight_hr``; less than H, and than each H of a
        list.
    peephole : bool
        The gates also see the cell: i and f see c[t-1], o sees c[t], each unit its own, with the
        weights ``weight_ci``, ``weight_cf``, ``weight_co``.
    coupled : {"f=1-i", "i=1-f"}, optional
        One gate follows from another, and has no parameters: all arrays with the rows of gates have
        3H of them. "f=1-i" is ONNX's `input_forget`, "i=1-f" is TFLite's CIFG.
    gate_clip, cell_clip, proj_clip : float, optional
        Bounds, on both sides of 0, of what the gates' activations take (ONNX's `clip`), of c after
        its update (TFLite's `cell_clip`), and of the projected h (TFLite's `proj_clip`).
    gate_activation, cell_activation, output_activation : str or tuple
        The functions of the gates i, f and o; of g; and of c on its way into h. "sigmoid", "tanh",
        "relu", "identity", "softsign", "softplus"; or with parameters, which may be left out,
        ("hard_sigmoid", slope, offset), ("affine", alpha, beta), ("scaled_tanh", alpha, beta),
        ("leaky_relu", alpha), ("thresholded_relu", alpha), ("elu", alpha). The defaults of alpha
        and beta are ONNX's; those of "hard_sigmoid", 0.2 and 0.5, are also MATLAB's, while Keras 3
        has 1/6 and 0.5.
    layer_norm : {"tflite", "haste"}, optional
        "tflite" normalises what each gate's activation takes over its H values, with the gains
        ``weight_ln`` (4H,) and the biases. "haste" normalises W x and W h, each over its 4H values,
        and c over its H on the way into h, with the gains ``weight_ln_ih``, ``weight_ln_hh`` and
        ``weight_ln_c`` and the bias ``bias_ln_c``.
    recurrent_dropout : float in [0, 1]
        In training mode: the share of the values of h[t-1] that the gates do not see, the others
        scaled. One mask for all steps of a call (Gal & Ghahramani 2016); Keras draws one for each
        gate.
    zoneout : float in [0, 1], or a pair of such for h and c
        In training mode: the share of the values of h and c that a step leaves as they were. In
        evaluation each value moves by the other share (Krueger et al. 2017).
    input_dropout : float in [0, 1]
        In training mode: as `dropout`, but of every layer's input, the first one's included, and
        with one mask for all steps of a call.
    reverse : bool
        Each layer runs from each sequence's own end to its start, as ONNX's ``direction="reverse"``
        does. Outputs are in the order of time; Keras' ``go_backwards`` returns the same values in
        the order in which they are computed, the last step first. It excludes `bidirectional`,
        which has such a direction already.
    learn_initial_state : bool
        Sequences begin with the parameters ``h_0`` and ``c_0`` of each layer and direction,
        wherever `hx` is None. These are 0 at first, and learnt like the others.
    dtype : {"float32", "float64"}
    engine : {"auto", "native", "numba", "numpy"}
        Who computes; "auto" is ``FASTLSTM_ENGINE`` or the fastest there is. See
        `fastlstm.engines`.
    num_threads : int, optional
        How many threads one call may use; None is ``FASTLSTM_NUM_THREADS`` or as many as this
        process may keep busy (with engine numpy 1: its BLAS has threads of its own). A call takes
        only as many of them as pay, small work one. The values do not depend on it.
    seed : int or numpy.random.Generator, optional
        For the initial parameters, torch's U(-1/sqrt(H), 1/sqrt(H)), and for dropout. An int gives
        each of the two random numbers of its own (`numpy.random.SeedSequence.spawn`). A Generator
        draws the parameters first, and the masks of dropout from then on.

    Attributes
    ----------
    weight_ih_l{k}{_reverse}, weight_hh_l{k}{_reverse}, bias_ih_l{k}{_reverse},
    bias_hh_l{k}{_reverse}, weight_hr_l{k}{_reverse} : ndarray
        (4H, I) or, above the first layer, (4H, D*P); (4H, P); (4H,); (4H,); (P, H). Rows in the
        gates' order i, f, g, o. Read-only views; assign to change. Options add further ones, under
        the names that are given there.
    h_0_l{k}{_reverse}, c_0_l{k}{_reverse} : ndarray
        (P,) and (H,), with `learn_initial_state`.
    engine : str
        The engine's name.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type; torch's sentences.
    ImportError
        If the engine that is asked for is missing.

    Notes
    -----
    The equations are in `fastlstm.engines`. Safe to call from many threads at once, also while one
    of them assigns weights: each call takes all the old ones or all the new ones. (Only learned
    initial states are read a moment before the weights are.) Source of names, shapes and order:
    torch.nn.LSTM.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(3, 4, num_layers=2, seed=0)
    >>> output, (h_n, c_n) = lstm(np.ones((5, 2, 3), np.float32))
    >>> output.shape, h_n.shape, c_n.shape
    ((5, 2, 4), (2, 2, 4), (2, 2, 4))

    Layers of different widths have a state each:

    >>> lstm = fastlstm.LSTM(3, [6, 4], seed=0)
    >>> output, (h_n, c_n) = lstm(np.ones((5, 2, 3), np.float32))
    >>> output.shape, [h.shape for h in h_n]
    ((5, 2, 4), [(2, 6), (2, 4)])
    """

    _axes = 3
    _fixed = Recurrent._fixed | {"num_layers", "bidirectional", "proj_size"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool | None = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: bool = False,
        coupled: Coupling | None = None,
        gate_clip: float | None = None,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
        gate_activation: Function = "sigmoid",
        cell_activation: Function = "tanh",
        output_activation: Function = "tanh",
        layer_norm: Norm | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        input_dropout: float = 0.0,
        reverse: bool = False,
        learn_initial_state: bool = False,
        dtype: Precision = "float32",
        engine: EngineChoice = "auto",
        num_threads: int | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        arguments = dict(locals())
        self.input_size = check_size("input_size", input_size)
        widths = _widths(hidden_size, check_size("num_layers", num_layers))
        # An int, or a tuple of ints. The type has Any for the latter, so that a typed program with
        # layers of one width need not ask.
        self.hidden_size: int | Any = widths[0] if len(set(widths)) == 1 else tuple(widths)
        self.num_layers = len(widths)
        bias = check_bool("bias", bias)
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = check_bool("bidirectional", bidirectional)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero "
                f"dropout expects num_layers greater than 1, but got dropout={dropout} and "
                f"num_layers={self.num_layers}",
                stacklevel=2,
            )
        if check_size("proj_size", proj_size, least=None) < 0:
            raise ValueError(
                "proj_size should be a positive integer or zero to disable projections, "
                f"got {proj_size}"
            )
        if proj_size >= min(widths):
            raise ValueError(
                "proj_size has to be smaller than hidden_size, "
                f"got proj_size={proj_size} and hidden_size={hidden_size}"
            )
        self.proj_size = int(proj_size)
        self._take_options(arguments, projected=bool(proj_size))
        if self.reverse and self.bidirectional:
            raise ValueError(
                "reverse=True and bidirectional=True exclude each other: a bidirectional LSTM runs "
                "from the end as well"
            )
        self._dropout_rng = masks_of(seed)
        super().__init__(bias, dtype, engine, seed)
        self.num_threads = num_threads

    def _sizes(self) -> list[Sizes]:
        widths = _widths(self.hidden_size, self.num_layers)
        outputs = [self.proj_size or width for width in widths]
        self._output_size = outputs[-1]  # of the last layer
        self._directions = 2 if self.bidirectional else 1
        # Of each direction, whether it runs from the end.
        self._backward = (self.reverse, True)[: self._directions]
        inputs = [self.input_size, *(self._directions * output for output in outputs)]
        return [
            Sizes(f"_l{layer}{suffix}", inputs[layer], widths[layer], outputs[layer])
            for layer in range(self.num_layers)
            for suffix in ("", "_reverse")[: self._directions]
        ]

    def _checked(self, name: str, value: Any) -> Any:
        return check_probability(value) if name == "dropout" else super()._checked(name, value)

    @classmethod
    def from_arrays(
        cls,
        kernel: ArrayLike,
        recurrent_kernel: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        layout: str = "torch",
        batch_first: bool | None = False,
        dtype: Precision | None = None,
        engine: EngineChoice = "auto",
        num_threads: int | None = None,
        peephole: ArrayLike | None = None,
        coupled: Coupling | None = None,
        **options: Any,
    ) -> LSTM:
        """Make an LSTM of one layer from weights of elsewhere, whose shapes tell the sizes.

        Parameters
        ----------
        kernel : array, or list of four arrays
            What multiplies the input.
        recurrent_kernel : array, or list of four arrays
            What multiplies the output of the step before.
        bias : array, pair or list of four arrays, optional
            No biases if left out.
        layout : {"torch", "keras", "onnx", "matlab", "tflite", "flax"}
            Whose shapes and order of the gates:

            - torch: kernel (4H, I), recurrent kernel (4H, H), bias (4H,) or a pair of such, the
              gates in the order i, f, g, o;
            - keras: (I, 4H), (H, 4H), (4H,); i, f, g, o;
            - onnx: W (D, 4H, I), R (D, 4H, H), B (D, 8H); i, o, f, g;
            - matlab: InputWeights (4H, I), RecurrentWeights (4H, H), Bias (4H, 1), or 8H of each,
              the forward direction first; i, f, g, o;
            - tflite: lists of four (H, I), (H, H), (H,), for i, f, g and o;
            - flax: lists of four (I, H), (H, H), (H,), for i, f, g and o; the bias is that of the
              recurrent kernels.
        batch_first, engine, num_threads
            As for the class.
        dtype : {"float32", "float64"}, optional
            The kernel's if it is one of these, else float32.
        peephole : array, or list of three arrays, optional
            The peepholes of i, f and o, (3, H), or (D, 3, H) of D directions; with "onnx" P
            (D, 3H), in its order i, o, f.
        coupled : {"f=1-i", "i=1-f"}, optional
            As for the class. The rows of the gate that follows another are not used; lists of
            arrays for each gate can leave it out.
        **options
            Further options of the class, by name: what the layer was trained with, such as
            `gate_clip`, `gate_activation` or `cell_clip`. Not those with arrays of their own, which
            are `layer_norm`, `learn_initial_state` and `proj_size`.

        Returns
        -------
        LSTM
            In evaluation mode; bidirectional if there are weights of two directions.

        Raises
        ------
        ValueError, TypeError
            If there is no such layout, or a shape or type does not fit, with the shape expected.

        Notes
        -----
        The activations are tanh and the logistic sigmoid unless `options` say otherwise: Keras 1
        and 2 had ``gate_activation="hard_sigmoid"`` at first, and MATLAB's StateActivationFunction
        is both `cell_activation` and `output_activation`.

        Examples
        --------
        >>> kernel, recurrent_kernel, bias = np.ones((3, 8)), np.ones((2, 8)), np.zeros(8)
        >>> fastlstm.LSTM.from_arrays(kernel, recurrent_kernel, bias, layout="keras")
        LSTM(3, 2)
        """
        state = in_blocks(kernel, recurrent_kernel, bias, layout, peephole, coupled)
        input_size, hidden_size = (
            state[name][0].shape[1] for name in ("weight_ih_l0", "weight_hh_l0")
        )
        if dtype is None:
            first = kernel[0] if isinstance(kernel, (list, tuple)) else kernel
            wide = str(getattr(first, "dtype", "")).endswith("float64")  # numbers have none
            dtype = "float64" if wide else "float32"
        with undrawn():
            lstm = cls(
                input_size,
                hidden_size,
                bias=bias is not None,
                batch_first=batch_first,
                bidirectional="weight_ih_l0_reverse" in state,
                dtype=dtype,
                engine=engine,
                num_threads=num_threads,
                peephole=peephole is not None,
                coupled=coupled,
                **options,
            )
        if missing := set(lstm._parameter_names()) - state.keys():
            raise ValueError(
                f"from_arrays takes no arrays for {', '.join(sorted(missing))}: build an LSTM with "
                "these options, and give it all its arrays by load_state_dict"
            )
        if all(block.dtype == lstm.dtype for blocks in state.values() for block in blocks):
            for name, blocks in state.items():  # at once: copies of large weights take time
                np.concatenate(blocks, out=lstm._views[name])
            lstm.changed()
        else:
            lstm.load_state_dict({n: np.concatenate(blocks) for n, blocks in state.items()})
        return lstm.eval()

    @overload
    def __call__(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        masked_output: Literal["zero", "last"] = "zero",
        return_cells: Literal[False] = False,
        return_gates: Literal[False] = False,
    ) -> tuple[Any, tuple[Any, Any]]: ...

    @overload
    def __call__(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        masked_output: Literal["zero", "last"] = "zero",
        return_cells: bool = False,
        return_gates: bool = False,
    ) -> tuple[Any, ...]: ...

    def __call__(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        masked_output: Literal["zero", "last"] = "zero",
        return_cells: bool = False,
        return_gates: bool = False,
    ) -> tuple[Any, ...]:
        """Run the stack over whole sequences.

        Parameters
        ----------
        input : array of shape (T, B, I), or (B, T, I) if `batch_first`, or (T, I); PackedSequence
            Of the layer's dtype; see `fastlstm.arrays` for what is converted. Not written.
        hx : (h_0, c_0), optional
            Initial states (layers * D, B, P) and (layers * D, B, H), without B if unbatched;
            index layer * D + direction. If layers have different widths, `h_0` and `c_0` are tuples
            of arrays (B, P) and (B, H) instead, with the same index. Zeros, or the learned initial
            states, if not given. Not written.
        lengths : B ints, optional
            The real steps of each sequence, each from 0 to T, in any order. Steps past the end
            are not computed; outputs there are 0; a direction from the end begins at each
            sequence's own last step. A sequence without steps ends with the states it began with.
        mask : bool array of shape (T, B), or (B, T) if `batch_first`, or (T,), optional
            True where a step is used, in any pattern. A masked step is not computed: it keeps h and
            c, in every layer and direction. The mask of a PackedSequence is (T, B), with the
            sequences in the order in which they were packed. Past a sequence's end it has no
            effect.
        reset : bool array, shaped as `mask`, optional
            True where a sequence begins anew: before that step, the states of all layers are 0, or
            the learned initial states. At step 0 this replaces `hx`. It holds at masked steps too,
            but not past a sequence's end. The backward direction begins anew on its way from a step
            with a reset to the step before it, so it takes nothing from one piece of a sequence
            into another.
        masked_output : {"zero", "last"}
            What the output holds at masked steps: 0, or what the same direction last gave, since
            the sequence began or began anew. The backward direction comes from later steps, so that
            is its output of the next step that is used. It is 0 where there is no such step.

        return_cells : bool
            Whether to return the cell states of all steps too.
        return_gates : bool
            Whether to return the gates of all steps too.

        Returns
        -------
        output : ndarray of shape (T, B, D*P), (B, T, D*P) or (T, D*P); or PackedSequence
            As `input`. With `batch_first` and no `lengths` a transposed view, as torch's.
        (h_n, c_n) : ndarrays, as `hx`
            The states after each sequence's own last step; of a direction from the end, after its
            step 0.
        cells : tuple of ndarray of shape (T, B, D*H), in the output's layout
            If `return_cells`: c after every step, for each layer. Masked steps have what
            `masked_output` says of outputs.
        gates : tuple of Gates
            If `return_gates`: i, f, g and o of every step, for each layer; arrays as `cells`.

        Raises
        ------
        ValueError, TypeError
            If a shape, dtype or length does not fit, or `masked_output` is neither of the two;
            before any work.

        Notes
        -----
        Cost: 8 H (I + P) floating-point operations for every real step, layer and direction, and
        2 P H for a projection's; memory for the outputs of two layers (engine numpy: and 4 H values
        for every step). With `batch_first` or `lengths` the input is copied once more, with the
        latter the output too, and by several threads in the engines numba and numpy. `mask` and
        `reset` cost what `lengths` cost: masked steps are not computed, and the pieces between
        resets are sequences of their own, which are computed at the same time. With `return_cells`
        or `return_gates` layers run one after the other. The former costs memory for what it
        returns; with the latter, layers are recorded as by `vjp`, which keeps 5 H values for every
        step and direction.

        The rule of `mask` is that of Keras, and so are both values of `masked_output`:
        ``zero_output_for_mask`` of its LSTM chooses between them.

        Examples
        --------
        A masked step might as well not be there:

        >>> lstm = fastlstm.LSTM(3, 4, seed=0)
        >>> x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
        >>> mask = np.ones((5, 2), bool)
        >>> mask[2] = False
        >>> output, (h_n, c_n) = lstm(x, mask=mask)
        >>> np.allclose(output[mask], lstm(x[[0, 1, 3, 4]])[0].reshape(8, 4), atol=1e-6)
        True

        Two episodes in one array:

        >>> reset = np.zeros((5, 2), bool)
        >>> reset[3] = True
        >>> output, (h_n, c_n) = lstm(x, reset=reset)
        >>> np.allclose(output[3:], lstm(x[3:])[0], atol=1e-6)
        True

        All cell states, and how open the forget gates were:

        >>> output, (h_n, c_n), cells, gates = lstm(x, return_cells=True, return_gates=True)
        >>> np.array_equal(cells[0][-1], c_n[0]), gates[0].f.shape
        (True, (5, 2, 4))
        """
        if return_cells or return_gates:
            check_bool("return_cells", return_cells)
            check_bool("return_gates", return_gates)
        elif lengths is None and mask is None and reset is None and masked_output == "zero":
            batch_first = self.batch_first
            if batch_first is not None and not self._is_random():
                if done := self._at_once(input, hx, batch_first):
                    return done
        if type(input) is Lookup:
            return self._call_looked_up(
                input, hx, lengths, mask, reset, masked_output, return_cells, return_gates
            )
        batch = arrange(
            input, lengths, self.input_size, self.dtype, self.batch_first,
            mask, reset, masked_output, self._backward,
        )  # fmt: skip
        initial, start = self._begin(hx, batch)
        states = batch.sort(initial, start)
        if return_gates:
            y, tapes = self._record(batch, states, back=False)
            layers = [self._saved(tape) for tape in tapes]
            seen = self._seen(batch, layers, return_cells, return_gates)
            return batch.output(y), self._given_out(batch.unsort(states, initial, start)), *seen
        if return_cells:
            cells: list[Floats] = []
            y = self._run(batch, states, cells)
            seen = (tuple(map(batch.output, cells)),)
            return batch.output(y), self._given_out(batch.unsort(states, initial, start)), *seen
        y = self._run(batch, states)
        return batch.output(y), self._given_out(batch.unsort(states, initial, start))

    @overload
    def vjp(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        masked_output: Literal["zero", "last"] = "zero",
        checkpoint_every: int | None = None,
        input_gradient: bool = True,
        return_cells: Literal[False] = False,
        return_gates: Literal[False] = False,
    ) -> tuple[tuple[Any, tuple[Any, Any]], Callable[..., Any]]: ...

    @overload
    def vjp(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        masked_output: Literal["zero", "last"] = "zero",
        checkpoint_every: int | None = None,
        input_gradient: bool = True,
        return_cells: bool = False,
        return_gates: bool = False,
    ) -> tuple[tuple[Any, ...], Callable[..., Any]]: ...

    def vjp(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        masked_output: Literal["zero", "last"] = "zero",
        checkpoint_every: int | None = None,
        input_gradient: bool = True,
        return_cells: bool = False,
        return_gates: bool = False,
    ) -> tuple[tuple[Any, ...], Callable[..., Any]]:
        """Run, and return how to go backwards: vector-Jacobian products, as JAX names them.

        Parameters
        ----------
        input, hx, lengths, mask, reset, masked_output
            As in a call. `input` is kept, not copied: do not write into it before the pullback.
        checkpoint_every : int, optional
            Keep the states of every so many steps instead of all gates and cells, and compute these
            again on the way back. With engine native the gradients are the same bits.
        input_gradient : bool
            False: nobody needs `dx`, as of a model's first layer: it is None, and not computed.
        return_cells, return_gates : bool
            As in a call. They keep every step, so `checkpoint_every` cannot be given with them.

        Returns
        -------
        (output, (h_n, c_n)), or with cells and gates : as a call's
            `output` may be read-only, for the pullback reads it.
        pullback : callable
            ``dx, (dh_0, dc_0) = pullback(d_output, (dh_n, dc_n))``: from the gradients of what was
            returned to those of `input` and `hx`, in their shapes, and adds those of the parameters
            to `grads`. Each argument may be None for zeros, the second left out. May be called
            again, with other gradients; several may be alive. Dropout takes the masks of the run.
            Learned initial states get the sums over all sequences and pieces that began with them.
            The gradient of a masked step's output is left out, or with ``masked_output="last"``
            belongs to the output that is repeated there. No gradient passes a reset: where one at
            step 0 replaces `hx`, that of `hx` is 0. A run with `return_cells` takes the gradients
            of the cells as a third argument, a tuple with an array or None for each layer. No
            gradient goes through the gates that `return_gates` gives.

        Raises
        ------
        ValueError, TypeError
            As a call, from both; nothing has been changed then.

        Notes
        -----
        Cost: a call's, and backwards twice that. Kept are input and output, 5 H values for every
        real step, layer and direction (gates and c), and between layers what they hand on; with
        `checkpoint_every` k, at most H + P for every k steps in place of the 5 H, and the time of a
        call more.

        Examples
        --------
        >>> lstm = fastlstm.LSTM(3, 4, seed=0)
        >>> (output, (h_n, c_n)), pullback = lstm.vjp(np.ones((5, 2, 3), np.float32))
        >>> dx, (dh_0, dc_0) = pullback(np.ones_like(output))
        >>> dx.shape, lstm.grads["weight_ih_l0"].shape
        ((5, 2, 3), (16, 3))

        No gradient passes a reset:

        >>> reset = np.arange(5) == 3
        >>> (output, _), pullback = lstm.vjp(np.ones((5, 3), np.float32), reset=reset)
        >>> d_output = np.zeros_like(output)
        >>> d_output[4] = 1
        >>> dx, _ = pullback(d_output)
        >>> dx.any(axis=1)
        array([False, False, False,  True,  True])
        """
        if checkpoint_every is not None:
            check_size("checkpoint_every", checkpoint_every)
            if return_cells or return_gates:
                raise ValueError(
                    "checkpoint_every cannot be given with return_cells or return_gates, for which "
                    "every step is kept"
                )
        check_bool("return_cells", return_cells)
        check_bool("return_gates", return_gates)
        batch = arrange(
            input, lengths, self.input_size, self.dtype, self.batch_first,
            mask, reset, masked_output, self._backward,
        )  # fmt: skip
        is_learned = hx is None and self.learn_initial_state
        initial, start = self._begin(hx, batch)
        states = batch.sort(initial, start)
        y, tapes = self._record(batch, states, checkpoint_every or 0)
        seen: tuple[Any, ...] = ()
        if return_cells or return_gates:
            layers = [self._saved(tape) for tape in tapes]
            seen = self._seen(batch, layers, return_cells, return_gates)
        y.flags.writeable = False

        def pullback(d_output: Any = None, d_states: Any = None, d_cells: Any = None) -> Any:
            if d_cells is not None and not return_cells:
                raise ValueError("d_cells: Expected none of a run without return_cells=True")
            dy = self._d_output(d_output, batch, y.shape[1])
            of_cells = self._d_cells(d_cells, batch, tapes)
            final = self._d_states(d_states, batch)
            d_sorted = batch.sort(final, back=True)
            with np.errstate(all="ignore"), self._all_or_nothing():
                by_layer = self._by_layer(d_sorted)
                for n in reversed(range(len(tapes))):
                    (stack, kept, _, dropped, _), wanted = tapes[n], input_gradient or n > 0
                    dx = self._back(stack, n, kept, dy, *by_layer[n], wanted, of_cells[n])
                    if dx is not None:
                        dy = dx if dropped is None else np.multiply(dx, dropped, out=dx)
                d_initial = batch.unsort(d_sorted, final, back=True)
                if is_learned:
                    whole = [d.sum(axis=1) if batch.batched else d for d in d_initial]
                    self._add_start_gradients(whole)
                if self.learn_initial_state and isinstance(batch, Pieces):
                    self._add_start_gradients(batch.d_start(d_sorted, final))
            dx = batch.restore(dy) if input_gradient else None
            return dx, self._given_out(d_initial)

        final_states = self._given_out(batch.unsort(states, initial, start))
        return (batch.output(y), final_states, *seen), pullback

    def _call_looked_up(
        self,
        lookup: Lookup,
        hx: Any,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        masked_output: Any = "zero",
        return_cells: bool = False,
        return_gates: bool = False,
    ) -> tuple[Any, ...]:
        """Do what a call does, if its input is to be looked up."""
        batch_first, ahead = self.batch_first, None
        seen = return_cells or return_gates or self._is_random()
        if batch_first is not None and not seen:
            ahead = self._ahead_of(lookup)
        if ahead is None:
            return LSTM.__call__(
                self, lookup.rows(), hx, lengths=lengths, mask=mask, reset=reset,
                masked_output=masked_output, return_cells=return_cells, return_gates=return_gates,
            )  # fmt: skip
        told = lengths is not None or mask is not None or reset is not None
        if (
            not told
            and masked_output == "zero"
            and (done := self._at_once(lookup.index, hx, bool(batch_first), ahead))
        ):
            return done
        numbers = lookup.index[..., np.newaxis]
        batch = arrange(
            numbers, lengths, 1, numbers.dtype, batch_first,
            mask, reset, masked_output, self._backward,
        )  # fmt: skip
        initial, start = self._begin(hx, batch)
        states = batch.sort(initial, start)
        y = np.empty((len(batch.x), self._directions * self._output_size), self.dtype)
        if len(y):
            sizes, table = batch.batch_sizes, ahead.made
            self._run_stacks(ahead.stacks, batch.x, sizes, states, y, table)
        return batch.output(y), self._given_out(batch.unsort(states, initial, start))

    def _record(
        self, batch: Batch, states: list[Floats], checkpoint_every: int = 0, back: bool = True
    ) -> tuple[Floats, list[_Tape]]:
        """Run layer by layer over a batch, and keep what `_saved` and the way `back` need.

        The states are overwritten. Returns y (N, D*P) and the tape of each layer.
        """
        x, tapes, random = batch.x, [], self._is_random()
        stacks = self._stacks(apart=True, back=back)
        for n, (stack, (h, c)) in enumerate(zip(stacks, self._by_layer(states), strict=True)):
            dropped = noise = None
            if random:
                x, dropped, noise = self._randomised(n, x, batch)
            y, kept = np.empty((len(x), len(h) * h.shape[2]), self.dtype), None
            if len(x):
                every = min(checkpoint_every, len(batch.batch_sizes))
                kept = stack.record(x, batch.batch_sizes, h, c, y, self.num_threads, every, noise)
            tapes.append(_Tape(stack, kept, c.shape[2], dropped, y))
            x = y
        return y, tapes

    def _saved(self, tape: _Tape) -> list[tuple[Floats, Floats]]:
        """Return the gates (N, 4H) and cells (N, H) of each direction of a layer."""
        if tape.kept is not None:
            return tape.stack.saved(tape.kept)
        nothing = np.empty((0, 4 * tape.wide), self.dtype), np.empty((0, tape.wide), self.dtype)
        return [nothing] * self._directions

    def _seen(
        self,
        batch: Batch,
        layers: list[list[tuple[Floats, Floats]]],
        cells: bool,
        gates: bool,
    ) -> tuple[tuple[Any, ...], ...]:
        """Return the cells and gates of all layers as they are given out, from those `_saved`."""
        seen_cells, seen_gates = [], []
        for directions in layers:
            if cells:
                each = [c for _, c in directions]
                rows = each[0] if len(each) == 1 else np.concatenate(each, axis=1)
                seen_cells.append(batch.output(rows))
            if gates:
                split = [np.split(four, 4, axis=1) for four, _ in directions]
                each = [np.concatenate(gate, axis=1) for gate in zip(*split, strict=True)]
                seen_gates.append(Gates(*map(batch.output, each)))
        return (tuple(seen_cells),) * bool(cells) + (tuple(seen_gates),) * bool(gates)

    def _begin(self, hx: Any, batch: Batch) -> tuple[list[Floats], list[Floats] | None]:
        """Return the states with which a run begins, and those behind a reset; None for zeros."""
        if not self.learn_initial_state:
            if hx is None:  # a small call is spared one more frame
                return self._zeros(batch.size), None
            return self.check_states(hx, batch.size, batch.batched), None
        start = [state[:, 0] for state in self._initial(1)]
        if hx is None:
            return self._initial(batch.size), start
        return self.check_states(hx, batch.size, batch.batched), start

    def _given_out(self, states: list[Floats]) -> tuple[Any, Any]:
        """Return states as callers have them: two arrays, or two tuples of arrays."""
        if len(states) == 2:
            return states[0], states[1]
        cells = [*each_cell(states)]
        return tuple(cells[: len(cells) // 2]), tuple(cells[len(cells) // 2 :])

    def _by_layer(self, states: list[Floats]) -> list[tuple[Floats, Floats]]:
        """Return the h and c of each layer in the states, views (directions, B, ...)."""
        if self.num_layers == 1:
            return [(states[0], states[1])]
        d = self._directions
        each = [group[k : k + d] for group in states for k in range(0, len(group), d)]
        return [*zip(each[: self.num_layers], each[self.num_layers :], strict=True)]

    def _d_states(self, d_states: Any, batch: Batch) -> list[Floats]:
        """Return the gradients of a run's final states; what is None becomes zeros."""
        if d_states is None:
            return self._zeros(batch.size)
        if isinstance(d_states, (tuple, list)) and len(d_states) == 2:
            zeros = self._zeros(batch.size)
            if not batch.batched:
                zeros = [zero[:, 0] for zero in zeros]
            pairs = zip(d_states, self._given_out(zeros), strict=True)
            d_states = [zero if given is None else given for given, zero in pairs]
        return self.check_states(d_states, batch.size, batch.batched, "d_states")

    def _d_cells(self, d_cells: Any, batch: Batch, tapes: list[_Tape]) -> list[list[Floats] | None]:
        """Return the gradients of the cells of each layer: packed rows for each direction."""
        if d_cells is None:
            return [None] * len(tapes)
        if not isinstance(d_cells, (tuple, list)) or len(d_cells) != len(tapes):
            raise ValueError(
                f"d_cells must be a tuple of {len(tapes)}, an array or None for each layer, got "
                f"{describe(d_cells)}"
            )
        of_cells: list[list[Floats] | None] = []
        for n, (given, tape) in enumerate(zip(d_cells, tapes, strict=True)):
            directions = None
            if given is not None:
                rows = self._d_output(given, batch, self._directions * tape.wide, f"d_cells[{n}]")
                each = np.split(rows, self._directions, axis=1)
                directions = [np.ascontiguousarray(one) for one in each]
            of_cells.append(directions)
        return of_cells

    def _d_output(self, d_output: Any, batch: Batch, wide: int, what: str = "d_output") -> Floats:
        """Return the gradient of a run's output as packed rows; zeros if there is none."""
        if d_output is None:
            return np.zeros((len(batch.x), wide), self.dtype)
        if hasattr(d_output, "batch_sizes"):
            d_output, sizes, order, _ = check_packed(d_output)
            if batch.pack is not None and not batch.pack.is_packed_as(sizes, order):
                raise ValueError(
                    f"Expected {what} packed as the output: the same lengths in the same order"
                )
        dy = as_float(d_output, self.dtype, what, "LSTM")
        expected = batch.output_shape(wide)
        if dy.shape != expected:
            whose = "output's" if what == "d_output" else "cells'"
            raise ValueError(f"Expected {what} of the {whose} shape {expected}, got {dy.shape}")
        return batch.rows(dy)

    def _run(self, batch: Batch, states: list[Floats], cells: list[Floats] | None = None) -> Floats:
        """Run all layers over packed rows x (N, I); states are overwritten; returns y (N, D*P).

        `cells`, if it is not None, gets an array (N, D*H) of each layer's cells.
        """
        x, batch_sizes = batch.x, batch.batch_sizes
        random = self._is_random()
        if cells is None and not random:
            y = np.empty((len(x), self._directions * self._output_size), self.dtype)
            if len(x):
                self._run_stacks(self._whole_stacks(), x, batch_sizes, states, y)
            return y
        layers = zip(self._stacks(apart=True), self._by_layer(states), strict=True)
        for k, (layer, (h, c)) in enumerate(layers):
            noise = None
            if random:
                x, _, noise = self._randomised(k, x, batch)
            y = np.empty((len(x), self._directions * h.shape[2]), self.dtype)
            own = None
            if cells is not None:
                own = np.empty((len(x), self._directions * c.shape[2]), self.dtype)
                cells.append(own)
            if len(x):
                layer.run(x, batch_sizes, h, c, y, self.num_threads, noise, own)
            x = y
        return x

    def _is_random(self) -> bool:
        """Tell whether a run draws anything at random."""
        # Small calls are spared the tuple of all four and the call of `any`.
        return self.training and bool(
            self.dropout or self.recurrent_dropout or self.zoneout or self.input_dropout
        )

    @quiet
    def _randomised(
        self, k: int, x: Floats, batch: Batch
    ) -> tuple[Floats, Floats | None, list[Noise] | None]:
        """Draw what a run of layer k needs: its input after dropout, the factors in it, and noise.

        Factors and noise are None where there are none.
        """
        rng, factors, noise = self._dropout_rng, None, None
        if k and self.dropout:
            factors = dropout_mask(x, self.dropout, rng)
            x = x * factors
        if self.input_dropout:
            own = input_factors(rng, x, self.input_dropout, batch)
            x, factors = x * own, own if factors is None else factors * own
        if self.recurrent_dropout or self.zoneout:
            _, _, hidden, output = self._cells[k * self._directions]
            chances = self.recurrent_dropout, zones_of(self.zoneout)
            noise = [
                draw_noise(rng, (output, hidden), self.dtype, *chances, batch)
                for _ in range(self._directions)
            ]
        return x, factors, noise

    def check_states(self, hx: Any, rows: int, batched: bool, what: str = "hx") -> list[Floats]:
        """Check states that a caller gives, and return copies that a run may change.

        Parameters
        ----------
        hx : (h, c), or None for zeros
            Arrays of shape (layers * D, B, P) and (layers * D, B, H), without B if not `batched`;
            if widths differ, tuples of arrays, as in a call.
        rows : int
            B; 1 if not `batched`.
        batched : bool
            Whether the states have an axis for B.
        what : str
            What errors call them.

        Returns
        -------
        list of ndarrays
            C-contiguous, of the layer's dtype: h (layers * D, B, P), and c (layers * D, B, H). If
            widths differ, first such an h for each group of layers of one width, then such a c.

        Raises
        ------
        ValueError, TypeError
            If a shape or dtype does not fit; torch's sentences.
        """
        if hx is None:
            return self._zeros(rows)
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise TypeError(f"{what} must be a tuple (h_0, c_0), got {describe(hx)}")
        if len(self._groups) > 1:
            return self._check_each(hx, rows, batched, what)
        shapes = [(cells, rows, size) for cells, size in self._state_sizes]
        given = [as_float(s, self.dtype, f"{what}[{n}]", "LSTM") for n, s in enumerate(hx)]
        want = 3 if batched else 2
        if any(state.ndim != want for state in given):
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise ValueError(
                f"For {kind} input, hx and cx should also be {want}-D but got "
                f"({given[0].ndim}-D, {given[1].ndim}-D) tensors"
            )
        states = []
        for n, (state, shape) in enumerate(zip(given, shapes, strict=True)):
            expected = shape if batched else (shape[0], shape[2])
            if state.shape != expected:
                raise ValueError(f"Expected hidden[{n}] size {expected}, got {list(state.shape)}")
            states.append(np.array(state.reshape(shape), order="C"))
        return states

    def _check_each(self, hx: Any, rows: int, batched: bool, what: str) -> list[Floats]:
        """Do what `check_states` does where widths differ: `hx` are two tuples of arrays."""
        states, count = self._zeros(rows), len(self._cells)
        for n, given in enumerate(hx):
            if not isinstance(given, (tuple, list)) or len(given) != count:
                raise ValueError(
                    f"{what}[{n}] must be a tuple of {count} arrays, one for each layer and "
                    f"direction, as their widths differ, got {describe(given)}"
                )
        each = [(n, k, state) for n, given in enumerate(hx) for k, state in enumerate(given)]
        for (n, k, given), cell in zip(each, each_cell(states), strict=True):
            state = as_float(given, self.dtype, f"{what}[{n}][{k}]", "LSTM")
            expected = cell.shape if batched else cell.shape[1:]
            if state.shape != expected:
                raise ValueError(
                    f"Expected hidden[{n}][{k}] size {expected}, got {list(state.shape)}"
                )
            cell[...] = state.reshape(cell.shape)
        return states

    def _join(self, name: str, given: Given) -> tuple[LSTM, Given]:
        given = given.check(self.input_size, who(name, self))
        given.check_steps(who(name, self))
        if not given.stranger:
            given.check_layout(name, self)
        wide = self._directions * self._output_size
        return self, given.behind_lstm(name, self, features=wide, giver=who(name, self))

    @property
    def _takes_lookups(self) -> bool:  # type: ignore[override]
        return self._ahead is None or self._ahead.pays

    def _pass(self, name: str, x: Any, lengths: Any, hx: States, states: States | None) -> Any:
        if type(x) is Lookup:
            y, final = self._call_looked_up(x, hx.get(name), lengths)
        else:
            y, final = self._pair(self(x, hx.get(name), lengths=lengths))
        if states is not None:
            states[name] = final
        return y

    def _pass_vjp(
        self,
        name: str,
        x: Any,
        lengths: Any,
        hx: States,
        states: States | None,
        input_gradient: bool,
    ) -> tuple[Any, Back]:
        options = accepted(type(self).vjp, input_gradient=input_gradient)
        if lengths is not None:
            options["lengths"] = lengths
        result, pullback = self.vjp(x, hx=hx.get(name), **options)
        y, final = self._pair(result)
        if states is not None:
            states[name] = final

        def back(dy: Any, d_states: States, d_hx: States) -> Any:
            dx, d_hx[name] = pullback(dy, d_states.get(name))
            return dx

        return y, back

    def _pair(self, result: Any) -> tuple[Any, tuple[Floats, Floats]]:
        """Return the result of a run, unless a subclass gives something else than a pair.

        An array whose first axis has two steps could be unpacked as one.
        """
        if type(result) is not tuple or len(result) != 2:
            raise TypeError(
                f"{type(self).__name__}: an LSTM must return (output, (h_n, c_n)), got "
                f"{describe(result)}"
            )
        return result

    def _live(self, name: str, given: Given, states: Begins) -> Live:
        try:
            return states.begin(name, self)
        except ValueError as fault:
            if not name:
                raise
            raise ValueError(f"{name!r}: {fault}") from fault

    def _state_names(self, differentiable: bool = False) -> list[str]:
        return [""]

    @property
    def _goes_by_chunks(self) -> bool:
        return not any(self._backward)

    def stream(self, batch_size: int = 1) -> Stream:
        """Begin a live stream: a state of its own over these weights.

        Parameters
        ----------
        batch_size : int
            How many streams B advance together.

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            If the layer, or a direction of it, runs from the end, which is never known of a live
            stream.
        """
        return Stream(self, batch_size)

    def _arguments(self) -> str:
        hidden_size = self.hidden_size
        widths = [*hidden_size] if isinstance(hidden_size, tuple) else hidden_size
        text = f"{self.input_size}, {widths}"
        if self.proj_size:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1 and widths == hidden_size:
            text += f", num_layers={self.num_layers}"
        if not self.bias:
            text += f", bias={self.bias}"
        if self.batch_first is None:
            text += ", batch_first=undecided"
        elif self.batch_first:
            text += f", batch_first={self.batch_first}"
        if self.dropout:
            text += f", dropout={self.dropout}"
        if self.bidirectional:
            text += f", bidirectional={self.bidirectional}"
        return text + options_text(self)


def _widths(hidden_size: Any, num_layers: int) -> list[int]:
    """Return the units of each layer, which `hidden_size` gives for all layers or one by one."""
    if not isinstance(hidden_size, (list, tuple)):
        return [check_size("hidden_size", hidden_size)] * num_layers
    widths = [check_size(f"hidden_size[{n}]", width) for n, width in enumerate(hidden_size)]
    if not widths:
        raise ValueError("hidden_size must have a number of units for each layer, got none")
    if num_layers not in (1, len(widths)):
        raise ValueError(
            f"num_layers={num_layers} does not agree with hidden_size, which is a list for "
            f"{len(widths)} layers: leave out num_layers, which follows"
        )
    return widths
