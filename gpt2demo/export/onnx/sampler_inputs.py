"""Numeric sampler options as graph inputs. Their limits and casts are applied once, outside the graph, not at every token."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

Limits = list[float | int | None]
"""The minimum and maximum of an input; None if there is no such limit."""


def prepare(graph: ir.Graph, number: ir.Value) -> Limits:
    """Remove clamping, casts to float32 and reshaping of an input from a graph, up to where it has several readers.

    Args:
        graph: modified in place.
        number: one of its inputs; its dtype may change, and its shape may become (1,).

    Returns:
        The limits to apply to the input's value.
    """
    low: Any = None
    high: Any = None
    while node := _only_reader(number):
        if limits := _limits(node, number):
            low = max((limit for limit in (low, limits[0]) if limit is not None), default=None)
            high = min((limit for limit in (high, limits[1]) if limit is not None), default=None)
        elif node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.FLOAT:
            number.dtype = ir.DataType.FLOAT
        elif node.op_type == "Reshape" and _constant(node.inputs[1]) in ([1], [-1]):
            number.shape = ir.Shape([1])
        else:
            break
        ir.convenience.replace_all_uses_with(node.outputs[0], number)
        graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return [low, high]


def _only_reader(value: ir.Value) -> ir.Node | None:
    """Return the node that reads a value if there is exactly one, else None."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not uses[0].node.outputs[0].is_graph_output() else None


def _limits(node: ir.Node, number: ir.Value) -> Limits | None:
    """Return the constants that a node clamps a number to; None if it does anything else."""
    bounds = [value for value in node.inputs if value is not number]
    known = [_constant(value) for value in bounds]
    if any(value is not None and limit is None for value, limit in zip(bounds, known, strict=True)):
        return None
    if node.op_type == "Clip" and node.inputs[0] is number:
        return [*known, None, None][:2]
    if node.op_type in ("Max", "Min") and len(known) == 1:
        return [known[0], None] if node.op_type == "Max" else [None, known[0]]
    return None


def _constant(value: ir.Value | None) -> Any:
    """Return a constant as a Python number or list; None if the value is not constant."""
    known = None if value is None else ir.convenience.get_const_tensor(value)
    return None if known is None else known.numpy().tolist()
