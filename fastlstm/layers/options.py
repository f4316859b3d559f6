"""The options of the recurrence as arguments of LSTM and LSTMCell: their checks and their text.

What they mean is said by equations (11) to (19) in `fastlstm.engines.contract`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checks import check_bool, check_number, check_probability, short
from ..engines.contract import PLAIN, Activation, Options

if TYPE_CHECKING:
    from typing import Literal

    Coupling: TypeAlias = Literal["f=1-i", "i=1-f"]
    Norm: TypeAlias = Literal["tflite", "haste"]

Function: TypeAlias = "str | tuple[str, float] | tuple[str, float, float]"
"""An activation: its name, or the name with its parameters alpha and beta."""

# The parameters of each function, by their defaults: those of ONNX's operators of the same names,
# and otherwise those that leave a number or its tanh as it is. "identity" is an affine function.
_DEFAULTS: dict[str, tuple[float, ...]] = {
    "sigmoid": (),
    "tanh": (),
    "relu": (),
    "identity": (),
    "affine": (1.0, 0.0),
    "leaky_relu": (0.01,),
    "thresholded_relu": (1.0,),
    "scaled_tanh": (1.0, 1.0),
    "hard_sigmoid": (0.2, 0.5),
    "elu": (1.0,),
    "softsign": (),
    "softplus": (),
}
DEFAULTS: dict[str, Any] = {
    "peephole": False,
    "coupled": None,
    "gate_clip": None,
    "cell_clip": None,
    "proj_clip": None,
    "gate_activation": "sigmoid",
    "cell_activation": "tanh",
    "output_activation": "tanh",
    "layer_norm": None,
    "recurrent_dropout": 0.0,
    "zoneout": 0.0,
    "input_dropout": 0.0,
    "reverse": False,
    "learn_initial_state": False,
}
"""The arguments of the recurrence's options; LSTMCell has some of them."""

_CHOICES = {"coupled": ("f=1-i", "i=1-f"), "layer_norm": ("tflite", "haste")}
_GATE_GONE = {"f=1-i": "f", "i=1-f": "i"}

# For each gate of a stack, as `Options` has them, the argument that its function comes from.
_FUNCTIONS = {
    "gate": "gate_activation",
    "cell": "cell_activation",
    "output": "output_activation",
}


def check_function(name: str, value: Any) -> Function:
    """Return an activation in its shortest form: the name alone if its parameters are the defaults.

    Examples
    --------
    >>> check_function("gate_activation", ("hard_sigmoid", 0.2, 0.5))
    'hard_sigmoid'
    >>> check_function("gate_activation", ["hard_sigmoid", 1 / 6])
    ('hard_sigmoid', 0.16666666666666666, 0.5)
    """
    given = value if isinstance(value, (tuple, list)) else (value,)
    kind, parameters = (given[0], given[1:]) if given else (None, ())
    if not isinstance(kind, str) or kind not in _DEFAULTS:
        raise ValueError(
            f"{name} must be one of {', '.join(_DEFAULTS)}, or a tuple of such a name and its "
            f"parameters alpha and beta, got {short(value)}"
        )
    defaults = _DEFAULTS[kind]
    if len(parameters) > len(defaults):
        most = ("no parameter", "one parameter", "two parameters")[len(defaults)]
        raise ValueError(f"{name}: {kind} has {most}, got {len(parameters)}")
    numbers = tuple(
        check_number(f"{which} of {name}", number)
        for which, number in zip(("alpha", "beta"), parameters, strict=False)
    )
    whole = numbers + defaults[len(numbers) :]
    if whole == defaults:
        return kind
    return (kind, whole[0]) if len(whole) == 1 else (kind, whole[0], whole[1])


def check_zoneout(value: Any) -> float | tuple[float, float]:
    """Return the probabilities of h and c: one number if they are equal, otherwise a pair."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"zoneout must be a number, or a pair for h and c, got {short(value)}")
    h, c = (check_number("zoneout", p, least=0, most=1) for p in pair)
    return h if h == c else (h, c)


def check_options(given: dict[str, Any], projected: bool = False) -> dict[str, Any]:
    """Return the options of the recurrence, checked, each in its shortest form.

    Parameters
    ----------
    given : dict of str -> object
        By the names of the arguments: all those of `DEFAULTS` that the layer has.
    projected : bool
        Whether there is a projection.

    Raises
    ------
    ValueError, TypeError
        If an option has none of its values, or needs another one.
    """
    checked = {name: check_option(name, value) for name, value in given.items()}
    if given.get("proj_clip") is not None and not projected:
        raise ValueError("proj_clip bounds what a projection gives, so it needs proj_size")
    return checked


def check_option(name: str, value: Any) -> Any:
    """Do what `check_options` does for one option."""
    if name in ("peephole", "reverse", "learn_initial_state"):
        return check_bool(name, value)
    if name in ("recurrent_dropout", "input_dropout"):
        return check_probability(value, name)
    if name == "zoneout":
        return check_zoneout(value)
    if name in _FUNCTIONS.values():
        return check_function(name, value)
    if value is None:
        return None
    if name in _CHOICES:
        if not (isinstance(value, str) and value in _CHOICES[name]):
            choice = " or ".join(f'"{word}"' for word in _CHOICES[name])
            raise ValueError(f"{name} must be {choice}, or None, got {short(value)}")
        return value
    return check_number(name, value, above=0)


def options_of(layer: Any) -> Options:
    """Return the options of a layer, from its attributes, as engines see them."""

    def bound(name: str) -> float:
        value: float | None = getattr(layer, name, None)
        return math.inf if value is None else value

    zoneout_h, zoneout_c = zones_of(layer.zoneout)
    functions = {field: _activation(getattr(layer, name)) for field, name in _FUNCTIONS.items()}
    options = Options(
        gate_clip=bound("gate_clip"),
        cell_clip=bound("cell_clip"),
        proj_clip=bound("proj_clip"),
        coupled=layer.coupled or "",
        layer_norm=layer.layer_norm or "",
        zoneout_h=zoneout_h,
        zoneout_c=zoneout_c,
        **functions,
    )
    return PLAIN if options == PLAIN else options


def zones_of(zoneout: float | tuple[float, float]) -> tuple[float, float]:
    """Return the probabilities of h and c."""
    return zoneout if isinstance(zoneout, tuple) else (zoneout, zoneout)


def _activation(function: Function) -> Activation:
    kind, *parameters = (function,) if isinstance(function, str) else function
    if kind == "identity":
        return Activation("affine", 1.0, 0.0)
    return Activation(str(kind), *(map(float, parameters) if parameters else _DEFAULTS[str(kind)]))


def gates_of(coupled: str | None) -> str:
    """Return the gates that have rows in the parameters, in turn."""
    return "ifgo".replace(_GATE_GONE.get(coupled or "", "-"), "")


def options_text(layer: Any, names: Iterable[str] = DEFAULTS) -> str:
    """Return those of the named options that are not the defaults, as a layer's repr shows them."""
    text = ""
    for name in names:
        default = DEFAULTS[name]
        value = getattr(layer, name, default)
        if value != default:
            text += f", {name}={value!r}"
    return text
