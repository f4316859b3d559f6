"""ONNX's operators with graphs inside: If, Loop and Scan.

A node has the inputs of its operator and behind them the values that its graphs take from around
them. Sources: https://onnx.ai/onnx/operators/onnx__If.html, onnx__Loop.html, onnx__Scan.html;
where these leave something open, the values are those of onnxruntime.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_size, short
from .plan import Body, Operator, Value

if TYPE_CHECKING:
    from ..arrays import Array


def truth(condition: Value) -> bool:
    """Return a condition, an array of one value, as a bool."""
    if not isinstance(condition, (np.ndarray, np.generic)) or condition.size != 1:
        raise ValueError(f"a condition must be one value, got {short(np.shape(condition))}")
    return bool(condition.item())


class If:
    """Computes an If: one of two branches, and nothing of the other one."""

    def __init__(self, operator: Operator) -> None:
        self.count = len(operator.outputs)
        self.branches = []
        own = {name: place for place, name in enumerate(operator.inputs)}
        for name in ("else_branch", "then_branch"):
            body = _body(operator, name)
            if len(body.plan.outputs) < self.count:
                raise ValueError(
                    f"it has {self.count} outputs, its {name} {len(body.plan.outputs)}"
                )
            if len(body.plan.inputs) != len(body.captured):
                raise ValueError(f"its {name} has inputs")
            places = [own[value] for value in body.captured]
            self.branches.append((body.plan, places))
        self.plans = tuple(plan for plan, _ in self.branches)

    def __call__(self, *values: Value) -> Any:
        plan, places = self.branches[truth(values[0])]
        results = plan.run([values[place] for place in places])
        return results[0] if self.count == 1 else results[: self.count]


class _Repeated:
    """What Loop and Scan share: a body, its states, and values that are collected.

    Attributes
    ----------
    states, collected : int
        How many values go from one run of the body to the next, and how many are collected.
    """

    def __init__(self, operator: Operator, states: int, first: int) -> None:
        """`first` says how many outputs the body has before its states."""
        body = _body(operator, "body")
        self.plan, self.limits = body.plan, operator.draft.limits
        self.plans = (self.plan,)
        self.own = len(operator.inputs) - len(body.captured)
        self.states, self.first = states, first
        self.collected = len(body.plan.outputs) - first - states
        if states < 0 or self.collected < 0:
            raise ValueError(
                f"its body has {len(body.plan.inputs) - len(body.captured)} inputs and "
                f"{len(body.plan.outputs)} outputs, which do not go together"
            )
        self.count = len(operator.outputs)
        if self.count > states + self.collected:
            raise ValueError(f"it has {self.count} outputs, its body {states + self.collected}")
        self.kinds = body.kinds[first + states :]

    def empty(self, place: int) -> Array:
        """Return what is collected in no run at all, with the axes that the file tells."""
        dtype, shape = self.kinds[place] if place < len(self.kinds) else (None, None)
        sizes = [n if isinstance(n, int) else 0 for n in shape or ()]
        self.limits.allow(sizes, 8)
        return np.zeros((0, *sizes), dtype or np.dtype("f4"))

    def stacked(self, parts: Sequence[Array], place: int, axis: int = 0) -> Array:
        """Return what was collected as one array, with an axis for the runs."""
        if not parts:
            return np.moveaxis(empty := self.empty(place), 0, _axis(axis, empty.ndim))
        if any(np.shape(part) != np.shape(parts[0]) for part in parts):
            raise ValueError(
                f"its body gives arrays of different shapes, {short(np.shape(parts[0]))} and "
                "others, which cannot be put together"
            )
        return np.stack(parts, _axis(axis, np.ndim(parts[0]) + 1))

    def results(self, states: Sequence[Value], collected: Sequence[Array]) -> Any:
        outputs = (*states, *collected)[: self.count]
        return outputs[0] if self.count == 1 else outputs


class Loop(_Repeated):
    """Computes a Loop: its body so many times, or as long as it says."""

    def __init__(self, operator: Operator) -> None:
        body = _body(operator, "body")
        super().__init__(operator, len(body.plan.inputs) - len(body.captured) - 2, 1)
        if self.own > 2 + self.states:
            raise ValueError(f"it has {self.own} inputs, its body {2 + self.states}")

    def __call__(self, *values: Value) -> Any:
        own, around = values[: self.own], values[self.own :]
        own += (None,) * (2 + self.states - self.own)
        most, condition, *states = own
        runs: Any = itertools.count() if most is None else range(_whole(most, "the trip count"))
        going = condition is None or truth(condition)
        collected: list[list[Array]] = [[] for _ in range(self.collected)]
        size, true = 0, np.array(True)
        for run in runs:
            if not going:
                break
            inputs = [np.array(run, np.int64), true, *states, *around]
            keep, *results = self.plan.run(inputs)
            going = truth(keep)
            states = results[: self.states]
            for parts, result in zip(collected, results[self.states :], strict=True):
                parts.append(result)
                size += np.asarray(result).nbytes
            if size > self.limits.most:
                self.limits.allow((size,), 1)  # which says so
        arrays = [self.stacked(parts, place) for place, parts in enumerate(collected)]
        return self.results(states, arrays)


class Scan(_Repeated):
    """Computes a Scan: its body for each slice of the inputs along an axis."""

    def __init__(self, operator: Operator) -> None:
        given = operator.attributes
        body = _body(operator, "body")
        self.batched = operator.version < 9  # the form of ONNX 1.3: a batch, which has lengths
        scanned = check_size("num_scan_inputs", given.get("num_scan_inputs", 0))
        inputs = len(body.plan.inputs) - len(body.captured)
        super().__init__(operator, inputs - scanned, 0)
        if self.own != inputs + self.batched:
            raise ValueError(f"it has {self.own - self.batched} inputs, its body {inputs}")
        ways = "directions" if self.batched else "scan_input_directions"
        self.backward = _integers(given, ways, scanned)
        self.axes = _integers(given, "scan_input_axes", scanned)
        self.out_backward = _integers(given, "scan_output_directions", self.collected)
        self.out_axes = _integers(given, "scan_output_axes", self.collected)

    def __call__(self, *values: Value) -> Any:
        own, around = values[: self.own], values[self.own :]
        if self.batched:
            return self._batch(own[0], own[1:], around)
        states, collected = self._run(own[: self.states], own[self.states :], self.axes, around)
        arrays = [
            self.stacked(parts[::-1] if back else parts, place, axis)
            for place, (parts, back, axis) in enumerate(
                zip(collected, self.out_backward, self.out_axes, strict=True)
            )
        ]
        return self.results(states, arrays)

    def _run(
        self,
        states: Sequence[Value],
        scanned: Sequence[Array],
        axes: Sequence[int],
        around: Sequence[Value],
    ) -> tuple[Sequence[Value], list[list[Array]]]:
        """Return the final states, and what each run of the body gives."""
        inputs = []
        for array, axis, back in zip(scanned, axes, self.backward, strict=True):
            if not array.ndim:
                raise ValueError("a scanned input has no axis")
            slices = np.moveaxis(array, _axis(axis, array.ndim), 0)
            inputs.append(slices[::-1] if back else slices)
        lengths = {len(slices) for slices in inputs}
        if len(lengths) > 1:
            raise ValueError(f"scanned inputs have different lengths, {sorted(lengths)}")
        collected: list[list[Array]] = [[] for _ in range(self.collected)]
        size = 0
        for each in zip(*inputs, strict=True):
            results = self.plan.run([*states, *map(np.asarray, each), *around])
            states = results[: self.states]
            for parts, result in zip(collected, results[self.states :], strict=True):
                parts.append(result)
                size += np.asarray(result).nbytes
            if size > self.limits.most:
                self.limits.allow((size,), 1)  # which says so
        return states, collected

    def _batch(self, lengths: Value, own: Sequence[Array], around: Sequence[Value]) -> Any:
        """Run the sequences of a batch one by one; what is collected ends with zeros."""
        states, scanned = own[: self.states], own[self.states :]
        if any(array.ndim < 2 for array in scanned) or any(array.ndim < 1 for array in states):
            raise ValueError("an input lacks the axes of batch and steps")
        rows, steps = scanned[0].shape[:2]
        if any(len(array) != rows for array in own):
            raise ValueError("inputs have batches of different sizes")
        counts = np.full(rows, steps) if lengths is None else np.asarray(lengths)
        if counts.shape != (rows,) or (rows and not (0 <= counts.min() <= counts.max() <= steps)):
            raise ValueError(f"sequence_lens must be {rows} numbers from 0 to {steps}")
        after: list[list[Array]] = [[] for _ in range(self.states)]
        collected: list[list[Array]] = [[] for _ in range(self.collected)]
        for row, count in enumerate(counts):
            parts = [array[row, :count] for array in scanned]
            axes = [0] * len(parts)
            ends, found = self._run([array[row] for array in states], parts, axes, around)
            for values, end in zip(after, ends, strict=True):
                values.append(end)
            for place, (arrays, one) in enumerate(zip(collected, found, strict=True)):
                array = self.stacked(one, place)
                self.limits.allow((rows, steps, *array.shape[1:]), array.itemsize)
                padded = np.zeros((steps, *array.shape[1:]), array.dtype)
                padded[:count] = array
                arrays.append(padded)
        if not rows:
            raise ValueError("a batch of no sequences")
        return self.results([np.stack(v) for v in after], [np.stack(v) for v in collected])


def _body(operator: Operator, name: str) -> Body:
    body = operator.attributes.get(name)
    if not isinstance(body, Body):
        raise ValueError(f"it has no {name}")
    return body


def _integers(given: Any, name: str, count: int) -> list[int]:
    """Return an attribute of so many integers; zeros if it is left out."""
    numbers = given.get(name, [0] * count)
    if not isinstance(numbers, list) or len(numbers) != count:
        raise ValueError(f"{name} must be {count} integers, got {short(numbers)}")
    return [check_size(name, number, None) for number in numbers]


def _axis(axis: int, axes: int) -> int:
    if not -axes <= axis < axes:
        raise ValueError(f"it has the axis {axis} of an array with {axes} axes")
    return axis


def _whole(value: Value, what: str) -> int:
    if not isinstance(value, (np.ndarray, np.generic)) or value.size != 1:
        raise ValueError(f"{what} must be one value")
    return int(value.reshape(()))
