"""Data sets: samples in arrays, sequences of different lengths, and what any other must offer.

A data set is an object with ``len(data)`` and ``data[indices] -> Batch``. A ragged one also has
`lengths`, the number of steps of each sample. `Arrays` and `Sequences` are defined here, `Windows`
in `fastlstm.training.windows`. Samples are the first axis everywhere and time is the second,
(B, T, F). `fit` and `predict` swap the two for a model that is not `batch_first`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..arrays import as_array, as_integers, column_names
from ..checks import check_bool, check_dtype
from ..sequences import pad_sequence
from .columns import check_names, check_order
from .standardizer import Standardizer, check_standardizer


class Batch(NamedTuple):
    """Some samples: the input of a model, the targets, and what the loss must know besides.

    Parameters
    ----------
    x : ndarray of shape (B, T, F), or whatever the model takes, samples first
    y : ndarray of shape (B, ...), or None
        The targets; (B, T, ...) if every step has one. None if there are none, as for `predict`.
    weights : ndarray of shape (B,), or (B, T) with a target for every step, or None
        How much each sample, or each step, counts.
    mask : bool ndarray, or None
        True where there is a target, False on padding and where a target is missing. Its axes are
        the first axes of y: (B, T) of ragged samples with a target for every step.
    lengths : int64 ndarray of shape (B,), or None
        Of ragged samples: how many of the T steps are real.
    std : ndarray of shape (B,), or None
        The standard deviation that `NSELoss` needs of each sample.

    Examples
    --------
    >>> fastlstm.training.Arrays(np.zeros((9, 5, 2)), np.zeros(9))[:4].x.shape
    (4, 5, 2)
    """

    x: NDArray[Any] | Any
    y: NDArray[Any] | Any
    weights: NDArray[Any] | None = None
    mask: NDArray[np.bool_] | None = None
    lengths: NDArray[np.int64] | None = None
    std: NDArray[Any] | None = None

    def __repr__(self) -> str:
        parts = []
        for name, value in self._asdict().items():
            if isinstance(value, np.ndarray):
                parts.append(f"{name}: {value.shape} of {value.dtype}")
            elif value is not None:
                parts.append(f"{name}: {type(value).__name__}")
        return f"Batch({', '.join(parts)})"


class Dataset(Protocol):
    """What `fit`, `predict` and `Batches` ask of a data set.

    Examples
    --------
    >>> class Squares:
    ...     def __len__(self):
    ...         return 100
    ...
    ...     def __getitem__(self, indices):
    ...         x = np.arange(100, dtype=np.float32)[indices, None, None]
    ...         return fastlstm.training.Batch(x, x[:, 0] ** 2)
    >>> [batch] = fastlstm.training.Batches(Squares(), 100, shuffle=False).epoch(0)
    >>> batch.y[:4].tolist()
    [[0.0], [1.0], [4.0], [9.0]]
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, indices: Any, /) -> Batch:
        """Return the samples of these numbers, an int64 array of shape (B,)."""
        ...


Data = Dataset | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]
Indices = slice | Sequence[int] | NDArray[np.integer[Any]]


class Arrays:
    """Samples that are in arrays already, along the first axis.

    Parameters
    ----------
    x : array of shape (N, ...)
        A memory-mapped array is read batch by batch. Types stay as they are.
    y : array of shape (N, ...)
    weights : array of shape (N,), or (N, T) with a target for every step, optional
        How much each sample, or each step, counts in the loss.
    mask : bool array, optional
        True where there is a target; its axes are the first axes of y. Where missing targets are
        nan, it is ``~np.isnan(y)``.
    std : array of shape (N,), optional
        For `NSELoss`: the standard deviation of the targets in each sample's basin.

    Raises
    ------
    ValueError, TypeError
        If there are no samples, the arrays have different numbers of them, or a mask is not bool.

    Examples
    --------
    >>> data = fastlstm.training.Arrays([[0, 1], [2, 3], [4, 5]], [0, 1, 0], weights=[1, 2, 3])
    >>> len(data)
    3
    >>> batch = data[[2, 0]]
    >>> batch.x.tolist(), batch.y.tolist(), batch.weights.tolist()
    ([[4, 5], [0, 1]], [0, 0], [3, 1])
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        std: ArrayLike | None = None,
    ) -> None:
        self.x, self.y = as_array(x, "x"), _as_targets(y, "y")
        self.weights = None if weights is None else as_array(weights, "weights")
        self.mask = None if mask is None else as_array(mask, "mask")
        self.std = None if std is None else as_array(std, "std")
        if not self.x.ndim or not len(self.x):
            raise ValueError(f"Expected x with at least one sample, got shape {self.x.shape}")
        if self.y.shape[:1] != self.x.shape[:1]:
            raise ValueError(
                f"Expected y of shape ({len(self.x)}, ...), as many rows as x, got {self.y.shape}"
            )
        if self.std is not None and self.std.shape != self.x.shape[:1]:
            raise ValueError(
                f"Expected std of shape ({len(self.x)},), one a sample, got {self.std.shape}"
            )
        shapes = self.y.shape[:1], self.y.shape[:2]
        if self.weights is not None and self.weights.shape not in shapes:
            a_step = f" or {self.y.shape[:2]}, one a step," if self.y.ndim > 1 else ""
            raise ValueError(
                f"Expected weights of shape ({len(self.x)},), one a sample,{a_step} got "
                f"{self.weights.shape}"
            )
        if self.mask is not None and self.mask.dtype != bool:
            raise TypeError(f"Expected a mask of truth values, got {self.mask.dtype}")
        if self.mask is not None and not (
            self.mask.ndim and self.mask.shape == self.y.shape[: self.mask.ndim]
        ):
            raise ValueError(
                f"Expected a mask whose axes are the first ones of y, {self.y.shape}, got "
                f"{self.mask.shape}"
            )

    def __repr__(self) -> str:
        arrays = {"weights": self.weights, "mask": self.mask, "std": self.std}
        more = "".join(f", {name}: {a.shape}" for name, a in arrays.items() if a is not None)
        return f"Arrays(x: {self.x.shape} of {self.x.dtype}, y: {self.y.shape}{more})"

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, indices: Indices) -> Batch:
        """Return the Batch of these samples (integers, or a slice), a copy."""
        rows = check_indices(indices, len(self))

        def taken(array: NDArray[Any] | None) -> Any:
            # `array.take` would copy the whole array first, if its numbers do not lie side by side.
            return None if array is None else np.ascontiguousarray(array[rows])

        weights, mask, std = taken(self.weights), taken(self.mask), taken(self.std)
        return Batch(taken(self.x), taken(self.y), weights, mask, std=std)


class Sequences:
    """Sequences of different lengths, each with one target, or with one for every step.

    Parameters
    ----------
    sequences : list of N arrays of shape (T_i, F), or (T_i,)
        Integers of shape (T_i,) in all of them are tokens, for an Embedding. Other values of that
        shape are one feature. A T_i may be 0: see `lengths` of `LSTM` and of `Last`.
    targets : array of shape (N, ...), or list of N arrays of shape (T_i, ...), optional
        An array, or a list of numbers, holds one target for each sequence: a class, a value, a
        vector. A list of arrays (or of lists) holds one for each step. `predict` needs none.
    weights : array of shape (N,), or list of N arrays of shape (T_i,), optional
        How much each sequence counts in the loss, or each step that has a target.
    std : array of shape (N,), optional
        For `NSELoss`: the standard deviation of the targets in each sequence's basin.
    standardizer : Standardizer, optional
        Standardises the sequences, but not the targets, batch by batch.
    mask_missing : bool
        Leave targets that are nan out of the loss, by the mask of the batches.
    dtype : {"float32", "float64"}
        Of features and targets in a batch. Tokens and integer targets become int64.

    Attributes
    ----------
    lengths : int64 ndarray of shape (N,)
        The lengths T_i.

    Raises
    ------
    ValueError
        If there are no sequences, their features differ, or targets, weights or standardizer do
        not fit them.

    Notes
    -----
    A batch is padded with zeros after the end of each sequence, up to the longest one in it; its
    `lengths` tell the model where each sequence ends. Only the batch is copied, twice.

    Examples
    --------
    >>> data = fastlstm.training.Sequences([[5, 6, 7], [8]], [[1, 0, 1], [1]])
    >>> batch = data[[1, 0]]
    >>> batch.x.tolist(), batch.lengths.tolist()
    ([[8, 0, 0], [5, 6, 7]], [1, 3])
    >>> batch.y.tolist(), batch.mask.tolist()
    ([[1, 0, 0], [1, 0, 1]], [[True, False, False], [True, True, True]])
    """

    targets: list[NDArray[Any]] | NDArray[Any] | None
    weights: list[NDArray[Any]] | NDArray[Any] | None

    def __init__(
        self,
        sequences: Sequence[ArrayLike],
        targets: ArrayLike | Sequence[ArrayLike] | None = None,
        *,
        weights: ArrayLike | Sequence[ArrayLike] | None = None,
        std: ArrayLike | None = None,
        standardizer: Standardizer | None = None,
        mask_missing: bool = False,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.dtype = check_dtype(dtype)
        self.mask_missing = check_bool("mask_missing", mask_missing)
        self.sequences, self.tokens = _as_sequences(sequences)
        self.lengths = np.array([len(s) for s in self.sequences], np.int64)
        if standardizer is not None and self.tokens:
            raise ValueError("Expected sequences of features for a standardizer, got tokens")
        for array, given in zip(self.sequences, sequences, strict=True):
            check_order(given)
            check_standardizer(standardizer, array.shape[-1], column_names(given))
            check_names(column_names(sequences[0]), column_names(given), "first sequence")
        self.standardizer = standardizer
        # Targets of steps are recognised by their type: 3 numbers for a sequence of 3 steps could
        # be meant either way.
        self.per_step = False
        if targets is None:
            self.targets = None
        elif isinstance(targets, (list, tuple)) and any(map(np.ndim, targets)):
            self.per_step = True
            self.targets = [_as_targets(t, "a sequence's targets") for t in targets]
        else:
            self.targets = np.atleast_1d(_as_targets(targets, "targets"))
        if self.targets is not None and len(self.targets) != len(self):
            raise ValueError(
                f"Expected targets for {len(self)} sequences, got them for {len(self.targets)}"
            )
        parts = self.targets if isinstance(self.targets, list) else [self.targets]
        if isinstance(self.targets, list):
            self._check_steps(self.targets)
        self._classes = all(part is not None and part.dtype.kind in "iu" for part in parts)
        self.weights = None if weights is None else self._checked_weights(weights)
        self.std = None if std is None else as_array(std, "std")
        if self.std is not None and self.std.shape != (len(self),):
            raise ValueError(
                f"Expected std of shape ({len(self)},), one a sequence, got {self.std.shape}"
            )

    def __repr__(self) -> str:
        what = "tokens" if self.tokens else f"{self.sequences[0].shape[-1]} features"
        shortest, longest = self.lengths.min(), self.lengths.max()
        targets = "no" if self.targets is None else "steps'" if self.per_step else "sequences'"
        return f"Sequences({len(self)} of {shortest} to {longest} steps, {what}, {targets} targets)"

    def _checked_weights(
        self, weights: ArrayLike | Sequence[ArrayLike]
    ) -> list[NDArray[Any]] | NDArray[Any]:
        if not (isinstance(weights, (list, tuple)) and any(map(np.ndim, weights))):
            array = as_array(weights, "weights")
            if array.shape != (len(self),):
                raise ValueError(f"Expected weights of shape {(len(self),)}, got {array.shape}")
            return array
        if not self.per_step:
            raise ValueError(
                "Expected weights of shape (N,), one a sequence as the targets are, got a list of "
                "arrays"
            )
        arrays = [as_array(w, "a sequence's weights") for w in weights]
        shapes, expected = [w.shape for w in arrays], [(n,) for n in self.lengths.tolist()]
        if shapes != expected:
            raise ValueError(f"Expected weights of shape {expected}, got {shapes}")
        return arrays

    def _check_steps(self, targets: list[NDArray[Any]]) -> None:
        for number, (target, length) in enumerate(zip(targets, self.lengths, strict=True)):
            if target.shape[:1] != (length,):
                raise ValueError(
                    f"Expected a list of targets to have one for each of the {length} steps of "
                    f"sequence {number}, got shape {target.shape}; one for each whole sequence "
                    "comes as an array of shape (N, ...)"
                )
        if len(shapes := {target.shape[1:] for target in targets}) > 1:
            raise ValueError(f"Expected targets of one shape at every step, got {sorted(shapes)}")

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, indices: Indices) -> Batch:
        """Return the padded Batch of these sequences (integers, or a slice)."""
        rows = check_indices(indices, len(self))
        lengths = self.lengths[rows]
        sequences = [self.sequences[k] for k in rows]
        if self.standardizer is not None:
            sequences = [self.standardizer.transform(s) for s in sequences]
        x = self._cast(pad_sequence(sequences, batch_first=True), self.tokens)
        weights = None if self.weights is None else _rows_of(self.weights, rows)
        std = None if self.std is None else self.std[rows]
        if self.targets is None:
            return Batch(x, None, weights, lengths=lengths)
        y, mask = self._cast(_rows_of(self.targets, rows), self._classes), None
        if self.per_step:
            mask = np.arange(x.shape[1]) < lengths[:, None]
        if self.mask_missing:
            there = ~np.isnan(y)
            mask = there if mask is None else there & mask.reshape(mask.shape + (1,) * (y.ndim - 2))
        return Batch(x, y, weights, mask, lengths, std)

    def _cast(self, array: NDArray[Any], integers: bool) -> NDArray[Any]:
        with np.errstate(under="ignore"):
            return np.ascontiguousarray(array, np.int64 if integers else self.dtype)


def as_dataset(data: Data) -> Dataset:
    """Return `data` as a data set: a tuple of arrays as Arrays, any other data set as it is."""
    if isinstance(data, tuple) and len(data) in (2, 3):
        return Arrays(*data)
    if (
        isinstance(data, (list, tuple, dict, str, np.ndarray))
        or hasattr(data, "columns")  # a table
        or not (hasattr(data, "__len__") and hasattr(data, "__getitem__"))
    ):
        raise TypeError(
            "Expected data to be Arrays, Sequences, Windows, or a tuple (x, y) or (x, y, weights), "
            f"got {type(data).__name__}" + (f" of {len(data)}" if isinstance(data, tuple) else "")
        )
    return data


def check_indices(indices: Indices, count: int) -> NDArray[np.int64]:
    """Return the numbers of the samples that are meant, of `count` in all: (B,) int64."""
    if isinstance(indices, slice):
        return np.arange(*indices.indices(count))
    numbers = as_integers(indices, "indices of samples")
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(
            "Expected a slice or a list of at least one index of a sample, "
            f"got shape {numbers.shape}"
        )
    if numbers.view(np.uint64).max() >= count:  # where negative ones are huge
        raise IndexError(
            f"Expected indices of samples from 0 to {count - 1}, got some from {numbers.min()} to "
            f"{numbers.max()}"
        )
    return numbers


def _as_targets(value: Any, name: str) -> NDArray[Any]:
    """Return targets as an array. The error about words says how they become class indices."""
    dtype = getattr(value, "dtype", None)
    if getattr(dtype, "kind", None) in ("O", "U", "T"):  # of arrays and of columns of pandas
        if np.size(value) and isinstance(np.ravel(value)[0], str):
            raise ValueError(
                f"Expected {name} to hold numbers, or class indices, integers from 0, got {dtype} "
                f"of shape {np.shape(value)}. Labels become indices by np.unique(labels, "
                "return_inverse=True)[1]"
            )
    try:
        return as_array(value, name)
    except TypeError as fault:
        raise TypeError(
            f"{fault}. Classes are integers from 0, as np.unique(labels, return_inverse=True)[1] "
            "gives them"
        ) from fault


def _as_sequences(sequences: Sequence[ArrayLike]) -> tuple[list[NDArray[Any]], bool]:
    """Return arrays that agree in their features, and whether they are tokens."""
    if not isinstance(sequences, (list, tuple)):
        raise TypeError(f"Expected a list of sequences, got {type(sequences).__name__}")
    arrays = [as_array(s, "a sequence") for s in sequences]
    if not arrays:
        raise ValueError("Expected a list of at least one sequence, got an empty one")
    full = [s for s in arrays if s.shape != (0,)] or arrays  # [] has no features and no type
    if all(s.ndim == 1 and s.dtype.kind in "iu" for s in full):
        return [s.astype(np.int64) if s.shape == (0,) else s for s in arrays], True
    shape = full[0].shape[1:] or (1,)
    arrays = [s.reshape(0, *shape) if s.shape == (0,) else s for s in arrays]
    arrays = [s[:, None] if s.ndim == 1 else s for s in arrays]
    shapes = {s.shape[1:] for s in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 2:
        raise ValueError(
            "Expected sequences of shape (T_i, F) with one F, or (T_i,), got "
            f"{sorted({np.shape(s) for s in sequences})}"
        )
    return arrays, False


def _rows_of(arrays: list[NDArray[Any]] | NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return these samples of an array, or of a list with an array for each, padded to one."""
    if isinstance(arrays, list):
        return pad_sequence([arrays[k] for k in rows], batch_first=True)
    return arrays[rows]
