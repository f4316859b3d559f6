"""The training loop of several processes: as `fastlstm.training.loop`, over shares of each batch.

All ranks come to the same exchanges in the same order, whatever happens on one of them. What may
fail on one alone is inside of such an exchange: reading data, models, losses, callbacks. What
follows from sums over all ranks needs no exchange, because they have the same bits.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .batches import Batches
from .callbacks import State
from .checkpoint import Checkpoint, generators, kept_of, put_back
from .datasets import Batch
from .description import frozen_names, hash_of
from .diagnosis import NonFiniteError
from .interrupts import NotedInterrupts
from .loop import Place, Training, counted
from .mpi import Ranks

_Piece = tuple[int, int, NDArray[Any], NDArray[Any]]  # batch, place in it, predictions, targets


class _Share(NamedTuple):
    """One part of a batch behind the model and the loss."""

    gradient: NDArray[Any]  # of the loss's sum, by the prediction
    pullback: Callable[[NDArray[Any]], Any]


class SharedTraining(Training):
    """`Training` by several ranks; each has the same arguments."""

    interrupts: NotedInterrupts

    def __init__(self, ranks: Ranks, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ranks = ranks
        self._failed: BaseException | None = None  # what happened in the way back

    def _epoch(self, batches: Batches, name: str, learn: bool, bar: Any = None) -> dict[str, float]:
        order = batches.order(self.state.epoch)
        pieces: list[_Piece] = []
        if learn:
            sums = []
            for number in range(len(order)):
                self.place = Place(name, batches, number)
                sums.append(self._learn_together(order[number], pieces))
                if bar is not None:
                    bar.update()
        else:
            sums = self._evaluate_together(batches, name, order, pieces)
        total = count = 0.0
        for value, denominator in sums:
            count += denominator
            divides = denominator and not self.loss.adds_up
            total += value / denominator * denominator if divides else value  # as in one process
        try:
            mean = self._mean(name, total, count)
        except ValueError as fault:
            raise self.ranks.all_know(fault) from None
        return {"loss": mean} | self._measured(pieces)

    def _parts(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], Batch]]:
        """Read the own parts of a batch: yield each one's number among them, places and samples."""
        assert self.place is not None
        data: Any = self.place.batches.data
        is_ragged = getattr(data, "lengths", None) is not None
        for number, places in enumerate(self.ranks.cut(rows, is_ragged)):
            if len(places):
                yield number, places, data[rows[places]]

    def _learn_together(self, rows: NDArray[np.int64], pieces: list[_Piece]) -> tuple[float, float]:
        """Make a step of training with a batch; return its loss, as a sum, and denominator."""
        ranks = self.ranks
        own = np.zeros((1, len(ranks.own), 2))
        shares: dict[int, _Share] = {}
        fault: BaseException | None = None
        with np.errstate(all="ignore"):
            try:
                with self._random_numbers() as begin:
                    for number, places, batch in self._parts(rows):
                        begin(ranks.own[number])
                        prediction, pullback = self.view.vjp(batch)
                        *own[0, number], gradient = self.loss.share(prediction, batch)
                        shares[ranks.own[number]] = _Share(gradient, pullback)
                        self._keep(pieces, places, prediction, batch)
            except BaseException as stopped:
                fault = stopped
            [parts] = ranks.exchange(own, fault, bool(self.interrupts.asked))
            value, denominator = self._summed(parts)
            if not denominator:
                return value, 0.0
            loss = value if self.loss.adds_up else value / denominator
            if not math.isfinite(loss):
                raise self._fault(f"the loss is {loss}", None)
            self._go_back(shares, 1.0 if self.loss.adds_up else denominator)
            self._step(None)
        return value, denominator

    def _go_back(self, shares: dict[int, _Share], denominator: float) -> None:
        """Fill the gradients with those of the whole batch."""
        flat = self.model.joined_gradients()
        self._failed = None

        def compute(part: int) -> None:
            try:
                self.model.zero_grad()
                if part in shares:
                    gradient, pullback = shares.pop(part)
                    pullback(gradient / gradient.dtype.type(denominator))
            except BaseException as fault:  # nan is how the others come to know
                self._failed = fault
            if self._failed is not None:
                flat[...] = np.nan

        self.ranks.add_up(flat, compute)

    @contextlib.contextmanager
    def _random_numbers(self) -> Iterator[Callable[[int], None]]:
        """Give a function that lets the random numbers of a part begin.

        They follow from the layers' own, which are the same on all ranks, and from the number of
        the part.
        """
        found = {id(own.bit_generator): own.bit_generator for _, own in generators(self.model)}
        entropy = {key: [int(raw) for raw in own.random_raw(4)] for key, own in found.items()}
        behind = {key: own.state for key, own in found.items()}

        def begin(part: int) -> None:
            for key, own in found.items():
                own.state = type(own)(np.random.SeedSequence([*entropy[key], part])).state

        try:
            yield begin
        finally:
            for key, own in found.items():
                own.state = behind[key]

    def _evaluate_together(
        self,
        batches: Batches,
        name: str,
        order: list[NDArray[np.int64]],
        pieces: list[_Piece],
    ) -> list[tuple[float, float]]:
        """Return the loss of each batch, as a sum, and its denominator; nothing is learnt."""
        own = np.zeros((len(order), len(self.ranks.own), 2))
        fault: BaseException | None = None
        with np.errstate(all="ignore"):
            try:
                for batch_number, rows in enumerate(order):
                    self.place = Place(name, batches, batch_number)
                    if self.interrupts.asked:
                        raise KeyboardInterrupt
                    for number, places, batch in self._parts(rows):
                        prediction = self.view(batch)
                        *own[batch_number, number], _ = self.loss.share(prediction, batch)
                        self._keep(pieces, places, prediction, batch)
            except BaseException as stopped:
                fault = stopped
            table = self.ranks.exchange(own, fault)
            sums = [self._summed(parts) for parts in table]
            for batch_number, (value, denominator) in enumerate(sums):
                divides = denominator and not self.loss.adds_up
                loss = value / denominator if divides else value
                if not math.isfinite(loss):
                    self.place = Place(name, batches, batch_number)
                    raise self._fault_of_evaluation(loss, None)
        return sums

    def _summed(self, parts: NDArray[np.float64]) -> tuple[float, float]:
        """Return the sums over the parts of a batch, (P, 2), in their order."""
        value = denominator = 0.0
        for own_value, own_denominator in parts.tolist():
            value, denominator = value + own_value, denominator + own_denominator
        if not denominator and not self.loss.counts_weightless:
            value = 0.0
        return value, denominator

    def _keep(
        self, pieces: list[_Piece], places: NDArray[np.int64], prediction: Any, batch: Batch
    ) -> None:
        """Keep predictions and targets for metrics, with their place in the batch."""
        if not self.metrics:
            return
        assert self.place is not None
        number = self.place.number
        if places[-1] - places[0] < len(places):  # consecutive samples
            pieces.append((number, int(places[0]), *counted(prediction, batch)))
            return
        for k, place in enumerate(places.tolist()):
            one = Batch(None, batch.y[k : k + 1], mask=_row(batch.mask, k))
            pieces.append((number, place, *counted(prediction[k : k + 1], one)))

    def _measured(self, pieces: list[_Piece]) -> dict[str, float]:
        """Return the metrics of all predictions, in the order of the data."""
        if not self.metrics:
            return {}
        gathered = self.ranks.comm.gather(pieces)

        def measure() -> dict[str, float]:
            every = sorted(itertools.chain(*gathered), key=lambda piece: piece[:2])
            return self._measure([piece[2:] for piece in every])

        return self.ranks.from_first(measure)

    def _seconds_since(self, started: float) -> float:
        seconds = super()._seconds_since(started)
        return self.ranks.from_first(lambda: seconds)

    def _end_epoch(self, report: Callable[[], None]) -> None:
        """Report on rank 0; call callbacks, checkpoints last, when all know what the others did."""
        state, history = self.state, self.state.history
        own = [one for one in state.callbacks if not isinstance(one, Checkpoint)]
        with self.ranks.agreed():
            if self.ranks.rank == 0:
                report()
            self._call(own)
            frozen = frozen_names(state.model)
            digest = hash_of([state.model.state_dict(), str(state.optimizer.lr), frozen])
        told = self.ranks.comm.allgather((history.stopped, digest))
        if history.stopped is None:
            history.stopped = next((reason for reason, _ in told if reason is not None), None)
        apart = [rank for rank, (_, other) in enumerate(told) if other != told[0][1]]
        if apart:
            raise self.ranks.all_know(
                RuntimeError(
                    f"after epoch {state.epoch} rank {apart[0]} has other parameters, or another "
                    "learning rate, than rank 0, or others are frozen. A callback that changes "
                    "something must run on all ranks, and processors of different kinds may round "
                    "differently"
                )
            )
        with self.ranks.agreed():
            self._call(one for one in state.callbacks if isinstance(one, Checkpoint))

    def _fault(
        self, what: str, batch: Batch | None, origin: str | None = None, backward: bool = False
    ) -> NonFiniteError:
        """Return the same error on all ranks; rank 0 looks for its origin in the whole batch."""
        if backward:
            self.ranks.tell(self._failed)
            if self._failed is not None:
                raise self._failed
        find = super()._fault

        def found() -> tuple[str, Any, Any, Any]:
            error = find(what, batch, origin, backward)
            return str(error), error.epoch, error.batch, error.origin

        words = self.ranks.from_first(found)
        return self.ranks.all_know(NonFiniteError(*words, self.state.history))


def _row(mask: NDArray[np.bool_] | None, k: int) -> NDArray[np.bool_] | None:
    """Return the mask of one sample; a mask may have one row for all."""
    return mask if mask is None or len(mask) == 1 else mask[k : k + 1]


def share_state(ranks: Ranks, state: State) -> None:
    """Give all ranks what the next epochs depend on, as rank 0 has it, such as parameters."""
    kept, resumed = ranks.from_first(lambda: (kept_of(state), state.history.resumed))
    with ranks.agreed():
        if ranks.rank:
            put_back(kept, state)
            state.history.resumed = resumed


def of_ranks(state: State, resume: object) -> dict[str, str]:
    """Return what must be the same on all ranks besides what a training is made of, in words."""
    shapes = {name: view.shape for name, view in state.model.state_dict().items()}
    engines = {getattr(layer, "engine", None) for _, layer in state.model.named_layers()}
    return {
        "parameters": ", ".join(f"{name} {shape}" for name, shape in shapes.items()),
        "engine": ", ".join(sorted(filter(None, engines))),
        "epochs": str(state.epochs),
        "resume": "a path" if resume is not None else "None",
    }
