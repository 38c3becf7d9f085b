"""Sampler chains as part of an ONNX graph: the same Python code that runs beside PyTorch, traced, with the draw behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from gpt2demo import plugins
from gpt2demo.config import parse_spec
from gpt2demo.errors import SettingError
from gpt2demo.export.onnx.quiet import quiet
from gpt2demo.export.onnx.sampler_inputs import Limits, prepare
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.draw import inverse

Number = tuple[int, str]
"""An option that is an input of the graph: which sampler of the chain, which of its fields."""


TEXT_LENGTH = torch.export.Dim("text_length", min=1)
"""A sampler that branches on the length of the text is refused. A mere name would let torch fix the branch without a word."""


class Chain(nn.Module):
    """Samplers and draw as one function of tensors."""

    def __init__(self, samplers: Sequence[Sampler], numbers: Sequence[Number]) -> None:
        super().__init__()
        self._samplers = samplers
        self._numbers = numbers

    def forward(self, logits: Tensor, uniform: Tensor, ids: Tensor, prompt_length: Tensor, values: list[Tensor]) -> Tensor:
        """(B, V) logits, (B, 1) uniform numbers, (B, S) text so far, options -> (B, 1) next ids."""
        for place, sampler in enumerate(self._samplers):
            changed = {field: value for (owner, field), value in zip(self._numbers, values, strict=True) if owner == place}
            context = SamplingContext(ids, prompt_length)  # type: ignore[arg-type]  # here it is an input like the others
            logits = sampler.model_copy(update=changed)(logits, context)
        return inverse(logits, uniform)


@dataclass(frozen=True)
class Traced:
    """A sampler chain as a graph.

    Attributes:
        graph: inputs `logits`, `uniform`, `text_ids`, `prompt_length` and one for each option; output `next_ids`.
        chain: for the certificate, see `engines.exported.Exported.chain`.
    """

    graph: ir.Graph
    chain: list[dict[str, Any]]


def trace(specs: Sequence[str], vocab_size: int) -> Traced:
    """Trace a chain given as `NAME:key=value`. Numbers become inputs of the graph where the sampler's code allows it.

    Raises:
        SettingError: a sampler cannot be traced; names it.
        PluginError: there is no such sampler.
    """
    samplers = [plugins.create_sampler(spec) for spec in specs]
    names = [parse_spec(spec)[0] for spec in specs]
    for name, sampler in zip(names, samplers, strict=True):
        if not sampler.traceable:
            raise SettingError(
                f"sampler {name!r}: keeps a state or branches on values, so it cannot be part of a graph; leave it out"
            )
    numbers = [(place, field) for place, sampler in enumerate(samplers) for field, value in sampler if _is_number(value)]
    graph = _trace(samplers, numbers, names, vocab_size)
    if graph is None:  # some option decides about the graph's form: look for it sampler by sampler
        numbers = [number for place in range(len(samplers)) for number in _free_numbers(samplers, names, place, vocab_size)]
        graph = _trace(samplers, numbers, names, vocab_size)
    if graph is None:
        raise SettingError(f"samplers {', '.join(names)}: cannot be traced together")
    read = {value.name for value in graph.inputs if value.uses()}  # an option that nothing reads is no input
    labels = {number: label for number, label in zip(numbers, _labels(numbers, names), strict=True) if label in read}
    limits = {value.name: prepare(graph, value) for value in graph.inputs if value.name in labels.values()}
    every = enumerate(zip(names, samplers, strict=True))
    return Traced(graph, [_described(place, name, sampler, labels, limits) for place, (name, sampler) in every])


def _free_numbers(samplers: Sequence[Sampler], names: Sequence[str], place: int, vocab_size: int) -> list[Number]:
    """The options of one sampler that can be inputs: all of them, or none."""
    numbers = [(0, field) for field, value in samplers[place] if _is_number(value)]
    for tried in (numbers, []):
        if _trace([samplers[place]], tried, [names[place]], vocab_size) is not None:
            return [(place, field) for _, field in tried]
    raise SettingError(f"sampler {names[place]!r}: cannot be traced into a graph; its class should say `traceable = False`")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _labels(numbers: Sequence[Number], names: Sequence[str]) -> list[str]:
    """Names of the inputs: `top-p.p`, and `top-p-2.p` for one that comes a second time."""
    repeated = [names[: place + 1].count(names[place]) for place, _ in numbers]
    return [
        f"{names[place]}{f'-{count}' if count > 1 else ''}.{field}"
        for (place, field), count in zip(numbers, repeated, strict=True)
    ]


def _described(
    place: int, name: str, sampler: Sampler, labels: dict[Number, str], limits: Mapping[str | None, Limits]
) -> dict[str, Any]:
    """One sampler for the certificate."""
    inputs = {field: label for (owner, field), label in labels.items() if owner == place}
    bounds = {field: limits[label] for field, label in inputs.items() if limits[label] != [None, None]}
    values, fixed = ({field: value for field, value in sampler if (field in inputs) == free} for free in (True, False))
    return {"name": name, "inputs": inputs, "limits": bounds, "values": values, "fixed": fixed}


def _trace(samplers: Sequence[Sampler], numbers: Sequence[Number], names: Sequence[str], vocab_size: int) -> ir.Graph | None:
    """The graph, or None when torch cannot trace it."""
    values = [getattr(samplers[place], field) for place, field in numbers]
    tensors = [torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64) for value in values]
    logits, uniform, ids = torch.zeros(2, vocab_size), torch.zeros(2, 1).double(), torch.zeros(2, 7).long()
    example = (logits, uniform, ids, torch.tensor(3), tensors)
    rows = {0: "batch_size"}
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                Chain(samplers, numbers).eval(),
                example,
                input_names=["logits", "uniform", "text_ids", "prompt_length", *_labels(numbers, names)],
                output_names=["next_ids"],
                dynamic_shapes=(rows, rows, {0: "batch_size", 1: TEXT_LENGTH}, {}, [{}] * len(tensors)),
                opset_version=18,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
            assert program is not None  # it is None only where a file is written
            optimizer.optimize(program.model)
    except torch.onnx.errors.OnnxExporterError:
        return None
    return _renamed(program.model.graph)


def _renamed(graph: ir.Graph) -> ir.Graph:
    """The graph with names that do not meet the model's, and without what tells of the machine that traced it."""
    kept = {value.name for value in [*graph.inputs, *graph.outputs]}
    for node in graph:
        node.name = f"samplers.{node.name}"
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value.name not in kept:
                value.name = f"samplers.{value.name}"
    for value in list(graph.initializers.values()):
        value.name = f"samplers.{value.name}"
    for value in [*graph.inputs, *graph.initializers.values()]:
        value.metadata_props.clear()
    return graph
