"""Ranks that are threads of one process, for tests of training by several ranks without MPI."""

import pickle
import threading

import numpy as np

WAIT = 60  # seconds after which a rank that waits for the others gives up


class Aborted(BaseException):
    """What `Abort` raises on the rank that calls it, and others at their next exchange."""


class Comm:
    """What `training.MPI` needs of a communicator of mpi4py, among threads."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.shared = rank, size, shared

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def Dup(self):
        return self

    def Free(self):
        pass

    def Abort(self, code):
        self.shared["barrier"].abort()
        raise Aborted(code)

    def _everybody(self, kind, value):
        """Return what all ranks give, if they have all come to the same exchange."""
        slots, barrier = self.shared["slots"], self.shared["barrier"]
        slots[self.rank] = kind, value
        try:
            barrier.wait()
            given = list(slots)
            barrier.wait()
        except threading.BrokenBarrierError:
            raise Aborted("another rank has left, or does not come") from None
        assert {other for other, _ in given} == {kind}, "ranks have come to different exchanges"
        return [value for _, value in given]

    def allgather(self, value):
        return [pickle.loads(data) for data in self._everybody("allgather", pickle.dumps(value))]

    def gather(self, value):
        everybody = self.allgather(value)
        return everybody if self.rank == 0 else None

    def bcast(self, value):
        return self.allgather(value if self.rank == 0 else None)[0]

    def Allreduce(self, sent, received):
        assert sent is None, "in place"
        arrays = self._everybody(("Allreduce", received.size), received.copy())
        received[...] = self.add(arrays)

    @staticmethod
    def add(arrays):
        return np.add.reduce(arrays)

    def Allgather(self, sent, received):
        kind = "Allgather", sent.size
        received.reshape(self.size, -1)[...] = self._everybody(kind, sent.ravel().copy())

    def Alltoall(self, sent, received):
        arrays = self._everybody(("Alltoall", sent.size), sent.copy())
        for rank, array in enumerate(arrays):
            received[rank] = array[self.rank]


def run(size, program, comm=Comm):
    """Call ``program(comm)`` on so many ranks; return what each has returned or raised."""
    shared = {"slots": [None] * size, "barrier": threading.Barrier(size, timeout=WAIT)}
    outcomes = [None] * size

    def work(rank):
        try:
            outcomes[rank] = program(comm(rank, size, shared))
        except BaseException as fault:
            outcomes[rank] = fault

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
