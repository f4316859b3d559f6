"""Weights that a file holds in pieces: weight norm, spectral norm, pruning, weight drop."""

import re
import warnings

import numpy as np
import pytest

import fastlstm
from fastlstm.formats import folding
from fastlstm.formats.folding import fold
from fastlstm.layers import Layer


def numbers(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def plain(inputs=2, hidden=3, dtype="float32"):
    lstm = fastlstm.LSTM(inputs, hidden, dtype=dtype, seed=0)
    return lstm.state_dict()


def write(path, state):
    np.savez(path, **state)
    return path


# What torch's own tools write


def old(name, **options):
    """One of the tools of before torch.nn.utils.parametrizations, without its warning."""

    def apply(module, parameter):
        tools = pytest.importorskip("torch").nn.utils
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(tools, name)(module, parameter, **options)

    return apply


def new(name, **options):
    def apply(module, parameter):
        tools = pytest.importorskip("torch").nn.utils.parametrizations
        getattr(tools, name)(module, parameter, **options)

    return apply


def prune(module, parameter):
    tools = pytest.importorskip("torch.nn.utils.prune")
    tools.random_unstructured(module, parameter, amount=0.4)


TOOLS = {
    "weight norm": old("weight_norm"),
    "weight norm over columns": old("weight_norm", dim=1),
    "weight norm over all": old("weight_norm", dim=None),
    "weight norm, parametrized": new("weight_norm"),
    "weight norm over columns, parametrized": new("weight_norm", dim=1),
    "spectral norm": old("spectral_norm"),
    "spectral norm, parametrized": new("spectral_norm"),
    "pruning": prune,
}


@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tool", TOOLS)
def test_what_torchs_tools_write_runs_as_in_torch(torch, tmp_path, tool, dtype):
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 5, 2), "fc": torch.nn.Linear(5, 4)})
    net.to(getattr(torch, dtype))
    TOOLS[tool](net["lstm"], "weight_hh_l0")
    TOOLS[tool](net["lstm"], "weight_ih_l1")
    TOOLS[tool](net["fc"], "weight")
    if "weight norm" in tool:  # a change after the fact, which the stored pieces have alone
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.5)
    net.eval()
    x = torch.randn(6, 2, 3, dtype=getattr(torch, dtype))
    hidden = net["lstm"](x)[0]
    expected = net["fc"](hidden).detach().numpy()
    torch.save(net.state_dict(), tmp_path / "x.pt")
    assert "lstm.weight_hh_l0" not in net.state_dict()
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    tolerance *= max(1, np.abs(expected).max())  # both round values of this size
    model = fastlstm.load(tmp_path / "x.pt", batch_first=False)
    np.testing.assert_allclose(model(x.numpy()), expected, rtol=0, atol=tolerance)
    model = fastlstm.load(tmp_path / "x.pt", order=["lstm", "fc"], batch_first=False)
    np.testing.assert_allclose(model(x.numpy()), expected, rtol=0, atol=tolerance)
    hidden = hidden.detach().numpy()
    for lstm in (
        fastlstm.load_lstm(tmp_path / "x.pt", batch_first=False),
        fastlstm.load(tmp_path / "x.pt", prefix="lstm", batch_first=False),
        fastlstm.load(tmp_path / "x.pt", prefix="lstm", into=fastlstm.LSTM(3, 5, 2, dtype=dtype)),
    ):
        np.testing.assert_allclose(lstm(x.numpy())[0], hidden, rtol=0, atol=tolerance)


def test_a_parametrization_of_another_kind_is_refused(torch, tmp_path):
    lstm = torch.nn.LSTM(3, 4)
    torch.nn.utils.parametrizations.orthogonal(lstm, "weight_hh_l0")
    torch.save(torch.nn.ModuleDict({"lstm": lstm}).state_dict(), tmp_path / "x.pt")
    for function in (fastlstm.load, fastlstm.load_lstm):
        with pytest.raises(ValueError, match=r"what 'lstm\.parametrizations\..*original'"):
            function(tmp_path / "x.pt")


# By hand


def test_weight_norm_by_hand():
    v, g = np.array([[3.0, 4.0], [0.0, 2.0]], "float32"), np.array([[10.0], [3.0]], "float32")
    expected = np.array([[6.0, 8.0], [0.0, 3.0]], "float32")
    for names in (
        ("fc.weight_g", "fc.weight_v"),
        ("fc.parametrizations.weight.original0", "fc.parametrizations.weight.original1"),
    ):
        state, faults = fold(dict(zip(names, (g, v), strict=True)))
        assert not faults and list(state) == ["fc.weight"] and state["fc.weight"].dtype == "float32"
        np.testing.assert_array_equal(state["fc.weight"], expected)
    state, _ = fold({"weight_g": np.float32(5.0).reshape(()), "weight_v": v})
    np.testing.assert_allclose(state["weight"], v * 5 / np.sqrt(29), rtol=1e-6)
    state, _ = fold({"bias_g": np.array([7.0, 8.0]), "bias_v": np.array([-2.0, 4.0])})
    np.testing.assert_array_equal(state["bias"], [-7.0, 8.0])
    tiny = {"weight_g": np.ones((1, 1), "float32"), "weight_v": np.full((1, 2), 3e-30, "float32")}
    np.testing.assert_allclose(fold(tiny)[0]["weight"], [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_pruning_is_exact():
    orig, mask = numbers(4, 3), numbers(4, 3) > 0
    for kept in (mask, mask.astype("float32"), mask.astype("uint8")):
        state, faults = fold({"weight_orig": orig, "weight_mask": kept, "bias": orig[0]})
        assert not faults and list(state) == ["weight", "bias"]
        np.testing.assert_array_equal(state["weight"], np.where(mask, orig, 0))
        assert state["weight"].dtype == "float32"


@pytest.mark.parametrize(
    "wrapped, raw",
    [
        ("module.", ""),  # fastai: the raw weight stands outside the module
        ("rnns.0.module.", "rnns.0."),
        ("enc.layer.", "enc."),  # a wrapper of one's own
        ("module.", "module."),  # Salesforce's awd-lstm: inside
        ("rnn.", "rnn."),
        ("", ""),
    ],
)
@pytest.mark.parametrize("dropped", [True, False])
def test_weight_drop_takes_the_raw_weight(tmp_path, wrapped, raw, dropped):
    expected = plain()
    state = {wrapped + name: array for name, array in expected.items()}
    state[raw + "weight_hh_l0_raw"] = state.pop(wrapped + "weight_hh_l0")
    if dropped:
        hidden = expected["weight_hh_l0"]
        state[wrapped + "weight_hh_l0"] = hidden * 2 * (numbers(*hidden.shape, seed=1) > 0)
    path = write(tmp_path / "x.npz", state)
    for lstm in (
        fastlstm.load_lstm(path),
        fastlstm.load(path, prefix=wrapped),
        fastlstm.load(path, prefix=wrapped, into=fastlstm.LSTM(2, 3)),
    ):
        for name, array in lstm.state_dict().items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_mask_that_has_been_multiplied_is_harmless(tmp_path):
    state, mask = plain(), numbers(12, 3) > 0
    with pytest.raises(ValueError, match="what 'weight_hh_l0_mask' makes of 'weight_hh_l0' is not"):
        fastlstm.load_lstm(write(tmp_path / "x.npz", state | {"weight_hh_l0_mask": mask}))
    state["weight_hh_l0"] *= mask
    path = write(tmp_path / "x.npz", state | {"weight_hh_l0_mask": mask})
    np.testing.assert_array_equal(fastlstm.load_lstm(path).weight_hh_l0, state["weight_hh_l0"])


UNKNOWN = {
    "weight_hh_l0_orig": (12, 3),
    "weight_hh_l0_g": (12, 1),
    "weight_hh_l0_v": (12, 3),
    "weight_hh_l0_scale": (12,),
    "weight_hh_l0_zero_point": (),
    "weight_hh_l0_ema": (12, 3),
    "weight_hh_l0_u": (12,),
    "weight_ch_l0": (12, 3),
    "bias_ch_l0": (12,),
    "parametrizations.weight_hh_l0.original": (12, 3),
    "parametrizations.weight_hh_l0.0.lora_A": (1, 3),
}


@pytest.mark.parametrize("where", ["", "lstm."])
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_else_stands_beside_a_weight_is_refused_by_name(tmp_path, name, where):
    state = {where + n: array for n, array in plain().items()}
    state[where + name] = np.ones(UNKNOWN[name], "float32")
    path = write(tmp_path / "x.npz", state)
    for function in (
        fastlstm.load,
        fastlstm.load_lstm,
        lambda path: fastlstm.load(path, prefix="lstm" if where else ""),
        lambda path: fastlstm.load(path, into=fastlstm.LSTM(2, 3), prefix=where or None),
    ):
        with pytest.raises(ValueError, match=f"what '{re.escape(where + name)}' makes of"):
            function(path)


@pytest.mark.parametrize(
    "pieces",
    [
        {"weight_hh_l0_orig": (12, 3), "weight_hh_l0_mask": (12, 2)},
        {"weight_hh_l0_g": (12, 2), "weight_hh_l0_v": (12, 3)},
        {"weight_hh_l0_g": (12,), "weight_hh_l0_v": (12, 3)},
        {"weight_hh_l0_orig": (12, 3), "weight_hh_l0_u": (3,), "weight_hh_l0_v": (12,)},
        {"weight_hh_l0_g": (12, 1), "weight_hh_l0_v": (12, 3), "weight_hh_l0_mask": (12, 3)},
        {"weight_hh_l0_raw": (12, 3), "weight_hh_l0_mask": (12, 3)},
    ],
)
def test_pieces_that_do_not_fit_are_refused_by_name(tmp_path, pieces):
    state = plain() | {name: np.ones(shape, "float32") for name, shape in pieces.items()}
    names = ", ".join(map(repr, pieces))
    with pytest.raises(ValueError, match=f"what {names} makes of 'weight_hh_l0' is not known"):
        fastlstm.load_lstm(write(tmp_path / "x.npz", state))


@pytest.mark.parametrize("dtype", ["c8", "i8", "?"])
def test_pieces_that_are_no_floats_are_refused_by_name(dtype):
    for pieces in (
        {"weight_g": np.ones(()), "weight_v": np.ones((2, 3), dtype)},
        {"weight_orig": np.ones((2, 3), dtype), "weight_mask": np.ones((2, 3))},
        {"weight_raw": np.ones((2, 3), dtype)},
    ):
        folded, faults = fold(pieces)
        assert not folded and faults[""].endswith("makes of 'weight' is not known")


def test_faults_of_one_layer_are_not_those_of_another(tmp_path):
    state = {f"a.{name}": array for name, array in plain().items()}
    state |= {f"b.{name}": array for name, array in plain(4, 5).items()}
    path = write(tmp_path / "x.npz", state | {"b.weight_hh_l0_scale": np.ones(1)})
    assert fastlstm.load_lstm(path, prefix="a").hidden_size == 3
    assert fastlstm.load(path, prefix="a").hidden_size == 3
    for function in (fastlstm.load, fastlstm.load_lstm):
        with pytest.raises(
            ValueError, match="what 'b.weight_hh_l0_scale' makes of 'b.weight_hh_l0"
        ):
            function(path, prefix="b")


def test_a_model_that_wants_the_pieces_gets_them(tmp_path):
    class Scaled(Layer):
        def __init__(self):
            super().__init__({"weight_g": (2, 1), "weight_v": (2, 3)})

    state = {"weight_g": numbers(2, 1), "weight_v": numbers(2, 3)}
    model = fastlstm.load(write(tmp_path / "x.npz", state), into=Scaled())
    for name, array in state.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)


def test_many_pieces_are_looked_through_once():
    class Counted(dict):
        times = 0

        def __iter__(self):
            self.times += 1
            return super().__iter__()

        def items(self):
            self.times += 1
            return super().items()

    state = Counted({f"{n}.weight_hh_l0_raw": np.ones(1) for n in range(1000)})
    state |= {f"{n}.weight_hh_l0_scale": np.ones(1) for n in range(1000, 2000)}
    folded, faults = fold(state)
    assert len(folded) == len(faults) == 1000 and state.times <= 5


def test_what_many_pieces_make_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(folding, "_together", lambda *of: asked.append(of))
    folded, faults = fold({f"weight_{n}": np.ones(1) for n in range(1000)})
    assert not folded and list(faults) == [""] and len(asked) == 1


def test_names_that_only_look_alike_are_left_alone():
    state = {
        "class_weights": np.ones(3),
        "weight": np.ones((2, 2)),
        "bias_net.running_mean": np.ones(3),
        "weight_net.0.weight": np.ones((2, 2)),
    }
    folded, faults = fold(state)
    assert list(folded) == list(state) and not faults
