"""Two hundred steps of training give the curves that torch.nn.LSTM gives, but for rounding.

`twins.py` says how they are compared: in each dtype with torch.nn.LSTM in float64, as far as
roundings move what comes out. The roundings of different steps have nothing to do with each other,
so those of n steps add up as sqrt(n) do. Of losses that begin at 0.2 this leaves 2e-13 in float64
and 1e-4 in float32; on an Intel Xeon with AVX-512 they differed by 5e-15 and by 2e-7.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from twins import DTYPES, Given, Module, Setting, assert_alike, torch

from fastlstm.torch import LSTM

STEPS = 200
LENGTHS = (9, 8, 8, 5, 3, 1)
FORMS = {
    "padded": Setting(hx=False, lengths=LENGTHS, num_layers=2, batch_first=True),
    "packed": Setting("packed", hx=False, lengths=LENGTHS, bidirectional=True),
}
OPTIMISERS = {
    "SGD": functools.partial(torch.optim.SGD, lr=0.5, momentum=0.9),
    "Adam": functools.partial(torch.optim.Adam, lr=0.005),
}


def train(module: Module, given: Given, optimiser: str = "SGD") -> dict[str, Any]:
    """Learn what the input was two steps before; return the losses, and the outputs in the end."""
    of = OPTIMISERS[optimiser](module.parameters())
    axis = 1 if given.setting.batch_first else 0
    x = given.x.detach()
    target, losses = x.roll(2, axis).tanh(), []
    steps = torch.arange(x.shape[axis]).view((1, -1, 1) if axis else (-1, 1, 1))
    of_sequence = torch.tensor(given.lengths).view((-1, 1, 1) if axis else (1, -1, 1))
    counts = (steps >= 2) & (steps < of_sequence)
    for _ in range(STEPS):
        of.zero_grad()
        output = given.run(module, x)[0]
        loss = ((output[..., : x.shape[-1]] - target).square() * counts).mean()
        loss.backward()
        of.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "output": output}


ACTS = {name: functools.partial(train, optimiser=name) for name in OPTIMISERS}
within_rounding = functools.partial(assert_alike, steps=np.sqrt(STEPS))


# Every optimiser, form and dtype is in a quick one.
QUICK = ("SGD", "packed", DTYPES[0]), ("Adam", "padded", DTYPES[1])


@pytest.mark.parametrize(
    ("optimiser", "form", "dtype"),
    [
        pytest.param(*one, marks=[pytest.mark.slow] * (one not in QUICK))
        for one in itertools.product(OPTIMISERS, FORMS, DTYPES)
    ],
)
def test_curves(optimiser, form, dtype):
    within_rounding(ACTS[optimiser], LSTM, FORMS[form], dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_something_is_learned(optimiser, form):
    given = Given(FORMS[form])
    losses = ACTS[optimiser](given.module(LSTM), given)["losses"]
    assert losses[-1] < 0.5 * losses[0]


class LearnsALittleFaster(torch.nn.LSTM):
    """One gradient is too large, by a hundredth."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weight_hh_l0.register_hook(lambda d: 1.01 * d)


class SeesAChangeTooLate(torch.nn.LSTM):
    """As if a step of the optimiser had not been seen."""

    count = 0

    def forward(self, input: Any, hx: Any = None) -> Any:
        self.count += 1
        now = {name: weight.detach().clone() for name, weight in self.named_parameters()}
        with torch.no_grad():
            if self.count == 100:
                for name, weight in self.named_parameters():
                    weight.copy_(self.before[name])
        self.before = now
        return super().forward(input, hx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cls", [LearnsALittleFaster, SeesAChangeTooLate])
def test_faults_are_found(cls, dtype):
    with pytest.raises(AssertionError):
        within_rounding(ACTS["SGD"], cls, FORMS["packed"], dtype, engine=False)
