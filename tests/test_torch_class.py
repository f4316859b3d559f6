"""fastlstm.torch.LSTM as a class: what it is made with, what it refuses, and what becomes of it.

It says what torch.nn.LSTM says. `twins.py` has the comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from errors import raises
from twins import (
    DEEP,
    DTYPES,
    FORMS,
    Given,
    Module,
    Setting,
    Tensor,
    assert_alike,
    assert_same_error,
    rnn,
    torch,
)

from fastlstm.torch import LSTM, accelerate, restore

nn = torch.nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning"),
]


# ---- the class ------------------------------------------------------------------------------


def _twins(**arguments: Any) -> tuple[Module, Module]:
    """torch.nn.LSTM and ours, both made after the same seed."""
    torch.manual_seed(7)
    theirs = nn.LSTM(3, 5, **arguments)
    torch.manual_seed(7)
    return theirs, LSTM(3, 5, **arguments)


OPTIONS = [
    {},
    {"num_layers": 2, "bias": False, "batch_first": True},
    {"num_layers": 3, "dropout": 0.25, "bidirectional": True, "proj_size": 2},
    {"dtype": torch.float64},
    {"device": "meta"},
]


@pytest.mark.parametrize("arguments", OPTIONS, ids=repr)
def test_what_a_module_is(arguments):
    theirs, ours = _twins(**arguments)
    assert isinstance(ours, nn.LSTM)
    assert repr(ours) == repr(theirs)
    assert ours.extra_repr() == theirs.extra_repr()
    assert ours.all_weights is not None
    for of in (lambda m: m.named_parameters(), lambda m: m.state_dict().items()):
        for (name, value), (their_name, their_value) in zip(of(ours), of(theirs), strict=True):
            assert (name, value.dtype, value.device) == (
                their_name, their_value.dtype, their_value.device,
            )  # fmt: skip
            assert value.is_meta or torch.equal(value, their_value), name
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    public = {name for name in vars(theirs) if name != "_flat_weight_refs"}
    assert {name for name in vars(ours) if name != "_flat_weight_refs"} == public
    assert ours.flatten_parameters() is None


def test_first_weights_and_reset():
    """The same numbers of torch's generator, also of a module that has run."""
    theirs, ours = _twins(num_layers=2)
    x = torch.ones(2, 3)
    with torch.no_grad():
        ours(x)
    for module in (theirs, ours):
        torch.manual_seed(8)
        module.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def _subclass(base: type) -> type:
    """A class as a user would write it, on torch's or ours."""

    class Residual(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.gain = nn.Parameter(torch.full((), 0.5, dtype=options["dtype"]))

        def forward(self, input: Tensor, hx: Any = None) -> Any:
            output, states = super().forward(self.gain * input, hx)
            return output + output.mean(), states

        def check_forward_args(self, *args: Any) -> None:
            """One that torch's own forward calls."""
            super().check_forward_args(*args)

        def permute_hidden(self, hx: Any, permutation: Any) -> Any:
            h, c = super().permute_hidden(hx, permutation)
            return h, c

    return Residual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_class_of_ones_own(form, dtype):
    def act(module, given):
        other = _subclass(type(module))(**given.setting.arguments(), dtype=given.dtype)
        other.load_state_dict(module.state_dict(), strict=False)
        if form in ("packed", "unsorted"):
            other.forward = super(type(other), other).forward
        return given.train(other)

    assert_alike(act, LSTM, DEEP._replace(form=form), dtype)


# ---- errors ---------------------------------------------------------------------------------

BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"hidden_size": 0}, {"hidden_size": 5.0}, {"input_size": -1}, {"input_size": "3"},
    {"num_layers": 0}, {"dropout": 1.5}, {"dropout": True}, {"dropout": "1"}, {"bias": 1},
    {"batch_first": None}, {"proj_size": -1}, {"proj_size": 5}, {"dtype": torch.int64},
    {"device": "nowhere"}, {"nonlinearity": "relu"}, {"hidden_size": None},
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=repr)
def test_bad_arguments(arguments):
    given = {"input_size": 3, "hidden_size": 5} | arguments
    errors = []
    for cls in (nn.LSTM, LSTM):
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (any, but the same)
            cls(**given)
        errors.append((caught.type, str(caught.value)))
    assert errors[1] == errors[0]


def test_dropout_of_one_layer_is_warned_of():
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        LSTM(3, 5, dropout=0.5)


def _zeros(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(shape) for shape in shapes)


def _pack(x: Tensor) -> Any:
    return rnn.pack_padded_sequence(x, [4, 2, 1])


X = torch.ones(4, 3, 3)
STATE, FLAT = (2, 3, 5), (2, 5)
BAD_CALLS: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "three": (X, None, None),
    "None": (None,),
    "list": ([[1.0]],),
    "array": (X.numpy(),),
    "1-D": (X[0, 0],),
    "4-D": (X[None],),
    "features": (X[..., :2],),
    "features unbatched": (X[:, 0, :2],),
    "dtype": (X.double(),),
    "integers": (X.long(),),
    "no steps": (X[:0],),
    "no steps unbatched": (X[:0, 0],),
    "device": (X.to("meta"),),
    "sparse": (X.to_sparse(),),
    "hx of another dtype": (X, (torch.zeros(STATE), torch.zeros(STATE).double())),
    "hx of another device": (X, (torch.zeros(STATE), torch.zeros(STATE, device="meta"))),
    "hx a tensor": (X, torch.zeros(STATE)),
    "hx a number": (X, 0),
    "hx a string": (X, "ab"),
    "hx of one": (X, _zeros(STATE)),
    "hx of three": (X, _zeros(STATE, STATE, STATE)),
    "hx of None": (X, (None, None)),
    "hx of lists": (X, ([0.0], [0.0])),
    "hx 2-D": (X, _zeros(FLAT, FLAT)),
    "hx 3-D and 2-D": (X, _zeros(STATE, FLAT)),
    "hx unbatched 3-D": (X[:, 0], _zeros(STATE, STATE)),
    "hx layers": (X, _zeros((1, 3, 5), STATE)),
    "cx layers": (X, _zeros(STATE, (3, 3, 5))),
    "hx rows": (X, _zeros((2, 4, 5), STATE)),
    "cx rows": (X, _zeros(STATE, (2, 2, 5))),
    "cx features": (X, _zeros(STATE, (2, 3, 4))),
    "hx unbatched layers": (X[:, 0], _zeros((3, 5), FLAT)),
    "pack of fewer rows": (rnn.PackedSequence(X[0], torch.tensor([3, 1])),),
    "pack that grows": (rnn.PackedSequence(X[0], torch.tensor([1, 2])),),
    "pack of nothing": (rnn.PackedSequence(X[0, :0], torch.tensor([], dtype=torch.int64)),),
    "pack with sizes of int32": (rnn.PackedSequence(X[0], torch.tensor([3], dtype=torch.int32)),),
    "pack of another dtype": (_pack(X.double()),),
    "pack of integers": (_pack(X.long()),),
    "pack, hx of one": (_pack(X), _zeros(STATE)),
    "pack, hx of three": (_pack(X), _zeros(STATE, STATE, STATE)),
    "pack, hx of another dtype": (_pack(X), tuple(t.double() for t in _zeros(STATE, STATE))),
    "pack, hx of None": (_pack(X), (None, None)),
    "pack, hx a number": (_pack(X), 0),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_calls(call, training):
    def act(module, given):
        with torch.set_grad_enabled(training):
            module.train(training)(*BAD_CALLS[call])

    assert_same_error(act, LSTM, Setting(num_layers=2, dropout=0.5))


# Of packs torch checks no shapes, says whatever its operators say, or reads beyond the rows. Ours
# are refused with what it says of padded input.
BAD_PACKS: dict[str, tuple[tuple[Any, ...], str]] = {
    "features": (
        (_pack(X[..., :2]),),
        "input.size(-1) must be equal to input_size. Expected 3, got 2",
    ),
    "hx rows": (
        (_pack(X), _zeros((2, 2, 5), STATE)),
        "Expected hidden[0] size (2, 3, 5), got [2, 2, 5]",
    ),
    "cx rows": (
        (_pack(X), _zeros(STATE, (2, 4, 5))),
        "Expected hidden[1] size (2, 3, 5), got [2, 4, 5]",
    ),
    "hx layers": (
        (_pack(X), _zeros((1, 3, 5), STATE)),
        "Expected hidden[0] size (2, 3, 5), got [1, 3, 5]",
    ),
    "hx 2-D": ((_pack(X), _zeros(FLAT, FLAT)), "Expected hidden[0] size (2, 3, 5), got [2, 5]"),
}


@pytest.mark.parametrize("fault", BAD_PACKS)
def test_bad_packs(fault):
    call, sentence = BAD_PACKS[fault]
    raises(lambda: LSTM(3, 5, 2)(*call), RuntimeError, sentence)


def _broken(module: Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value))


BAD_WEIGHTS: dict[str, Callable[[Module], Any]] = {
    "dtype of one": lambda m: _broken(m, "weight_hh_l1", m.weight_hh_l1.detach().double()),
    "dtype of a bias": lambda m: _broken(m, "bias_ih_l0", m.bias_ih_l0.detach().double()),
    "shape of one": lambda m: _broken(m, "weight_hh_l0", m.weight_hh_l0.detach()[:, :3].clone()),
    "rows of one": lambda m: _broken(m, "weight_ih_l1", m.weight_ih_l1.detach()[:8].clone()),
    "on meta": lambda m: m.to("meta"),
}


@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("weights", BAD_WEIGHTS)
def test_bad_weights(weights, form):
    def act(module, given):
        BAD_WEIGHTS[weights](module)
        given.run(module)

    dtype = "float32" if "dtype" in weights else "float64"  # oneDNN looks at no shapes
    assert_same_error(act, LSTM, Setting(form=form, num_layers=2), dtype)


BAD_STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "missing": lambda state: state.pop("bias_hh_l0"),
    "unexpected": lambda state: state.update(weight_hr_l0=torch.zeros(2, 5)),
    "shape": lambda state: state.update(weight_hh_l0=torch.zeros(20, 4)),
    "no tensor": lambda state: state.update(weight_hh_l0=3),
}


@pytest.mark.parametrize("fault", BAD_STATES)
def test_bad_state_dicts(fault):
    errors = []
    for module in _twins():
        state = module.state_dict()
        BAD_STATES[fault](state)
        with pytest.raises(RuntimeError) as caught:
            module.load_state_dict(state)
        errors.append(str(caught.value))
    assert errors[1] == errors[0]


def test_tensors_of_inference_mode_are_refused_in_training():
    def act(module, given):
        with torch.inference_mode():
            x = 2 * given.x
        given.run(module, x)

    assert_same_error(act, LSTM, DEEP, "float64")


# ---- torch.jit ------------------------------------------------------------------------------


class Tagger(nn.Module):
    """What people script: a module that has an LSTM."""

    def __init__(self, lstm: Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output, (h_n, c_n) = self.lstm(x)
        return output + h_n[-1] + c_n[-1]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", ["script", "trace", "freeze"])
def test_jit(way, tmp_path):
    """TorchScript has torch's own LSTM with these parameters; it can be stored and loaded.

    Like torch's own classes that prepare for it, `script` leaves what it compiled in the model.
    """
    given = Given(Setting(num_layers=2))
    tagger = Tagger(given.module(LSTM)).eval()
    x, weight = given.x.detach(), tagger.lstm.weight_hh_l0
    if way == "trace":
        compiled = torch.jit.trace(tagger, x)
    else:
        compiled = torch.jit.script(tagger)
        compiled = torch.jit.freeze(compiled) if way == "freeze" else compiled
    assert tagger.lstm.weight_hh_l0 is weight
    assert [*accelerate(tagger)] == (["lstm"] if way != "trace" else [])
    torch.jit.save(compiled, tmp_path / "tagger.pt")
    expected = Tagger(given.module(nn.LSTM)).eval()(x)
    for one in (compiled, torch.jit.load(tmp_path / "tagger.pt")):
        torch.testing.assert_close(one(x), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_dynamic_quantization():
    """Torch looks for the very class: ours stays as it is, and `restore` makes it torch's again."""
    model = nn.Sequential(LSTM(3, 5))
    quantize = torch.ao.quantization.quantize_dynamic
    assert type(quantize(model, {nn.LSTM})[0]) is LSTM
    restore(model)
    assert "Quantized" in repr(quantize(model, {nn.LSTM}))
