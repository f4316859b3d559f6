"""The examples of fastlstm.torch: what torch alone computes, they compute, but for rounding.

gymnasium, sb3-contrib and neuralhydrology are other people's packages that the examples run; where
one is not installed its tests are skipped.
"""

import importlib.util
import re
import sys

import numpy as np
import pytest
from test_examples import load_example

torch = pytest.importorskip("torch")
pytest.importorskip("fastlstm.torch", exc_type=ImportError)

tagger = load_example("torch_tagger")
ppo = load_example("torch_recurrent_ppo")

EPS = np.finfo("float32").eps


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """Let torch compute in one thread: work so small takes it many times as long in two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def swap_gates(accelerated):
    """Break a model that is accelerated: the gates f and g of each LSTM change places."""
    for lstm in accelerated.values():
        for parameter in lstm.parameters():
            i, f, g, o = parameter.data.chunk(4)
            parameter.data = torch.cat([i, g, f, o])
    return accelerated


# --- torch_tagger ---------------------------------------------------------------------------------


def mistagged(told):
    """Return the largest relative difference of two models' losses."""
    slow, fast = (np.array(losses) for losses in told["losses"].values())
    return np.max(np.abs(fast[: len(slow)] - slow) / slow)


@pytest.fixture
def short(monkeypatch):
    """Short texts and small batches, for which torch alone is quick."""
    for name, number in {"LONGEST": 100, "TRAIN": 100, "TEST": 20, "BATCH": 8}.items():
        monkeypatch.setattr(tagger, name, number)


# A loss is what up to 100 steps of a sum of 32 + 64 + 2 terms lead to, each rounded. Roundings are
# to either side: a sum of n of them is about the root of n away.
ROUNDING = np.sqrt(100 * 98) * EPS


@pytest.mark.usefixtures("short")
def test_tagger(capsys):
    told = tagger.main(["--both", "2", "--more", "1"])
    assert [len(losses) for losses in told["losses"].values()] == [2, 3]
    assert mistagged(told) < ROUNDING
    out = capsys.readouterr().out
    for number in range(2):
        slow, fast = (losses[number] for losses in told["losses"].values())
        assert f"{number + 1:6}{slow:26.7f}{fast:22.7f}\n" in out
    assert f"Of the characters of 20 other functions, {told['accuracy']:.1%} are right" in out
    for way, seconds in told["seconds"].items():
        assert f"{way:16}{500 * sum(seconds[:2]):14.1f}" in out


@pytest.mark.usefixtures("short")
def test_the_comparison_of_taggers_finds_swapped_gates(monkeypatch):
    accelerate = tagger.fastlstm.torch.accelerate
    monkeypatch.setattr(tagger.fastlstm.torch, "accelerate", lambda m: swap_gates(accelerate(m)))
    assert mistagged(tagger.main(["--both", "1", "--more", "0"])) > 10 * ROUNDING


@pytest.mark.slow
def test_a_tagger_learns():
    assert tagger.main(["--both", "1", "--more", "299"])["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("if x == 'y': 10", "kkrrrrrrsssrrnn"),
        ("'''a\n#''' # b\n3", "sssssssssrcccrn"),
        ("not f(1j)", "kkkrrrnnr"),
    ],
)
def test_tags(code, expected):
    assert "".join(tagger.TAGS[tag][0] for tag in tagger.tags(code)) == expected


def test_functions_are_of_the_standard_library():
    functions = tagger.load()
    assert len(functions) == tagger.TRAIN + tagger.TEST
    for text, tags in functions:
        assert text.shape == tags.shape and 10 <= len(text) <= 400
        assert re.match(" *def ", bytes(text.tolist()).decode())
    assert {len(text) for text, _ in functions} >= set(range(50, 200))


# --- torch_recurrent_ppo --------------------------------------------------------------------------


def test_a_pole_moves_as_in_gymnasium():
    gymnasium = pytest.importorskip("gymnasium")
    theirs, ours = gymnasium.make("CartPole-v1"), ppo.Pole()
    rng = np.random.default_rng(0)
    lengths = []
    for seed in range(20):
        theirs.reset(seed=seed)
        ours.reset(seed=seed)
        ours.state = np.array(theirs.unwrapped.state, float)
        over, steps = False, 0
        while not over:
            # The pole is pushed to the side to which it falls, now and then to the other.
            action = int((ours.state[2] + ours.state[3] > 0) ^ (rng.random() < 0.1))
            expected, reward, *ends, _ = theirs.step(action)
            seen, *same, _ = ours.step(action)
            # Their state is float64 too; errors of a step grow by less than 1.2 in the next.
            np.testing.assert_allclose(seen, expected[::2], rtol=1e-5, atol=1e-6)
            assert same == [reward, *ends]
            over, steps = any(ends), steps + 1
        lengths.append(steps)
    assert min(lengths) < 200 and max(lengths) == 500


def test_what_is_recorded():
    seen, starts = ppo.record()
    assert seen.shape == (128, 8, 2) and starts.shape == (128, 8)
    assert starts[0].all() and set(starts.unique().tolist()) == {0, 1}
    assert (seen[starts == 1].abs() <= 0.05).all()
    lengths = [np.diff(np.flatnonzero(column)) for column in starts.T]
    assert 8 <= min(map(min, lengths)) and 15 < np.mean(np.concatenate(lengths)) < 30


@pytest.fixture
def few(monkeypatch):
    """Few and short sequences of a small LSTM."""
    for name, number in {"POLES": 4, "STEPS": 64, "HIDDEN": 16}.items():
        monkeypatch.setattr(ppo, name, number)


# Each value is the sum, over up to 1,024 steps and sequences, of what 2 + 256 + 2 terms lead to.
SUMS = np.sqrt(1024 * 260) * EPS


def recorded_differences(found):
    """Return how far the two ways' tensors differ, relative to the largest value of each."""
    slow, fast = found["step by step"], found["with reset="]
    names = [name for name in slow if isinstance(slow[name], torch.Tensor)]
    assert len(names) == 3 + 4  # the results, and the gradients of the parameters
    with torch.no_grad():
        return {n: float((fast[n] - slow[n]).abs().max() / slow[n].abs().max()) for n in names}


def test_recorded_episodes(capsys):
    differences = recorded_differences(ppo.compare())
    assert max(differences.values()) < SUMS
    out = capsys.readouterr().out
    assert out.startswith("8 poles, 128 steps, 53 episodes\n")
    for name, off in differences.items():
        assert f"{name:25} differs by {off:.0e} of its largest value\n" in out


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("fault", ["no reset", "one step late", "first state kept"])
def test_the_comparison_of_episodes_finds(fault, monkeypatch):
    def broken(lstm, x, states, starts):
        starts = starts.clone()
        if fault == "no reset":
            starts[:] = 0
        elif fault == "one step late":
            starts = starts.roll(1, 0)
        else:
            starts[0] = 0
        return lstm(x, states, reset=starts.bool())

    monkeypatch.setattr(ppo, "at_once", broken)
    assert max(recorded_differences(ppo.compare()).values()) > 10 * SUMS


@pytest.mark.usefixtures("few")
@pytest.mark.filterwarnings("ignore")  # those of other people's packages
def test_recurrent_ppo(capsys):
    pytest.importorskip("sb3_contrib")
    found = ppo.train(steps=512)
    out = capsys.readouterr().out
    slow = found["as it is"]
    assert 10 < slow["length"] < 40
    for way, row in found.items():
        # The actions are drawn from the networks' probabilities: if these were another's, so
        # would the episodes be.
        assert row["length"] == slow["length"]
        assert row["loss"] == pytest.approx(slow["loss"], rel=1e-3)
        assert f"{way:14}{row['seconds']:10.1f}{row['loss']:14.7f}" in out


@pytest.mark.usefixtures("few")
def test_without_sb3_contrib(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert set(ppo.main([])) == {"recorded"}
    assert capsys.readouterr().out.endswith("For RecurrentPPO itself: pip install sb3-contrib\n")


# --- torch_neuralhydrology ------------------------------------------------------------------------


@pytest.fixture
def neuralhydrology(monkeypatch):
    pytest.importorskip("neuralhydrology")
    return load_example("torch_neuralhydrology")


@pytest.mark.filterwarnings("ignore")
def test_neuralhydrology(neuralhydrology, capsys):
    slow, fast = neuralhydrology.main(["--epochs", "2", "--updates", "1"]).values()
    out = capsys.readouterr().out
    # 365 steps of sums of 4 + 64 + 2 terms, and two updates
    np.testing.assert_allclose(fast.losses, slow.losses, rtol=2 * np.sqrt(365 * 70) * EPS)
    assert "accelerated: lstm\n" in out
    for epoch in range(2):
        assert f"{epoch + 1:5}{slow.losses[epoch]:20.7f}" in out


def test_the_basins_by_hand(neuralhydrology, tmp_path):
    """What runs off and what stays is what rained, less what the air took."""
    import xarray

    neuralhydrology.write_basins(tmp_path)
    names = (tmp_path / "basins.txt").read_text().split()
    assert names == [f"basin{n}" for n in range(10)]
    for name in names:
        with xarray.open_dataset(tmp_path / "time_series" / f"{name}.nc") as basin:
            rain, evaporation, flow = (basin[c].values for c in ("rain", "evaporation", "flow"))
        assert len(rain) == 6 * 365 + 2  # 2000 to 2005
        assert 0.2 < (rain > 0).mean() < 0.4 and (evaporation > 0).all()
        assert 0 < flow.sum() <= 20 + rain.sum()


def test_neuralhydrology_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "neuralhydrology.training.basetrainer", None)
    with pytest.raises(SystemExit, match="needs: pip install neuralhydrology"):
        load_example("torch_neuralhydrology")
