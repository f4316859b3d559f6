"""Every case for pytest-benchmark, a group for each case, to follow changes over time.

``python -m pytest -p benchmarks benchmarks --benchmark-only -k "numba and 256"`` runs some. The
option -p pins the threads before any other module is imported. For ratios, use
`benchmarks.compare`, `benchmarks.train` and `benchmarks.options`, which measure in turn.
"""

import functools

import pytest

from . import options, train
from .cases import CASES, OPTIONS, TRAINING
from .peers import CONTESTANTS, check, truth


@functools.lru_cache(maxsize=1)
def _drawn(case):
    """Return the weights, input and right result of a case, for its contestants in a row."""
    weights, x = case.draw()
    return weights, x, truth(case, weights, x)


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.benchmark(
    min_rounds=5, max_time=0.3, disable_gc=True, warmup=True, warmup_iterations=1
)
def test_case(benchmark, case, name):
    weights, x, expected = _drawn(case)
    try:
        contestant = CONTESTANTS[name](case, weights, x)
    except ImportError as error:
        pytest.skip(str(error))
    if contestant is None:
        pytest.skip(f"{name} has nothing of its own for this case")
    check(name, case, contestant, expected)
    benchmark.group = f"{case.group}: {case.name}"
    benchmark.extra_info["operations"] = case.operations
    with contestant.context():
        benchmark(contestant.run)


@functools.lru_cache(maxsize=1)
def _drawn_for_training(case):
    drawn = case, *train.draw(case)
    return drawn, train.truth(*drawn)


@pytest.mark.parametrize("name", train.DEFAULT_ENGINES)
@pytest.mark.parametrize("case", TRAINING.values(), ids=TRAINING)
@pytest.mark.benchmark(
    min_rounds=5, max_time=0.3, disable_gc=True, warmup=True, warmup_iterations=1
)
def test_training_step(benchmark, case, name):
    """Measure fastlstm alone: torch's steps take seconds, and do not change."""
    pytest.importorskip("torch")  # its gradients are the right ones
    drawn, expected = _drawn_for_training(case)
    try:
        contestant = train.CONTESTANTS[name](*drawn)
    except ImportError as error:
        pytest.skip(str(error))
    train.check(name, case, contestant, expected)
    benchmark.group = f"Training: {case.name}"
    benchmark.extra_info["operations"] = 3 * case.operations
    benchmark(contestant.run)


_PARTS = {
    f"{case.name}-{part.group}": (case, part)
    for case in OPTIONS.values()
    for part in options.parts(case)
}


@functools.lru_cache(maxsize=1)
def _drawn_for_part(which):
    case, part = _PARTS[which]
    drawn = case, *part.task.draw(case)
    return drawn, part.task.truth(*drawn)


@pytest.mark.parametrize("name", train.DEFAULT_ENGINES)
@pytest.mark.parametrize("which", _PARTS)
@pytest.mark.benchmark(
    min_rounds=5, max_time=0.3, disable_gc=True, warmup=True, warmup_iterations=1
)
def test_options(benchmark, which, name):
    """Measure fastlstm alone, as in training."""
    pytest.importorskip("torch")  # its cell states and gradients are the right ones
    case, part = _PARTS[which]
    drawn, expected = _drawn_for_part(which)
    try:
        contestant = part.task.makers[name](*drawn)
    except ImportError as error:
        pytest.skip(str(error))
    part.task.check(name, case, contestant, expected)
    benchmark.group = f"{part.group}: {case.name}"
    benchmark(contestant.run)
