"""Pools: streams that come and go, of which any few advance together."""

import pytest

from fastlstm import LSTM, PoolFull


def test_full_pools_say_so():
    pool = LSTM(2, 3, seed=0).pool(2)
    pool.open(), pool.open()
    with pytest.raises(PoolFull, match="full, with 2 of 2 streams: close some, or give evict="):
        pool.open()
