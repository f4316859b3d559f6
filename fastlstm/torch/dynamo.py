"""What Dynamo, the tracer of `torch.compile`, is told about the modules and kernels here.

Dynamo refuses every instance of `torch.nn.LSTM`: there is a graph break, and an error with
``fullgraph=True``. It would trace torch's own LSTM as thousands of operators, while ours is one.
Its setting ``torch._dynamo.config.allow_rnn`` would have ours traced, and with them every other
LSTM, GRU and RNN of the process. So Dynamo's table of what wraps a value, by its exact class, gets
an entry for our classes alone, which wraps them as any other module. If a later torch has no such
table, our modules are what torch's are to it: not in the graph, with the same numbers.

The import of Dynamo takes as long as that of torch, so nobody imports it before it is needed: what
is done to its table waits for that.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, TypeVar

import torch

_F = TypeVar("_F", bound=Callable[..., Any])
_NAME = "torch._dynamo"
_traced: weakref.WeakSet[type] = weakref.WeakSet()


def trace(cls: type) -> None:
    """Have Dynamo trace the modules of exactly this class."""
    _traced.add(cls)
    # While it is being imported, it is among the modules without its parts.
    if hasattr(sys.modules.get(_NAME), "variables"):
        _tell(sys.modules[_NAME])


def untraced(function: _F) -> _F:
    """Have Dynamo leave this function, a kernel, and what it calls to Python.

    Kernels are called by torch's dispatcher, so Dynamo does not meet them where it traces. But
    where a program's graph has broken it looks at every function that runs, as if it were the
    program's. ``torch.compiler.disable`` says the same, imports Dynamo and takes its time at every
    call.
    """
    with contextlib.suppress(AttributeError):
        frames = torch._C._dynamo.eval_frame
        skip = frames._FrameAction.SKIP
        strategy = frames._FrameExecStrategy(skip, skip)
        frames.set_code_exec_strategy(function.__code__, strategy)
    return function


def beside_graphs(function: _F) -> _F:
    """Have Dynamo break a graph for this function, and leave it and what it calls to Python."""
    vars(function)["_torchdynamo_disable"] = True
    return untraced(function)


def is_transformed() -> bool:
    """Whether this runs in a transform of torch.func: a constant to Dynamo, which guards these."""
    return torch._C._functorch.peek_interpreter_stack() is not None


vars(is_transformed)["_dynamo_marked_constant"] = True  # torch.compiler would import Dynamo


def _tell(dynamo: Any) -> None:
    def wrap(builder: Any, module: torch.nn.Module) -> Any:
        with dynamo.config.patch(allow_rnn=True):  # in this thread
            return builder.wrap_module(module)

    with contextlib.suppress(AttributeError):
        builder = dynamo.variables.builder.VariableBuilder
        for trace_numpy in (True, False):
            builder._type_dispatch_impl(trace_numpy).update(dict.fromkeys(_traced, wrap))


class _Wait(MetaPathFinder):
    """Finds Dynamo, as it would be found without this, until it has been imported."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        spec = PathFinder.find_spec(name, path, target) if name == _NAME else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _tell(module)
                # Not before: who looks for a spec may only want to know whether there is one.
                with contextlib.suppress(ValueError):
                    sys.meta_path.remove(self)

            vars(spec.loader)["exec_module"] = exec_module
        return spec


if _NAME not in sys.modules:
    sys.meta_path.insert(0, _Wait())
