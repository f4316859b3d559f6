"""The batches of every epoch, and their order."""

import numpy as np

from ..checks import check_bool, check_size
from .datasets import as_data


class Batches:
    """The batches of every epoch, in an order that depends on nothing but seed and epoch.

    Parameters
    ----------
    data : Arrays, Sequences, Windows, or a tuple (x, y) or (x, y, weights) of arrays
        Or any other data set: something with ``len(data)``, ``data[indices] -> Batch`` and, if it
        is ragged, `lengths`.
    batch_size : int
        Samples in a batch. One batch of an epoch may have fewer.
    shuffle : bool
        Draw a new order for every epoch; False keeps the data's own.
    seed : int
        Of the order, at least 0.
    drop_last : bool
        Leave out the samples, others in every epoch if they are shuffled, that fill no batch.
    pool : int
        Of shuffled ragged data the samples of so many batches, drawn at random, are sorted by
        length before they are cut into batches, and then the batches are shuffled: more make
        less padding, fewer mix lengths better, 1 mixes them wholly.

    Raises
    ------
    TypeError, ValueError
        If `data` is no data set, or an option is wrong.

    Notes
    -----
    An epoch's order takes a sort of the N samples. It is made of PCG64's raw numbers, which are
    the same in every version of NumPy and on every machine. If each pool holds lengths from a to
    b, its batches have no more than ``batch_size * (b - a)`` steps of padding together.

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

    def __init__(self, data, batch_size, *, shuffle=True, seed=0, drop_last=False, pool=50):
        self.data = as_data(data)
        self.batch_size = check_size("batch_size", batch_size)
        self.shuffle = check_bool("shuffle", shuffle)
        self.seed = check_size("seed", seed, least=0)
        self.drop_last = check_bool("drop_last", drop_last)
        self.pool = check_size("pool", pool)
        if not len(self):
            raise ValueError(
                f"Expected enough samples for one batch of {batch_size}, got {len(self.data)}"
            )

    def __len__(self):
        """How many batches an epoch has."""
        whole, rest = divmod(len(self.data), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch):
        """Tell which samples each batch of an epoch holds.

        Parameters
        ----------
        epoch : int
            At least 0.

        Returns
        -------
        list of int64 ndarray of shape (batch_size,)
            One may be shorter.
        """
        random = np.random.PCG64([self.seed, check_size("epoch", epoch, least=0)])
        samples = np.arange(len(self.data))
        if self.shuffle:
            samples = _permutation(random, len(samples))
        samples = samples[: len(self) * self.batch_size]
        lengths = getattr(self.data, "lengths", None)
        ragged = self.shuffle and lengths is not None
        if ragged:
            pools = _cut(samples, self.pool * self.batch_size)
            sorts = [np.argsort(lengths[pool], kind="stable") for pool in pools]
            samples = np.concatenate([p[sort] for p, sort in zip(pools, sorts, strict=True)])
        batches = _cut(samples, self.batch_size)
        return [batches[k] for k in _permutation(random, len(batches))] if ragged else batches

    def epoch(self, epoch, first=0):
        """Iterate over the batches of an epoch, from number `first` on.

        Parameters
        ----------
        epoch : int
            At least 0.
        first : int
            How many batches to pass over; they are not read.

        Returns
        -------
        iterator of Batch
        """
        check_size("first", first, least=0)
        return map(self.data.__getitem__, self.order(epoch)[first:])


def _permutation(random, count):
    """A random order of `count` things from raw numbers, equal ones, should there be any, too."""
    return np.argsort(random.random_raw(count), kind="stable")


def _cut(samples, size):
    return [samples[first : first + size] for first in range(0, len(samples), size)]
