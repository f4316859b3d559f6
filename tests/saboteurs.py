"""Saboteurs: copies of the code with one fault each, which a comparison must reject.

`edited` finds the place of a fault by its syntax, so that it stays where it is when somebody
renames a local variable or breaks a line at another point. `broken` puts the fault around an
engine, through the contract alone.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import inspect
import operator
import types
from collections.abc import Callable, Container, Iterator
from typing import Any

from fastlstm.engines import _numpy
from fastlstm.engines.contract import Cell

# ---- edited sources -------------------------------------------------------------------------


def edited(module: types.ModuleType, place: str, old: str, new: str) -> types.ModuleType:
    """Return a copy of `module` in which `new` stands for `old` in the function `place`.

    `old` and `new` are Python, either expressions or statements. In them, the names of the module,
    of Python's builtins and of the function's parameters mean themselves. Every other name is that
    of a local variable: it stands for any one, and in `new` for the same one as in `old`. `old`
    must fit exactly one piece of the function, otherwise this is an AssertionError.
    """
    tree = ast.parse(inspect.getsource(module))
    function = _function(tree, place)
    parameters = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    known = parameters | set(vars(module)) | set(vars(builtins))
    olds, news = ast.parse(old).body, ast.parse(new).body
    alone = [body[0] for body in (olds, news) if len(body) == 1]
    as_expressions = len([node for node in alone if isinstance(node, ast.Expr)]) == 2
    pattern: Any = olds[0].value if as_expressions else olds  # type: ignore[attr-defined]

    fits = []
    for found, put in _pieces(function, None if as_expressions else len(olds)):
        names: dict[str, str] = {}
        if _fits(pattern, found, known, names):
            fits.append((names, put))
    assert len(fits) == 1, f"{old!r} must fit one piece of {place}, it fits {len(fits)}"
    names, put = fits[0]
    for node in (node for statement in news for node in ast.walk(statement)):
        if isinstance(node, ast.Name) and node.id not in known:
            assert node.id in names, f"{node.id!r} of {new!r} must be in {old!r} too"
            node.id = names[node.id]
    put(news[0].value if as_expressions else news)  # type: ignore[attr-defined]

    copied = types.ModuleType(f"{module.__package__}.saboteur")
    copied.__package__ = module.__package__
    exec(compile(ast.fix_missing_locations(tree), f"<saboteur of {place}>", "exec"), vars(copied))
    return copied


def _function(tree: ast.AST, place: str) -> ast.AST:
    """Find a function by its qualified name, such as "Adam._update"."""
    for name in place.split("."):
        within = [n for n in ast.iter_child_nodes(tree) if getattr(n, "name", None) == name]
        # Declarations for type checkers, which stand before the function itself, are no functions.
        decorated = {n: map(ast.unparse, getattr(n, "decorator_list", [])) for n in within}
        within = [n for n, decorators in decorated.items() if "overload" not in decorators]
        assert len(within) == 1, f"there must be one {place}"
        tree = within[0]
    return tree


def _pieces(function: ast.AST, count: int | None) -> Iterator[tuple[Any, Callable[[Any], None]]]:
    """Yield each expression, or each `count` statements in a row, and what replaces it."""
    for parent in ast.walk(function):
        for field, value in ast.iter_fields(parent):
            if count is None and not isinstance(value, list):
                yield value, functools.partial(setattr, parent, field)
            elif isinstance(value, list):
                for k in range(len(value) - (count or 1) + 1):
                    at: Any = k if count is None else slice(k, k + count)
                    yield value[at], functools.partial(operator.setitem, value, at)


def _fits(pattern: Any, found: Any, known: Container[str], names: dict[str, str]) -> bool:
    """Say whether `found` is `pattern`, but for the names of local variables."""
    if isinstance(pattern, list):
        return (
            isinstance(found, list)
            and len(pattern) == len(found)
            and all(_fits(p, f, known, names) for p, f in zip(pattern, found, strict=True))
        )
    if type(pattern) is not type(found):
        return False
    if isinstance(pattern, ast.Name) and pattern.id not in known:
        if found.id in known or (pattern.id not in names and found.id in names.values()):
            return False
        return bool(names.setdefault(pattern.id, found.id) == found.id)
    if isinstance(pattern, ast.AST):
        fields = (field for field in pattern._fields if field not in ("ctx", "kind"))
        return all(
            _fits(getattr(pattern, field), getattr(found, field), known, names) for field in fields
        )
    return bool(pattern == found)


# ---- broken engines -------------------------------------------------------------------------


def broken(
    cell: Callable[[Cell], Cell] = lambda cell: cell,
    run: Callable[..., None] | None = None,
    back: Callable[..., None] | None = None,
) -> types.SimpleNamespace:
    """Return engine numpy with a fault: in its cells, in `run` or in `back`.

    `run` and `back` get the right function first, then its arguments, as the contract has them.
    """

    class Stack(_numpy.Stack):
        def __init__(self, cells: Any, *arguments: Any, **options: Any) -> None:
            super().__init__([cell(one) for one in cells], *arguments, **options)

        def run(self, *arguments: Any) -> None:
            run(super().run, *arguments) if run else super().run(*arguments)

        def back(self, *arguments: Any) -> None:
            back(super().back, *arguments) if back else super().back(*arguments)

    return types.SimpleNamespace(Stack=Stack)


def changed(**changes: Callable[[Any], Any]) -> Callable[[Cell], Cell]:
    """Return what changes arrays of a cell by name; each function gets a copy of the array."""

    def change(cell: Cell) -> Cell:
        arrays = {name: make(getattr(cell, name).copy()) for name, make in changes.items()}
        return dataclasses.replace(cell, **arrays)

    return change
