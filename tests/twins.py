"""Twins: torch.nn.LSTM and a class that stands in for it, made to do the same.

A test is an *act*: a function of a module and of what is `Given`, which does something that people
do and returns what came of it by name. `assert_alike` lets torch.nn.LSTM do it in float64 and the
other class in the dtype that is tested. Tensors of floats may differ by rounding alone, as
`gradients.spread` derives it from the act itself; whatever else is returned must be equal. An act
that torch.nn.LSTM refuses must be refused with the same sentence (`assert_same_error`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from gradients import assert_within, roundings, spread

torch: Any = pytest.importorskip("torch", reason="compares with torch, which is not installed")
pytest.importorskip("fastlstm.torch", exc_type=ImportError)  # without engine native
rnn = torch.nn.utils.rnn


def has_bfloat16_lstm() -> bool:
    """Whether torch's LSTM runs under autocast here: oneDNN has it for processors with AVX-512."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


Tensor = Any
Module = Any
Act = Callable[[Module, "Given"], dict[str, Any]]


class Setting(NamedTuple):
    """A module's arguments beside its sizes, and what it is given.

    `form` is "padded", "unbatched", "packed" or "unsorted" (a pack made with
    enforce_sorted=False). The longest sequence comes first, but in "unsorted" last.
    """

    form: str = "padded"
    hx: bool = True
    I: int = 3
    H: int = 5
    lengths: tuple[int, ...] = (4, 4, 2)
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    seed: int = 0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the class."""
        names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
        sizes = {"input_size": self.I, "hidden_size": self.H}
        return sizes | {name: getattr(self, name) for name in names}

    @property
    def terms(self) -> int:
        """The most terms that a sum of a run or of its gradients has."""
        P = self.proj_size or self.H
        wide = (1 + self.bidirectional) * P if self.num_layers > 1 else 0
        return max(max(self.I, wide) + P + 1, 4 * self.H, max(self.lengths) * len(self.lengths))


FORMS = ["padded", "unbatched", "packed", "unsorted"]
DEEP = Setting(num_layers=2, bidirectional=True)
IN_EVERY_FORM = [DEEP._replace(form=form) for form in FORMS]


@functools.cache
def values_of(setting: Setting) -> dict[str, np.ndarray]:
    """Draw parameters, input, states and the outputs' gradients: float64, exact in float32."""
    rng = np.random.default_rng(setting.seed)

    def normal(*shape: int, scale: float = 1) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    T, B, H, P = max(setting.lengths), len(setting.lengths), setting.H, setting.proj_size
    D = 1 + setting.bidirectional
    batch = () if setting.form == "unbatched" else (B,)

    def steps(wide: int) -> tuple[int, ...]:
        return (*batch, T, wide) if setting.batch_first and batch else (T, *batch, wide)

    module = torch.nn.LSTM(**setting.arguments(), device="meta")
    values = {n: normal(*p.shape, scale=1 / np.sqrt(H)) for n, p in module.named_parameters()}
    values |= {"x": normal(*steps(setting.I)), "d_output": normal(*steps(D * (P or H)))}
    for name, wide in {"h": P or H, "c": H}.items():
        for kind in (f"{name}_0", f"d_{name}_n"):
            values[kind] = normal(setting.num_layers * D, *batch, wide)
    return values


class Given:
    """What an act may use: leaves `x`, `h_0` and `c_0`, and the gradients `d` of all results."""

    def __init__(self, setting: Setting, dtype: str = "float32", values: Any = None) -> None:
        self.setting, self.dtype = setting, getattr(torch, dtype)
        values = values_of(setting) if values is None else values
        self._values = {name: torch.from_numpy(v.astype(dtype)) for name, v in values.items()}
        self.x, self.h_0, self.c_0 = (
            self._values[name].clone().requires_grad_() for name in ("x", "h_0", "c_0")
        )
        self.hx = (self.h_0, self.c_0) if setting.hx else None
        self.d = [self._values[f"d_{name}"] for name in ("output", "h_n", "c_n")]
        self.lengths = sorted(setting.lengths, reverse=setting.form != "unsorted")

    def module(self, cls: type) -> Module:
        """Return a module of the class, with the values' parameters, that trains."""
        module = cls(**self.setting.arguments(), dtype=self.dtype)
        module.load_state_dict({name: self._values[name] for name in module.state_dict()})
        return module

    def input(self, x: Tensor = None) -> Any:
        """Return x in the setting's form."""
        x = self.x if x is None else x
        if self.setting.form in ("packed", "unsorted"):
            ordered = self.setting.form == "packed"
            first = self.setting.batch_first
            return rnn.pack_padded_sequence(x, self.lengths, first, enforce_sorted=ordered)
        return x

    def run(self, module: Module, x: Tensor = None) -> list[Tensor]:
        """Call the module; return output, which is padded if it was packed, h_n and c_n."""
        output, states = module(self.input(x), self.hx)
        if isinstance(output, rnn.PackedSequence):
            output, lengths = rnn.pad_packed_sequence(output, self.setting.batch_first)
            assert lengths.tolist() == self.lengths
        return [output, *states]

    def back(self, results: list[Tensor], **options: Any) -> None:
        """Go back from results, with `d` as their gradients."""
        torch.autograd.backward(results, self.d, **options)

    def gradients(self, module: Module) -> dict[str, Tensor]:
        """Return the gradients that leaves and parameters have, by name; none for what has none."""
        leaves = {"x": self.x, "h_0": self.h_0, "c_0": self.c_0, **dict(module.named_parameters())}
        return {f"d_{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}

    def train(self, module: Module, x: Tensor = None) -> dict[str, Tensor]:
        """Run and go back; return results and gradients."""
        results = self.run(module, x)
        self.back(results)
        return named(results) | self.gradients(module)


def named(results: list[Tensor], suffix: str = "") -> dict[str, Tensor]:
    """Return what `Given.run` returns, by name."""
    return {f"{n}{suffix}": r for n, r in zip(("output", "h_n", "c_n"), results, strict=True)}


def train(module: Module, given: Given) -> dict[str, Tensor]:
    """The plainest act: a run and the way back."""
    return given.train(module)


def _outcome(act: Act, cls: type, setting: Setting, dtype: str, values: Any) -> tuple[Any, Any]:
    """Return what an act returns: arrays of floats, and all else."""
    given = Given(setting, dtype, values)
    floats, rest = {}, {}
    for name, result in act(given.module(cls), given).items():
        if isinstance(result, torch.Tensor):
            result = result.detach()
            if result.dtype in (torch.float32, torch.float64):
                floats[name] = result.numpy()
                continue
            result = result.dtype, result.tolist()
        rest[name] = result
    return floats, rest


@functools.lru_cache(maxsize=4)  # both dtypes share what is true
def _truth(act: Act, setting: Setting) -> tuple[Any, Any]:
    """Return what torch.nn.LSTM makes of an act in float64, and how far each result may move."""

    def floats_of(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return _outcome(act, torch.nn.LSTM, setting, "float64", values)[0]

    return spread(floats_of, values_of(setting))


def _forbidden(*args: Any, **options: Any) -> None:
    raise AssertionError("torch's own forward ran, not the engine")


def assert_alike(
    act: Act,
    cls: type,
    setting: Setting = Setting(),  # noqa: B008 (a tuple)
    dtype: str = "float32",
    steps: int = 1,
    engine: bool = True,
) -> None:
    """Assert that an act gives with `cls`, in `dtype`, what it gives with torch.nn.LSTM.

    `steps` is how many runs and ways back follow upon each other, each with roundings of its own.
    With `engine`, torch's own forward may not run.
    """
    values = values_of(setting)
    _, rest = _outcome(act, torch.nn.LSTM, setting, dtype, values)
    with contextlib.ExitStack() as patches:
        for own in (torch.nn.LSTM, torch.nn.LSTMCell) if engine else ():
            patches.enter_context(mock.patch.object(own, "forward", _forbidden))
        got, got_rest = _outcome(act, cls, setting, dtype, values)
    assert got_rest == rest
    count = steps * roundings("native", setting.terms)
    assert_within(got, *_truth(act, setting), count, np.dtype(dtype))


def assert_same_error(act: Act, cls: type, setting: Setting, dtype: str = "float32") -> None:
    """Assert that torch.nn.LSTM refuses an act, and `cls` with the same kind and sentence."""
    errors = []
    for one in (torch.nn.LSTM, cls):
        given = Given(setting, dtype)
        module = given.module(one)
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (any, but the same)
            act(module, given)
        errors.append((caught.type, str(caught.value)))
    assert errors[1] == errors[0]


DTYPES = ["float32", "float64"]


def alike(
    cls: type, *settings: Setting, dtypes: list[str] = DTYPES, **options: Any
) -> Callable[[Act], Callable[[str], None]]:
    """Make a test of an act: it is done in each dtype and, one after the other, in each setting."""

    def of(act: Act) -> Callable[[str], None]:
        @pytest.mark.parametrize("dtype", dtypes)
        def test(dtype: str) -> None:
            for setting in settings or [Setting()]:
                assert_alike(act, cls, setting, dtype, **options)

        return test

    return of
