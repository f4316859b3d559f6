"""The examples for Ray and Spark: on their workers, the bits of `fastlstm.predict` in this process.

Each runs in a process of its own, as ray and pyspark begin others and hold the settings of all.
They are no part of what the other tests need: `make hosts` installs them, and runs these.
"""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from test_examples import load_example

import fastlstm

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
RUN = """
import json, runpy, sys
example = runpy.run_path(sys.argv[1])
print(json.dumps(example["main"](*json.loads(sys.argv[2]))))
"""


def told(name, *arguments):
    """What an example's `main` returns, and what it prints."""
    run = subprocess.run(
        [sys.executable, "-c", RUN, EXAMPLES / f"{name}.py", json.dumps(arguments)],
        capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *out, result = run.stdout.splitlines()
    assert out[-1] == "As fastlstm.predict here, bit for bit: True"
    return json.loads(result)


needs_ray = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="runs a model in Ray's actors"
)
needs_spark = pytest.mark.skipif(
    not (importlib.util.find_spec("pyspark") and shutil.which("java")),
    reason="runs a model in Spark, which needs pyspark and a JRE",
)


@pytest.mark.slow
@needs_ray
def test_a_pool_of_ray_actors_of_which_one_is_lost():
    result = told("ray_predict", ["--samples", "4000", "--lose"])
    assert result["same"] and result["lost"] == 1
    assert result["accuracy"] > 0.9


@pytest.mark.slow
@needs_spark
def test_a_pandas_udf_of_spark():
    result = told("spark_predict", 500)
    assert result["same"]
    assert result["error"] < 0.75 * result["before"]


# ---- without Ray and Spark -----------------------------------------------------------------------


def test_the_models_of_the_examples_have_learnt():
    bearings, meters = load_example("ray_predict"), load_example("spark_predict")
    x, worn = bearings.recordings(np.random.default_rng(2), 2000)
    output = fastlstm.predict(bearings.trained(), x)
    assert np.mean(output.argmax(axis=1) == worn) > 0.9
    series = meters.recorded(np.random.default_rng(2), 500)
    forecasts = fastlstm.predict(meters.trained(), [one[:-1] for one in series])[:, 0]
    truth, before = (np.array([one[n] for one in series]) for n in (-1, -2))
    assert np.std(forecasts - truth) < 0.75 * np.std(before - truth)
    lengths = [len(one) for one in series]
    assert min(lengths) < 30 and max(lengths) > 230


@pytest.mark.parametrize("name, module", [("ray_predict", "ray"), ("spark_predict", "pyspark.sql")])
def test_what_is_missing_is_asked_for(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=rf"{name}\.py needs: pip install \""):
        load_example(name).main(*([[]] if name == "ray_predict" else []))
