"""Training by several processes at once: what `fit` is told, and what its processes exchange.

`MPI` is the argument of `fit`. `Ranks` is what the loop in `fastlstm.training.shared` talks to: it
knows how a batch is cut, adds up gradients, and lets an error of one process be one of all.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..checks import check_size

_T = TypeVar("_T")
_FINE, _INTERRUPTED, _FAILED = 0.0, 1.0, 2.0  # how a process comes to an exchange


class MPI:
    """Several processes train one model: each computes the gradients of its share of each batch.

    All processes, the *ranks*, run the same program, in which ``fit(..., parallel=MPI())`` has the
    same arguments in each::

        mpirun -n 4 python -m mpi4py train.py

    Parameters
    ----------
    comm : communicator of mpi4py, optional
        Which processes take part: ``mpi4py.MPI.COMM_WORLD`` if it is not given. Without `mpirun`
        that is this process alone.
    parts : int, optional
        For the same bits on any number of ranks: each batch is cut into so many parts, however many
        ranks there are. The gradient of each part is computed by itself, and they are added up in
        an order of their own. There may be no more ranks than parts. If it is not given, each rank
        takes one part, and MPI adds up as it likes.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.

    Raises
    ------
    ImportError
        If mpi4py, or the MPI library that it needs, is missing.
    ValueError, TypeError
        If there are more ranks than `parts`, or `comm` is no communicator.

    Notes
    -----
    **What is shared.** `batch_size` is that of all ranks together, so that the same program is the
    same training on any number of them. (With torch's DistributedDataParallel it is that of one.)
    Every rank is given the whole data set and reads only its own rows of each batch: of arrays that
    are too large, pass `numpy.memmap`, or a data set of your own. Consecutive samples of a batch
    stay together; if they are ragged they are dealt out, so that each rank has as many long ones.

    **What is the same.** Before the first step all ranks take the parameters of rank 0, the states
    of its optimiser, schedule, callbacks and dropout. Losses, metrics and validation are those of
    all samples, gradients are clipped as a whole, and `fit` returns the same history and leaves the
    same parameters on every rank, bit for bit. That is checked after each epoch. One rank without
    `parts` gives the bits of `fit` without `parallel`. More ranks, or `parts`, differ from these by
    rounding: sums of gradients are taken in another order. Dropout draws other masks for each part.
    The loss of a batch must be a sum or a weighted mean over samples; one of your own is put
    together as `fit` puts batches together.

    **Who does what.** Rank 0 alone reports progress, computes metrics, and reads and writes
    checkpoints, so that only it needs their disk. Any other callback runs on each rank that has it:
    give those that print or draw to rank 0 alone, ``callbacks=[report] if parallel.rank == 0 else
    []``, and those that change or keep something to all. If one rank's callback ends the training,
    it ends on all.

    **What goes wrong.** Arguments that differ, or do not fit, are a ValueError on every rank. An
    error on one rank, as of its disk, is raised there, and as RuntimeError on all others. Ctrl-C or
    SIGTERM on one rank ends the training on all of them after the same update. Open MPI's `mpirun`
    passes Ctrl-C on as SIGTERM, and kills what is not done a second later; ``--mca
    odls_base_sigkill_timeout 10`` makes it ten. If a rank is killed, `mpirun` ends the others; the
    next run continues from the checkpoint, with any number of ranks, and with `parts` to the same
    bits. An error outside `fit` ends all ranks if the program runs under ``python -m mpi4py``, and
    otherwise leaves the others waiting.

    **Threads.** During `fit` each layer whose `num_threads` was not given, and not by
    ``FASTLSTM_NUM_THREADS`` either, takes one thread, as there are usually as many ranks as
    processors.

    **Cost** for each step: one exchange of three numbers a part, and one sum of the gradients over
    all ranks. With `parts`, parts are smaller batches, which take longer a sample, and each part's
    gradient is copied once; the ranks exchange up to twice as much.

    Examples
    --------
    >>> parallel = fastlstm.training.MPI(parts=4)
    >>> parallel.rank, parallel.size
    (0, 1)
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((64, 10, 1), np.float32)
    >>> model = fastlstm.Sequential(
    ...     fastlstm.LSTM(1, 8, seed=0), fastlstm.Last(), fastlstm.Linear(8, 1, seed=0)
    ... )
    >>> history = fastlstm.fit(
    ...     model, (x, x[:, -2]), fastlstm.training.MSELoss(), fastlstm.training.Adam(model),
    ...     epochs=2, parallel=parallel,
    ... )
    >>> len(history["loss"])
    2
    """

    def __init__(self, comm: Any = None, *, parts: int | None = None) -> None:
        self.comm = _world() if comm is None else comm
        if not hasattr(self.comm, "Allreduce") or not hasattr(self.comm, "Get_rank"):
            raise TypeError(
                f"comm should be a communicator of mpi4py, got: {type(self.comm).__name__}"
            )
        self.rank: int = self.comm.Get_rank()
        self.size: int = self.comm.Get_size()
        self.parts = None if parts is None else check_size("parts", parts)
        if self.parts is not None and self.parts < self.size:
            raise ValueError(f"Expected parts of at least {self.size}, one a rank, got {parts}")

    @property
    def is_alone(self) -> bool:
        """Whether there is nothing to share: `fit` does as it does without `parallel`."""
        return self.size == 1 and self.parts is None

    def __repr__(self) -> str:
        return f"MPI(parts={self.parts}), rank {self.rank} of {self.size}"

    @contextlib.contextmanager
    def together(self) -> Iterator[Ranks]:
        """Give the ranks of one training, apart from other messages of the program.

        An error that only this rank knows of ends all of them: they could wait for it forever.
        """
        comm = self.comm.Dup()
        ranks = Ranks(comm, self.parts)
        try:
            yield ranks
        except BaseException as fault:
            if fault is not ranks.known and self.size > 1:
                traceback.print_exc()
                print(
                    f"rank {self.rank} of {self.size} failed where the others cannot know of it: "
                    "all are ended",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                comm.Abort(1)
            comm.Free()
            raise
        comm.Free()


def _world() -> Any:
    """Return the communicator of all processes; ImportError if something is missing."""
    try:
        from mpi4py import MPI as library
    except ImportError as error:
        raise ImportError("training.MPI needs the mpi4py package: pip install mpi4py") from error
    except RuntimeError as error:  # the package is there, and no library
        raise ImportError(
            f"training.MPI needs an MPI library ({error}); on Debian and Ubuntu: "
            "apt-get install openmpi-bin"
        ) from error
    return library.COMM_WORLD


class Ranks:
    """The processes that train together: how batches are cut, and what is exchanged.

    Parameters
    ----------
    comm : communicator
    parts : int or None
        As `MPI` was given it.

    Attributes
    ----------
    own : range
        The parts of each batch that this rank computes.
    known : BaseException or None
        The error at hand, if all ranks know that there is one.
    """

    def __init__(self, comm: Any, parts: int | None) -> None:
        self.comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.parts = parts or self.size
        self._in_order = parts is not None
        self._cuts = [rank * self.parts // self.size for rank in range(self.size + 1)]
        self.own = range(self._cuts[self.rank], self._cuts[self.rank + 1])
        self._most = max(b - a for a, b in zip(self._cuts, self._cuts[1:], strict=False))
        self._nodes = [_nodes(0, self.parts, range(*cut)) for cut in self._pairs()]
        self._rooms: list[NDArray[Any]] = []
        self.known: BaseException | None = None

    def _pairs(self) -> list[tuple[int, int]]:
        return list(zip(self._cuts, self._cuts[1:], strict=False))

    def all_know(self, fault: _T) -> _T:
        """Return an error that every rank raises by itself, such as one that follows from sums."""
        self.known = fault  # type: ignore[assignment]
        return fault

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that every rank comes to; an error in it, on any of them, is one on all."""
        try:
            yield
        except BaseException as fault:
            self.tell(fault)
            raise
        self.tell(None)

    def tell(self, fault: BaseException | None) -> None:
        """Tell all ranks whether this one has failed; raise an error here if another one has."""
        if fault is not None and fault is self.known:
            return
        text = None
        if fault is not None:
            is_signal = isinstance(fault, KeyboardInterrupt)
            text = "" if is_signal else f"{type(fault).__name__}: {fault}"
        texts = self.comm.allgather(text)
        failed = [rank for rank, text in enumerate(texts) if text]
        if fault is not None and (text or not failed):
            self.known = fault
            return  # its own error goes on from here
        if failed:
            who = f"rank {failed[0]} of {self.size} failed: {texts[failed[0]]}"
            raise self.all_know(RuntimeError(who)) from fault
        if any(text is not None for text in texts):
            raise self.all_know(KeyboardInterrupt())

    def from_first(self, function: Callable[[], _T]) -> _T:
        """Return what a function gives on rank 0, on which alone it is called."""
        value: Any = None
        with self.agreed():
            if self.rank == 0:
                value = function()
        result: _T = self.comm.bcast(value)
        return result

    def check_same(self, words: Mapping[str, str]) -> None:
        """Refuse a training that is described by other words on another rank."""
        everybody: list[Mapping[str, str]] = self.comm.allgather(dict(words))
        for rank, theirs in enumerate(everybody):
            for name in {**everybody[0], **theirs}:
                first, other = everybody[0].get(name), theirs.get(name)
                if first != other:
                    first, other = (_without_hash(str(text)) for text in (first, other))
                    how = f"is {first} on rank 0 and {other} on rank {rank}"
                    if first == other:
                        how = f"has other values on rank {rank} than on rank 0"
                    sentence = f"every rank must train the same, but {name} {how}"
                    raise self.all_know(ValueError(sentence))

    def cut(self, rows: NDArray[np.int64], is_ragged: bool) -> list[NDArray[np.int64]]:
        """Return which places of a batch each of the own parts has; some may have none."""
        places = np.arange(len(rows))
        if is_ragged:  # a batch is sorted by length
            return [places[part :: self.parts] for part in self.own]
        pieces = np.array_split(places, self.parts)
        return [pieces[part] for part in self.own]

    def exchange(
        self, own: NDArray[np.float64], fault: BaseException | None, asked: bool = False
    ) -> NDArray[np.float64]:
        """Return the numbers (n, P, k) of all parts, where `own` are (n, parts of this rank, k).

        If a rank has failed, or was `asked` to stop, all raise an error or KeyboardInterrupt.
        """
        n, count, k = own.shape
        state = _FINE
        if fault is not None:
            state = _INTERRUPTED if isinstance(fault, KeyboardInterrupt) else _FAILED
        elif asked:
            fault, state = KeyboardInterrupt(), _INTERRUPTED
        sent = np.zeros(1 + self._most * n * k)
        sent[0] = state
        sent[1 : 1 + own.size] = own.ravel()
        received = np.empty((self.size, len(sent)))
        self.comm.Allgather(sent, received)
        if received[:, 0].any():
            self.tell(fault)
            assert fault is not None
            raise fault
        pieces = [
            received[rank, 1 : 1 + n * (b - a) * k].reshape(n, b - a, k)
            for rank, (a, b) in enumerate(self._pairs())
        ]
        return np.concatenate(pieces, axis=1)

    def add_up(self, flat: NDArray[Any], compute: Callable[[int], None]) -> None:
        """Fill `flat` with the sum of all parts' gradients; `compute(part)` fills it with one.

        In the order of `parts`, or else as MPI likes. Every rank gets the same bits.
        """
        if not self._in_order:
            for part in self.own:
                compute(part)
            if self.size > 1:
                self.comm.Allreduce(None, flat)  # None: in place
            return
        # The sums of whole subtrees are taken here. Then each rank takes the rest of the tree for a
        # slice of the gradients, and passes it on to all.
        most = max(map(len, self._nodes))
        length = -(-len(flat) // self.size)
        own = np.zeros((most, self.size * length), flat.dtype)
        for number, node in enumerate(self._nodes[self.rank]):
            self._sum(node, own[number, : len(flat)], flat, compute, 0)
        if self.size == 1:
            flat[...] = own[0, : len(flat)]
            return
        sent = np.ascontiguousarray(own.reshape(most, self.size, length).swapaxes(0, 1))
        received = np.empty_like(sent)  # (rank, node of it, slice)
        self.comm.Alltoall(sent, received)
        sums = {
            (node.start, node.stop): received[rank, number]
            for rank, nodes in enumerate(self._nodes)
            for number, node in enumerate(nodes)
        }
        total = _joined(0, self.parts, sums)
        whole = own[0]
        self.comm.Allgather(np.ascontiguousarray(total), whole)
        flat[...] = whole[: len(flat)]

    def _sum(
        self,
        node: range,
        into: NDArray[Any],
        flat: NDArray[Any],
        compute: Callable[[int], None],
        depth: int,
    ) -> None:
        """Fill `into` with the sum of the gradients of a subtree's parts."""
        if len(node) == 1:
            compute(node.start)
            into[...] = flat
            return
        middle = _middle(node.start, node.stop)
        self._sum(range(node.start, middle), into, flat, compute, depth)
        if len(self._rooms) <= depth or self._rooms[depth].shape != flat.shape:
            self._rooms[depth:] = [np.empty_like(flat)]
        room = self._rooms[depth]
        self._sum(range(middle, node.stop), room, flat, compute, depth + 1)
        into += room


def _middle(start: int, stop: int) -> int:
    """Return where a subtree of parts is cut in two: behind the greatest power of 2 below it."""
    return start + (1 << (stop - start - 1).bit_length() - 1)


def _nodes(start: int, stop: int, own: range) -> list[range]:
    """Return the largest subtrees of the parts from `start` to `stop` that lie in `own`."""
    if own.start <= start and stop <= own.stop:
        return [range(start, stop)]
    if own.stop <= start or stop <= own.start:
        return []
    middle = _middle(start, stop)
    return _nodes(start, middle, own) + _nodes(middle, stop, own)


def _joined(start: int, stop: int, sums: Mapping[tuple[int, int], NDArray[Any]]) -> NDArray[Any]:
    """Return the sum of the parts from `start` to `stop`, from those of the subtrees in `sums`."""
    if (start, stop) in sums:
        return sums[start, stop]
    middle = _middle(start, stop)
    total: NDArray[Any] = _joined(start, middle, sums) + _joined(middle, stop, sums)
    return total


def _without_hash(words: str) -> str:
    return words.partition(" #")[0]
