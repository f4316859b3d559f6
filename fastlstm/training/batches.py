"""The batches of an epoch, and the order in which it takes the samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..checks import check_bool, check_size
from .datasets import Batch, Data, as_dataset


class Batches:
    """The batches of every epoch, in an order that depends on the seed and the epoch alone.

    Parameters
    ----------
    data : Arrays, Sequences, Windows, or a tuple (x, y) or (x, y, weights) of arrays
        Any other data set will do as well: an object with ``len(data)``, ``data[indices] -> Batch``
        and, if it is ragged, `lengths`.
    batch_size : int
        The number of samples in a batch. One batch of an epoch may have fewer.
    shuffle : bool
        Draw a new order for every epoch. False keeps the order of the data.
    seed : int
        The seed of that order, at least 0.
    drop_last : bool
        Leave out the samples that do not fill a batch. If the data are shuffled, these are other
        samples in every epoch.
    pool : int
        Concerns ragged data that are shuffled: the samples of so many batches, drawn at random, are
        sorted by length before they are cut into batches, and then the batches are shuffled. A
        larger pool makes less padding, a smaller one mixes lengths better; 1 mixes them wholly.

    Raises
    ------
    TypeError, ValueError
        If `data` is no data set, or an option is wrong.

    Notes
    -----
    The order of an epoch costs a sort of the N samples. It is made of PCG64's raw numbers, which
    are the same in every version of NumPy and on every machine. If each pool holds lengths from a
    to b, its batches together have at most ``batch_size * (b - a)`` steps of padding.

    Examples
    --------
    >>> batches = fastlstm.training.Batches((np.arange(5), np.arange(5)), 2, seed=3)
    >>> len(batches)
    3
    >>> [batch.x.tolist() for batch in batches.epoch(0)]
    [[0, 4], [1, 3], [2]]
    >>> [batch.x.tolist() for batch in batches.epoch(0, first=2)]
    [[2]]
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        pool: int = 50,
    ) -> None:
        self.data = as_dataset(data)
        self.batch_size = check_size("batch_size", batch_size)
        self.shuffle = check_bool("shuffle", shuffle)
        self.seed = check_size("seed", seed, least=0)
        self.drop_last = check_bool("drop_last", drop_last)
        self.pool = check_size("pool", pool)
        if not len(self):
            raise ValueError(
                f"Expected enough samples for one batch of {batch_size}, got {len(self.data)}"
            )

    def __repr__(self) -> str:
        return (
            f"Batches({self.data!r}, {self.batch_size}, shuffle={self.shuffle}, seed={self.seed}, "
            f"drop_last={self.drop_last}, pool={self.pool})"
        )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        whole, rest = divmod(len(self.data), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the numbers of the samples in each batch of an epoch.

        Parameters
        ----------
        epoch : int
            At least 0.

        Returns
        -------
        list of int64 ndarray of shape (batch_size,)
            One of them may be shorter.
        """
        random = np.random.PCG64([self.seed, check_size("epoch", epoch, least=0)])
        samples = np.arange(len(self.data))
        if self.shuffle:
            samples = _permutation(random, len(samples))
        samples = samples[: len(self) * self.batch_size]
        lengths = getattr(self.data, "lengths", None)
        if not self.shuffle or lengths is None:
            return _cut(samples, self.batch_size)
        pools = _cut(samples, self.pool * self.batch_size)
        sorts = [np.argsort(lengths[pool], kind="stable") for pool in pools]
        samples = np.concatenate([pool[sort] for pool, sort in zip(pools, sorts, strict=True)])
        batches = _cut(samples, self.batch_size)
        return [batches[k] for k in _permutation(random, len(batches))]

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, from number `first` on.

        Parameters
        ----------
        epoch : int
            At least 0.
        first : int
            The number of batches to skip. They are not read.

        Returns
        -------
        iterator of Batch
        """
        check_size("first", first, least=0)
        return map(self.data.__getitem__, self.order(epoch)[first:])


def _permutation(random: np.random.PCG64, count: int) -> NDArray[np.int64]:
    """Return a random order of `count` things, which is defined even if raw numbers are equal."""
    return np.argsort(random.random_raw(count), kind="stable")


def _cut(samples: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [samples[first : first + size] for first in range(0, len(samples), size)]
