"""The errors of forecasts, printed beside those of a forecast without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..terminal import show


def show_errors(
    names: Sequence[str],
    truth: NDArray[Any],
    forecast: NDArray[Any],
    naive: NDArray[Any],
    season: int,
    to: Literal["stdout", "stderr"],
) -> None:
    """Print the errors of a forecast and of one that repeats the last season, for each target.

    The arrays have shape (..., targets).
    """
    baseline = "last value" if season == 1 else f"as {season} steps ago"
    width = max(len("forecast"), len(baseline), *map(len, names)) + 2
    show(f"{'':{width}}{'RMSE':>12}{'MAE':>12}", to=to)
    for number, name in enumerate(names):
        show(name, to=to)
        for what, values in (("forecast", forecast), (baseline, naive)):
            error = values[..., number] - truth[..., number]
            rmse, mae = math.sqrt(np.mean(error**2)), np.mean(np.abs(error))
            show(f"{'  ' + what:{width}}{rmse:12.4g}{mae:12.4g}", to=to)
