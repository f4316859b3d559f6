"""Checkpoints of programs that always wire their parts alike: Darts and neuralforecast.

Their hyper-parameters stand in the checkpoint, and say what names and shapes do not: activations,
which steps are taken, what is put beside what. So the model that the program had can be made, where
fastlstm has its layers. Otherwise the sentence says what is missing, and the LSTM can still be
loaded alone. `neuralhydrology` does the same for that program, whose configuration is a file.

Source: darts 0.48, rnn_model.py and block_rnn_model.py; neuralforecast 3.3, lstm.py and
_modules.py.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checks import quoted, short
from .json_values import parsed

if TYPE_CHECKING:
    from ..arrays import Array
    from .budget import Budget
    from .source import State
    from .structure import Description

ENTRY = "hyper_parameters"
"""The name of neuralforecast's hyper-parameters among the metadata of a safetensors file."""

_DARTS = {"input_chunk_length", "output_chunk_length", "hidden_dim", "target_size", "nr_params"}
_NEURALFORECAST = {"h", "input_size", "encoder_hidden_size", "encoder_n_layers"}
_ACTIVATIONS = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh"}
_OF_LOSSES = re.compile(r"(loss|valid_loss|__hparams__)\.")
_MOST_LAYERS = 100  # of a network of Linear layers
_INSTEAD = "fastlstm.load_lstm(path) gives its LSTM alone, load(path, order=[...]) other parts"


class Offer(NamedTuple):
    """A model that a program had: its structure, its arrays, and what the structure lacks."""

    description: Description
    arrays: Mapping[str, Array]
    untold: str


def offered(hyper: Mapping[str, Any], state: State) -> Callable[[], Offer] | None:
    """Return what makes the model of a checkpoint of Lightning's, if it is of a known program.

    Parameters
    ----------
    hyper : dict
        Its hyper-parameters, as the pickle has them: whatever is no plain value is not opened.
    state : State
        Its state dict.
    """
    if hyper.keys() >= _DARTS and "rnn.weight_ih_l0" in state:
        state.batch_first["rnn."] = True
        return functools.partial(_darts, hyper, state)
    if hyper.keys() >= _NEURALFORECAST and "hist_encoder.weight_ih_l0" in state:
        state.batch_first["hist_encoder."] = True
        return functools.partial(_neuralforecast, hyper, state)
    return None


def hyper_parameters(metadata: Mapping[str, str], budget: Budget) -> dict[str, Any]:
    """Return the hyper-parameters that stand as JSON in the metadata of a safetensors file."""
    text = metadata.get(ENTRY)
    if text is None:
        return {}
    budget.check("bytes of JSON", len(text))
    found = parsed(text, budget, "its hyper-parameters are damaged JSON", has_nan=True)
    return found if isinstance(found, dict) else {}


def notes(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters that are plain values, for whoever runs the model."""
    plain = (int, float, str, bool, type(None))
    return {name: value for name, value in hyper.items() if type(value) in plain}


class Maker:
    """Puts a model together from the arrays of a state dict, under their own names."""

    def __init__(self, program: str, state: State) -> None:
        self.program, self.state = program, state
        self.used: set[str] = set()

    def lacks(self, what: str) -> ValueError:
        """Return the error of a model with something that fastlstm has not."""
        return ValueError(f"it is a model of {self.program} with {what}: {_INSTEAD}")

    def size(self, hyper: Mapping[str, Any], name: str, least: int = 1) -> int:
        """Return a hyper-parameter that is a number."""
        value = hyper.get(name)
        if type(value) is not int or not least <= value < 1 << 31:
            raise ValueError(
                f"its hyper-parameter {name} of {self.program} must be a whole number of at least "
                f"{least}, got {short(value)}"
            )
        return value

    def lstm(
        self, name: str, layers: int, dropout: Any, batch_first: bool | None = True
    ) -> Description:
        """Return the LSTM of this name, with the sizes that its arrays have."""
        first, hidden = (self._matrix(f"{name}.weight_{kind}_l0") for kind in ("ih", "hh"))
        projection = self.state.get(f"{name}.weight_hr_l0")
        units = hidden.shape[1] if projection is None else projection.shape[-1]
        if len(hidden) != 4 * units:
            raise self.lacks(f"a GRU or an RNN in place of an LSTM, called {short(name)}")
        found = {n for n in self.state if n.startswith(f"{name}.")}
        self.used |= found
        is_rate = isinstance(dropout, (int, float)) and 0 <= dropout <= 1
        return {
            "layer": "LSTM",
            "input_size": first.shape[1],
            "hidden_size": len(hidden) // 4,
            "num_layers": layers,
            "bias": f"{name}.bias_ih_l0" in found,
            "batch_first": batch_first,
            "dropout": float(dropout) if is_rate and layers > 1 else 0.0,
            "proj_size": 0 if projection is None else len(projection),
            "dtype": str(first.dtype),
        }

    def linear(self, name: str) -> Description:
        """Return the Linear of this name."""
        weight = self._matrix(f"{name}.weight")
        self.used |= {f"{name}.weight", f"{name}.bias"}
        return {
            "layer": "Linear",
            "in_features": weight.shape[1],
            "out_features": len(weight),
            "bias": f"{name}.bias" in self.state,
            "dtype": str(weight.dtype),
        }

    def network(self, name: str, activation: str | None) -> Description:
        """Return the Linear layers that a Sequential of torch's has under its numbers.

        Between two of them stands the activation.
        """
        pattern = re.compile(re.escape(name) + r"\.(\d{1,4})\.weight")
        numbers = sorted(int(m[1]) for n in self.state if (m := pattern.fullmatch(n)))
        if not 0 < len(numbers) <= _MOST_LAYERS:
            raise ValueError(f"its state dict has {len(numbers)} layers called {name}.0 and so on")
        children: dict[str, Description] = {}
        for number in numbers:
            if children and activation is not None:
                children[f"activation{number}"] = {"layer": activation}
            children[str(number)] = self.linear(f"{name}.{number}")
        return {"layer": "Sequential", "children": children}

    def activation(self, value: Any) -> str | None:
        """Return the layer of an activation; None for none."""
        if value is None or (isinstance(value, str) and value.lower() in ("linear", "identity")):
            return None
        known = _ACTIVATIONS.get(value.lower()) if isinstance(value, str) else None
        if known is None:
            raise self.lacks(f"the activation {short(value)}, which fastlstm has no layer for")
        return known

    def offer(self, children: dict[str, Description], untold: str = "") -> Offer:
        """Return the model; raise ValueError if there are arrays that it does not use."""
        self.state.require()
        left = [n for n in self.state if n not in self.used and not _OF_LOSSES.match(n)]
        if left:
            raise self.lacks(f"arrays whose use is not known, {quoted(left, most=5)}")
        arrays = {name: self.state[name] for name in self.state if name in self.used}
        return Offer({"layer": "Sequential", "children": children}, arrays, untold)

    def _matrix(self, name: str) -> Array:
        found = self.state.get(name)
        if found is None or found.ndim != 2:
            raise ValueError(f"its state dict has no matrix {short(name)}")
        return found


def _steps(program: str, count: int) -> str:
    """Return what a model lacks that takes the last steps of an output."""
    return f"{program} takes the last {count} steps of this output" if count > 1 else ""


# ---- Darts --------------------------------------------------------------------------------------


def _darts(hyper: Mapping[str, Any], state: State) -> Offer:
    """Return a RNNModel, an LSTM and a Linear, or a BlockRNNModel, an LSTM and several."""
    is_block = "V.weight" not in state
    maker = Maker("Darts' BlockRNNModel" if is_block else "Darts' RNNModel", state)
    if hyper.get("name") != "LSTM":
        raise maker.lacks(f"{short(hyper.get('name'))} in place of an LSTM")
    if hyper.get("use_reversible_instance_norm"):
        raise maker.lacks("use_reversible_instance_norm, a norm of each series over its steps")
    lstm = maker.lstm("rnn", maker.size(hyper, "num_layers"), hyper.get("dropout"))
    untold = []
    if (numbers := maker.size(hyper, "nr_params")) > 1:
        untold.append(f"there are {numbers} numbers for each target, of a likelihood")
    values = maker.size(hyper, "target_size") * numbers  # of one step
    if not is_block:
        output = maker.linear("V")
        if output["out_features"] != values:
            raise maker.lacks(f"{output['out_features']} outputs for {values} values of a step")
        return maker.offer({"rnn": lstm, "V": output}, "; ".join(untold))
    network = maker.network("fc", maker.activation(hyper.get("activation")))
    outputs = list(network["children"].values())[-1]["out_features"]
    steps, given = (maker.size(hyper, f"{way}_chunk_length") for way in ("output", "input"))
    last: dict[str, Description] = {"last": {"layer": "Last"}}
    if steps > 1 and outputs == steps * values:  # as versions of Darts before darts#2845 have it
        untold.insert(0, f"its output has the {values} values of each of {steps} steps")
        return maker.offer({"rnn": lstm, **last, "fc": network}, "; ".join(untold))
    if outputs != values:
        raise maker.lacks(f"{outputs} outputs for {values} values of each of {steps} steps")
    if steps > given:
        raise maker.lacks(
            f"output_chunk_length={steps} over input_chunk_length={given}: an up_sampler makes "
            "steps of steps, which is no layer of fastlstm"
        )
    if hyper.get("future_cov_dim"):
        raise maker.lacks("future covariates, which are put beside the LSTM's output")
    if taken := _steps("Darts", steps):
        untold.insert(0, taken)
    model = {"rnn": lstm, **(last if steps == 1 else {}), "fc": network}
    return maker.offer(model, "; ".join(untold))


# ---- neuralforecast -----------------------------------------------------------------------------


def _neuralforecast(hyper: Mapping[str, Any], state: State) -> Offer:
    """Return an LSTM and its decoder, Linear layers; or the LSTM alone, if it is recurrent."""
    maker = Maker("neuralforecast", state)
    layers = maker.size(hyper, "encoder_n_layers")
    lstm = maker.lstm("hist_encoder", layers, hyper.get("encoder_dropout"))
    if any(name.startswith("context_adapter.") for name in state):
        raise maker.lacks("a context_adapter, which makes steps of features (before version 2)")
    steps, given = maker.size(hyper, "h"), maker.size(hyper, "input_size", least=-(1 << 31))
    untold = _steps("neuralforecast", steps)
    scaler = hyper.get("scaler_type")
    if isinstance(scaler, str) and scaler != "identity":
        scales = f"neuralforecast scales each window by scaler_type={short(scaler)} before it"
        untold = "; ".join(filter(None, [untold, scales]))
    if hyper.get("recurrent"):
        return maker.offer({"hist_encoder": lstm}, untold)
    if "upsample_sequence.weight" in state or steps > given > 0:
        raise maker.lacks(
            f"h={steps} over input_size={given}: upsample_sequence makes steps of steps, which is "
            "no layer of fastlstm"
        )
    function = hyper.get("decoder_activation")
    network = maker.network("mlp_decoder.layers", maker.activation(function or "ReLU"))
    takes = next(iter(network["children"].values()))["in_features"]
    if takes != lstm["hidden_size"]:
        raise maker.lacks(
            f"{takes - lstm['hidden_size']} future variables, which are put beside the LSTM's "
            "output"
        )
    last: dict[str, Description] = {"last": {"layer": "Last"}} if steps == 1 else {}
    decoder = {"layer": "Sequential", "children": {"layers": network}}
    return maker.offer({"hist_encoder": lstm, **last, "mlp_decoder": decoder}, untold)
