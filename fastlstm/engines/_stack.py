"""A stack of layers on an engine that knows one layer in one direction: loops and threads."""

import numpy as np

# floating-point operations, about a millisecond's: below that, starting threads costs more than
# they save
_WORTH_THREADS = 1e8


class Stack:
    """Layers on top of each other, packed once; `run` is the whole stack's.

    Parameters
    ----------
    engine : module
    parameters : list of (w_ih, w_hh, b, w_hr)
        For each layer, and in it for each direction, as the engine's `pack` takes them.
    directions : {1, 2}
    """

    def __init__(self, engine, parameters, directions):
        self._engine, self._directions = engine, directions
        self._weights = [engine.pack(*arrays) for arrays in parameters]
        self._size = sum(a.size for arrays in parameters for a in arrays if a is not None)

    def run(self, x, batch_sizes, h, c, y, threads):
        """As `Stack.run` of the contract; thread k runs the sequences k, k + n, ...

        As they are sorted by length, the shares are even.
        """
        parts = min(threads, h.shape[1])
        if parts < 2 or 8 * len(x) * self._size < _WORTH_THREADS:
            self._run(x, batch_sizes, h, c, y)
            return
        from concurrent.futures import ThreadPoolExecutor

        place = np.arange(len(x)) - np.repeat(np.cumsum(batch_sizes) - batch_sizes, batch_sizes)

        def run(part):
            rows = np.flatnonzero(place % parts == part)
            sizes = (batch_sizes - part + parts - 1) // parts
            own_h, own_c = (np.array(state[:, part::parts], order="C") for state in (h, c))
            own_y = np.empty((len(rows), y.shape[1]), y.dtype)
            self._run(x[rows], sizes[sizes > 0], own_h, own_c, own_y)
            y[rows] = own_y
            h[:, part::parts], c[:, part::parts] = own_h, own_c

        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(run, range(parts)))

    def _run(self, x, batch_sizes, h, c, y):
        run, d, last = self._engine.run, self._directions, len(self._weights) - 1
        for k, weights in enumerate(self._weights):
            if k % d == 0:  # a layer's first direction
                above = y if k + d > last else np.empty_like(y)
            part = above if d == 1 else np.split(above, 2, axis=1)[k % 2]
            run(weights, x, batch_sizes, h[k], c[k], part, k % d == 1)
            if (k + 1) % d == 0:
                x = above
