"""What fastlstm does not compute itself is computed by the onnx package's reference evaluator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Compute, Operator


def by_onnx(operator: Operator) -> Compute:
    """Return what computes an operator by onnx's own evaluator.

    Raises
    ------
    ValueError
        If that does not know it either.
    """
    raise ValueError(f"operator {operator.type!r} of {operator.domain or 'ONNX'} is not known")
