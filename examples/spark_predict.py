"""One model in a pandas UDF of Spark, which forecasts a column of series of different lengths.

A table has a row for each of 2,000 meters: its number, and the hours that it has recorded, of which
some have few and others many. An LSTM learns from 50 meters to forecast the next hour, which takes
a second. Then Spark forecasts all of them in its workers, and the program checks that they answer
what `fastlstm.predict` gives here, bit for bit.

    apt-get install default-jre-headless
    pip install ".[spark]"
    python examples/spark_predict.py

It runs in two threads of this machine. On a cluster leave `master` to `spark-submit`.
"""

import os
import sys
import time

import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss, Sequences

METERS, HIDDEN = 2_000, 16


def recorded(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Return what so many meters recorded, an array of 24 to 240 hours each."""
    series = []
    for _ in range(count):
        hours = np.arange(rng.integers(24, 241)) + rng.integers(0, 24)
        load = 1 + np.sin(hours * (2 * np.pi / 24)) + 0.5 * (hours // 24 % 7 < 5)
        series.append((load + 0.1 * rng.standard_normal(len(hours))).astype("float32"))
    return series


def trained(seed: int = 0) -> fastlstm.Sequential:
    """Return a model that has learnt to forecast the next hour."""
    model = fastlstm.Sequential(
        # Spark runs as many tasks as it has processors, so each takes one thread.
        fastlstm.LSTM(1, HIDDEN, num_threads=1, seed=seed),
        fastlstm.Last(),
        fastlstm.Linear(HIDDEN, 1, num_threads=1, seed=seed),
    )
    rng = np.random.default_rng(seed)
    series = [one[first : first + 40] for one in recorded(rng, 50) for first in range(0, 200, 20)]
    series = [one for one in series if len(one) > 10]
    data = Sequences([one[:-1] for one in series], np.array([one[-1:] for one in series]))
    fastlstm.fit(model, data, MSELoss(), Adam(model, lr=0.01), epochs=30, seed=seed, progress=False)
    return model


def main(meters: int = METERS) -> dict[str, object]:
    """Train, forecast in Spark, print, and return what came out."""
    try:
        import pandas as pd
        from pyspark.sql import SparkSession
        from pyspark.sql.functions import pandas_udf
    except ImportError as error:
        sys.exit(f'spark_predict.py needs: pip install "pyspark[sql]" ({error})')
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the workers run this Python

    model = trained()
    series = recorded(np.random.default_rng(1), meters)
    known = [one[:-1] for one in series]

    builder = SparkSession.builder.master("local[2]").appName("fastlstm")
    for name, value in {
        "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false", "spark.sql.execution.arrow.pyspark.enabled": "true",
    }.items():  # fmt: skip
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        sent = spark.sparkContext.broadcast(model)  # to each machine once

        @pandas_udf("float")  # by its annotations Spark knows what it takes and gives
        def next_hour(hours: pd.Series) -> pd.Series:
            return pd.Series(fastlstm.predict(sent.value, list(hours))[:, 0])

        rows = [(number, one.tolist()) for number, one in enumerate(known)]
        table = spark.createDataFrame(rows, "meter long, hours array<float>").repartition(8)
        start = time.perf_counter()
        told = table.select("meter", next_hour("hours").alias("forecast")).collect()
        seconds = time.perf_counter() - start
    finally:
        spark.stop()
    forecasts = np.empty(meters, np.float32)
    for row in told:
        forecasts[row.meter] = row.forecast

    same = np.array_equal(forecasts, fastlstm.predict(model, known)[:, 0])
    truth = np.array([one[-1] for one in series])
    error, before = (
        float(np.sqrt(np.mean((guess - truth) ** 2)))
        for guess in (forecasts, np.array([one[-1] for one in known]))
    )
    print(f"{meters} meters, {sum(map(len, known))} hours: {seconds:.2f} s")
    print(f"The next hour is missed by {error:.2f} kWh, by the hour before it by {before:.2f} kWh")
    print(f"As fastlstm.predict here, bit for bit: {same}")
    return {"same": same, "error": error, "before": before}


if __name__ == "__main__":
    main()
