"""``fastlstm convert``: write a model file in another format."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..files import check_writable
from ..formats import load, load_notes, save
from ..formats.table import written_format
from ..terminal import one_line, show
from ..training import is_forecaster
from .parser import add_model, count, positive

if TYPE_CHECKING:
    from .parser import Commands

_ENGINE: Final = "numpy"  # nothing is computed, and this one is always there

# As NAM and .fl call it, and AIDA-X, which looks into the metadata first.
_SAMPLE_RATES = (("sample_rate",), ("metadata", "samplerate"), ("samplerate",))

_DESCRIPTION = """\
Write a model file in another format, which the suffix of OUT decides:
  .npz, .safetensors  parameters and structure: `fastlstm` and fastlstm.load take it as it is
  .pt, .pth           the state dict for torch.load
  .onnx               what the model computes, for onnxruntime and other programs
  .keras              a model for keras.saving.load_model, .weights.h5 its arrays for load_weights
  .fl                 a model for the C library; `fastlstm export` writes it too
  .mat                a chain of layers for MATLAB
  .json, .nam         a model for RTNeural and AIDA-X, or for Neural Amp Modeler
What the format of OUT cannot hold is an error that names it.
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "convert",
        help="write a model file in another format",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(action=_convert)
    add_model(command)
    command.add_argument("output", metavar="OUT", type=Path, help="model file to write")
    command.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        help="where MODEL does not tell it: the input is (B, T, ...), or with --no-batch-first "
        "(T, B, ...)",
    )
    onnx = command.add_argument_group("for .onnx")
    onnx.add_argument("--opset", metavar="N", type=count, help="version of ONNX's operators")
    onnx.add_argument(
        "--lengths", action="store_true", help="the real steps of each sequence are an input"
    )
    onnx.add_argument(
        "--states", action="store_true", help="first and last states are inputs and outputs"
    )
    sound = command.add_argument_group("for .fl, .nam and .json")
    sound.add_argument(
        "--sample-rate",
        metavar="HZ",
        type=positive,
        help="of the signal that the model is made for (default: that of MODEL, if it tells one)",
    )
    sound.add_argument(
        "--form", choices=["keras", "torch"], help="of .json: which of RTNeural's two forms"
    )


def told_sample_rate(path: str, key: str | None) -> float | None:
    """Return the sample rate that a model file tells; None if it tells none."""
    notes = {}
    with contextlib.suppress(ValueError):  # a model is right, whatever stands beside it
        notes = load_notes(path, key=key)
    for names in _SAMPLE_RATES:
        rate: Any = notes
        for name in names:
            rate = rate.get(name) if isinstance(rate, dict) else None
        if type(rate) in (int, float) and 0 < rate <= sys.float_info.max:
            return float(rate)
    return None


def _convert(args: argparse.Namespace) -> None:
    """Refuse what cannot be written, then read the model and write it."""
    chosen = {"opset": args.opset, "lengths": args.lengths, "states": args.states}
    chosen |= {"sample_rate": args.sample_rate, "form": args.form}
    options = {name: value for name, value in chosen.items() if value}
    written = written_format(args.output, options)
    check_writable(args.output, [args.model])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(
            args.model,
            key=args.key,
            prefix=args.prefix,
            batch_first=args.batch_first,
            engine=_ENGINE,
            max_bytes=args.max_bytes,
        )
        if is_forecaster(args.model):
            raise ValueError(
                f"{args.model} is a forecaster, which holds more than a model: no other format "
                "keeps its standardisation, window and horizon"
            )
        if "sample_rate" in inspect.signature(written.write).parameters and args.form != "torch":
            options.setdefault("sample_rate", told_sample_rate(args.model, args.key))
        save(model, args.output, **options)
    for warning in caught:
        show(f"fastlstm: warning: {one_line(warning.message)}", to="stderr")
