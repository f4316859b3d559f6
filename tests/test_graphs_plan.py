"""Draft and Plan: order, constants, what is left out and let go, errors, pickles, threads."""

import gc
import operator
import pickle
import threading
import weakref
from functools import partial

import numpy as np
import pytest

from fastlstm.graphs.limits import Limits, TooLarge
from fastlstm.graphs.plan import Draft, Node, Plan, computed


def node(compute, inputs, outputs, kind="Any"):
    """Return a node of the names in two strings, "a b" and "c"; "-" stands for no name."""
    names = [tuple("" if n == "-" else n for n in text.split()) for text in (inputs, outputs)]
    return Node(f"makes {outputs}", kind, compute, *names)


def draft(room=1 << 20, most=1 << 20):
    return Draft("auto", Limits(most), room)


def divided(a, b):
    return divmod(a, b)


def crossed(a, b):
    return a + b / 2, a - b / 2


def same(x):
    return x


def zeros(n, *, limits):
    limits.allow((n,), 8)
    return np.zeros(n)


# ---- values go where they belong ----------------------------------------------------------------


@pytest.mark.parametrize("cls", [list, tuple])
def test_values_of_a_small_graph(cls):
    """q, r = divmod(a, b); y = (q - r) * a, with inputs and outputs in other orders."""
    nodes = [
        node(divided, "a b", "q r"),
        node(operator.sub, "q r", "d"),
        node(operator.mul, "d a", "y"),
    ]
    plan = Plan(nodes, {}, ["b", "a"], ["y", "q"])
    assert plan.run(cls([5, 17])) == [(3 - 2) * 17, 3]


def test_inputs_that_are_left_out_are_none():
    given = []
    plan = Plan([node(lambda *x: given.append(x) or 1, "- a -", "y")], {}, ["a"], ["y"])
    assert plan.run([7]) == [1]
    assert given == [(None, 7, None)]


def test_a_node_without_inputs_runs_each_time():
    counter = iter(range(9))
    plan = Plan([node(partial(next, counter), "", "y")], {}, [], ["y"])
    assert [plan.run([])[0] for _ in range(3)] == [0, 1, 2]


def test_a_value_is_taken_twice_by_one_node_and_again_later():
    nodes = [node(operator.add, "x x", "d"), node(operator.mul, "d x", "y")]
    assert Plan(nodes, {}, ["x"], ["y"]).run([3]) == [18]


def test_an_output_is_an_input_or_a_constant():
    plan = Plan([], {"c": 5}, ["a"], ["a", "c", "a"])
    assert plan.run([2]) == [2, 5, 2]


def test_an_input_hides_a_constant_of_its_name():
    """As in ONNX before version 4 of its files, where initializers were inputs with a default."""
    assert Plan([node(same, "a", "y")], {"a": 1}, ["a"], ["y"]).run([2]) == [2]


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_against_running_them_by_names(seed):
    """Slots are used again, and none too early: values are compared with those in a dict."""
    rng = np.random.default_rng(seed)
    names, nodes = ["a", "b", "c0"], []
    for n in range(40):
        takes = [names[k] for k in rng.integers(max(0, len(names) - 6), len(names), 2)]
        gives = [f"v{n}", f"w{n}"][: 1 + n % 2]
        nodes.append(node(crossed if n % 2 else operator.add, " ".join(takes), " ".join(gives)))
        names += gives
    outputs = [names[k] for k in rng.integers(0, len(names), 5)]
    values = {"a": 1.5, "b": 7.25, "c0": 3.0}
    plan = Plan(nodes, {"c0": 3.0}, ["b", "a"], outputs)
    for one in nodes:
        result = one.compute(*(values[name] for name in one.inputs))
        result = result if len(one.outputs) > 1 else (result,)
        values.update(zip(one.outputs, result, strict=True))
    for _ in range(2):
        assert plan.run([7.25, 1.5]) == [values[name] for name in outputs]


# ---- what is left out, and what is let go -------------------------------------------------------


def test_nodes_that_no_output_needs_are_left_out():
    nodes = [
        node(divided, "a b", "q r"),
        node(operator.truediv, "a zero", "never"),
        node(same, "q", "y"),
    ]
    plan = Plan(nodes, {"zero": 0}, ["a", "b"], ["y"])
    assert [one.outputs for one in plan.nodes] == [("q", ""), ("y",)]
    assert plan.run([7, 2]) == [3]


class Huge:
    """A value that knows whether it is still alive."""

    alive = 0

    def __init__(self):
        Huge.alive += 1
        weakref.finalize(self, self.gone)

    @staticmethod
    def gone():
        Huge.alive -= 1


def following(most, x):
    assert Huge.alive <= most, "a value is kept that nobody needs"
    return Huge()


def test_values_are_let_go_when_nobody_needs_them():
    """In a chain, a node that runs finds its own input alive, and none before that."""
    gc.collect()
    Huge.alive = 0
    nodes = [node(partial(following, min(n, 1)), f"v{n}", f"v{n + 1}") for n in range(9)]
    (last,) = Plan(nodes, {}, ["v0"], ["v9"]).run([None])
    assert Huge.alive == 1
    del last
    assert Huge.alive == 0


def test_a_plan_keeps_no_values():
    plan = Plan([node(same, "a", "b"), node(np.sum, "b", "y")], {}, ["a"], ["y"])
    x = np.ones(3)
    seen = weakref.ref(x)
    assert plan.run([x]) == [3]
    del x
    assert seen() is None


# ---- constants are computed once ----------------------------------------------------------------


def test_what_constants_give_is_a_constant():
    it = draft()
    it.constants |= {"a": np.arange(3), "b": np.ones(3)}
    it.add(node(np.add, "a b", "c"))
    it.add(node(np.multiply, "c x", "y"))
    np.testing.assert_array_equal(it.constants["c"], [1, 2, 3])
    plan = it.plan(["x"], ["y"])
    assert len(plan.nodes) == 1
    np.testing.assert_array_equal(plan.run([np.full(3, 2)])[0], [2, 4, 6])


def test_what_must_run_each_time_is_not_folded():
    it = draft()
    it.add(node(dict, "", "y"), fold=False)
    assert not it.constants
    assert it.plan([], ["y"]).run([]) == [{}]


def test_constants_have_room():
    """One that would take too much is computed in each run instead; so is one beyond the limits."""
    it = draft(room=100, most=500)
    it.constants["n"] = 11
    it.add(node(np.zeros, "n", "a"))
    assert it.room == 12
    it.add(node(np.ones, "n", "b"))
    it.add(node(partial(zeros, limits=it.limits), "n", "d"))
    it.constants["m"] = 100
    it.add(node(partial(zeros, limits=it.limits), "m", "c"))
    assert set(it.constants) == {"n", "m", "a"}
    assert it.room == 12
    plan = it.plan([], ["a", "b", "c"])
    with pytest.raises(TooLarge, match="800 bytes, at most 500"):
        plan.run([])
    it.limits.most = 800
    np.testing.assert_array_equal(np.concatenate(plan.run([])), [0] * 11 + [1] * 11 + [0] * 100)


# ---- errors -------------------------------------------------------------------------------------


def test_errors_name_the_operator():
    plan = Plan(
        [node(same, "a", "b", "Identity"), node(operator.truediv, "b c", "y", "Div")],
        {"c": 0},
        ["a"],
        ["y"],
    )
    with pytest.raises(ValueError, match=r"^operator Div 'makes y': division by zero$"):
        plan.run([1])
    outer = Plan([node(lambda x: plan.run([x])[0], "a", "z", "If")], {}, ["a"], ["z"])
    with pytest.raises(ValueError, match=r"^operator Div 'makes y': division by zero$"):
        outer.run([1])
    with pytest.raises(ValueError, match=r"^operator Div 'makes y': division by zero$"):
        computed(plan.nodes[1], [1, 0])


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="operator Any 'makes y' takes 'b', which nothing before"):
        Plan([node(same, "b", "y"), node(same, "a", "b")], {}, ["a"], ["y"])
    with pytest.raises(ValueError, match="'makes a' gives 'a', which is there already"):
        Plan([node(same, "b", "a")], {}, ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="nothing gives the output 'z'"):
        Plan([node(same, "a", "y")], {}, ["a"], ["y", "z"])


def test_too_few_or_too_many_outputs():
    plan = Plan([node(same, "a", "q r")], {}, ["a"], ["q", "r"])
    assert plan.run([(1, 2)]) == [1, 2]
    for wrong in ((1,), (1, 2, 3)):
        with pytest.raises(ValueError, match="operator Any 'makes q r'"):
            plan.run([wrong])


# ---- pickles and threads ------------------------------------------------------------------------


def chain():
    nodes = [
        node(operator.add, "x c", "a"),
        node(divided, "a c", "q r"),
        node(np.add, "q r", "y"),
    ]
    return Plan(nodes, {"c": np.arange(1.0, 5)}, ["x"], ["y"])


def test_pickled_and_copied_plans_compute_the_same():
    plan, x = chain(), np.linspace(-1, 9, 4)
    again = pickle.loads(pickle.dumps(plan))
    np.testing.assert_array_equal(again.run([x])[0], plan.run([x])[0])
    assert [one.name for one in again.nodes] == [one.name for one in plan.nodes]


def test_threads_share_a_plan():
    plan, faults = chain(), []

    def calls(seed):
        x = np.random.default_rng(seed).normal(size=4)
        expected = np.sum(divmod(x + np.arange(1.0, 5), np.arange(1.0, 5)), axis=0)
        for _ in range(300):
            if not np.array_equal(plan.run([x])[0], expected):
                faults.append(seed)

    threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
