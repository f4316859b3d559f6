"""Errors are sentences: the whole of one is compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def raises(call: Callable[[], object], kind: type[Exception], sentence: str) -> Exception:
    """Assert that `call` raises this kind of error with this sentence; return the error."""
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == sentence
    return caught.value
