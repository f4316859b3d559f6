"""TFLite's operators of graphs and of variables: WHILE, IF, CALL_ONCE, VAR_HANDLE and so on.

A converter writes what it does not fuse as loops: LSTMs of other activations, with masks, without
biases, with states that Keras keeps. Such states are resource variables. A graph that is called
once gives them their first values; what is read before anything is assigned is a state, which goes
on from call to call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..checks import short
from ..graphs import tflite_functions as functions

if TYPE_CHECKING:
    from .tflite_site import Site


def _while(site: Site) -> None:
    condition, body = (site.inside(site.options[name]) for name in ("cond", "body"))
    counts = {
        len(site.inputs), len(site.outputs), len(body.outputs), len(body.inputs),
        len(condition.inputs),
    }  # fmt: skip
    if len(counts) > 1 or len(condition.outputs) != 1 or not site.inputs:
        raise ValueError("its graphs have other inputs or outputs than it has")
    values = [site.value(place) for place in range(len(site.inputs))]
    site.compute(functions.While(condition, body), values)


def _if(site: Site) -> None:
    site.needs(1, len(site.inputs), outputs=len(site.outputs))
    then, other = (site.inside(site.options[name]) for name in ("then", "else"))
    for plan in (then, other):
        if len(plan.inputs) != len(site.inputs) - 1 or len(plan.outputs) != len(site.outputs):
            raise ValueError("its graphs have other inputs or outputs than it has")
    if not site.outputs:
        raise ValueError("it gives nothing")
    values = [site.value(place) for place in range(len(site.inputs))]
    site.compute(functions.Branches(then, other), values)


def _call_once(site: Site) -> None:
    """Take the first values of variables from a graph that assigns constants to them."""
    inner = site.reader.read_inside(site.options["init"])
    for name, value in inner.assigned.items():
        if value not in inner.draft.constants:
            raise ValueError(f"the first value of variable {short(name)} is computed")
        site.reader.first_values[name] = inner.draft.constants[value]


def _handle(site: Site) -> None:
    site.needs(0)
    site.reader.handles[site.outputs[0]] = site.options["name"]


def _variable(site: Site) -> str:
    """Return the name of the variable that the first input is a handle of."""
    index = site.inputs[0]
    if index not in site.reader.handles:
        raise ValueError("its first input is no variable of this graph")
    return site.reader.handles[index]


def _read(site: Site) -> None:
    site.needs(1)
    site.give(site.reader.variable(_variable(site)))


def _assign(site: Site) -> None:
    site.needs(2, outputs=0)
    site.reader.assigned[_variable(site)] = site.value(1)


CONTROL: dict[str, Callable[[Site], None]] = {
    "WHILE": _while,
    "IF": _if,
    "CALL_ONCE": _call_once,
    "VAR_HANDLE": _handle,
    "READ_VARIABLE": _read,
    "ASSIGN_VARIABLE": _assign,
}
