"""Trace a sampler chain and the draw into an ONNX graph. The Python code is the one that is run with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from gpt2demo.errors import SettingError, Terminated
from gpt2demo.export.onnx.quiet import quiet
from gpt2demo.export.onnx.sampler_inputs import Limits, prepare
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.memory import out_of_memory
from gpt2demo.sampling.chains import Chain, NamedSampler
from gpt2demo.sampling.draw import inverse
from gpt2demo.sampling.ranking import run_sampler

Number = tuple[int, str]
"""A numeric option that is an input of the graph: the sampler's index in the chain, and the field's name."""


TEXT_LENGTH = torch.export.Dim("text_length", min=1)
"""An explicit dimension: a sampler that branches on it is refused. With a mere name torch would silently fix the branch."""


class ChainModule(nn.Module):
    """A sampler chain and the draw as a function of tensors."""

    def __init__(self, chain: Chain, numbers: Sequence[Number]) -> None:
        super().__init__()
        self._samplers = [item.sampler for item in chain]
        self._numbers = numbers

    def forward(self, logits: Tensor, uniform: Tensor, ids: Tensor, prompt_length: Tensor, values: list[Tensor]) -> Tensor:
        """Return the next ids (B, 1) for logits (B, V), uniform numbers (B, 1), texts (B, S) and values of the options."""
        ranking = None
        for index, sampler in enumerate(self._samplers):
            options = {field: value for (owner, field), value in zip(self._numbers, values, strict=True) if owner == index}
            context = SamplingContext(ids, prompt_length)  # type: ignore[arg-type]  # an input of the graph
            logits, ranking = run_sampler(sampler.model_copy(update=options), logits, context, ranking)
        return inverse(logits, uniform, ranking)


@dataclass(frozen=True)
class Traced:
    """A traced sampler chain.

    Attributes:
        graph: inputs `logits`, `uniform`, `text_ids`, `prompt_length` and one per numeric option; output `next_ids`.
        samplers: the description for the certificate, see `engines.exported.Exported.samplers`.
    """

    graph: ir.Graph
    samplers: list[dict[str, Any]]


def trace(chain: Chain, vocab_size: int) -> Traced:
    """Trace a chain. Numeric options become inputs of the graph if the sampler's code allows it.

    Raises:
        SettingError: a sampler cannot be traced; the message names it.
    """
    for name, sampler, _ in chain:
        if not sampler.traceable:
            raise SettingError(
                f"sampler {name!r}: keeps a state or branches on values, so it cannot be part of a graph; leave it out"
            )
    numbers = [number for index, item in enumerate(chain) for number in _numbers(index, item.sampler)]
    graph = _trace(chain, numbers, vocab_size)
    if graph is None:  # an option determines the graph's structure: find out which by tracing each sampler alone
        numbers = [number for index, item in enumerate(chain) for number in _free_numbers(index, item, vocab_size)]
        graph = _trace(chain, numbers, vocab_size)
    if graph is None:
        raise SettingError(f"samplers {', '.join(item.name for item in chain)}: cannot be traced together")
    inputs = {value.name for value in graph.inputs if value.uses()}  # an option that is never read is not an input
    labels = {number: label for number, label in zip(numbers, _labels(numbers, chain), strict=True) if label in inputs}
    limits = {value.name: prepare(graph, value) for value in graph.inputs if value.name in labels.values()}
    return Traced(graph, [_described(index, item, labels, limits) for index, item in enumerate(chain)])


def _numbers(index: int, sampler: Sampler) -> list[Number]:
    """Return the numeric options of a sampler."""
    return [(index, field) for field, value in sampler if isinstance(value, int | float) and not isinstance(value, bool)]


def _free_numbers(index: int, item: NamedSampler, vocab_size: int) -> list[Number]:
    """Return the numeric options of one sampler that can be inputs: all of them, or none."""
    numbers = _numbers(0, item.sampler)
    for candidates in (numbers, []) if numbers else ([],):
        if _trace([item], candidates, vocab_size) is not None:
            return [(index, field) for _, field in candidates]
    raise SettingError(f"sampler {item.name!r}: cannot be traced into a graph; set `traceable = False` in its class")


def _labels(numbers: Sequence[Number], chain: Chain) -> list[str]:
    """Return the names of the inputs: `top-p.p`, and `top-p-2.p` for the second sampler of the same name."""
    names = [item.name for item in chain]
    counts = [names[: index + 1].count(names[index]) for index, _ in numbers]
    return [
        f"{names[index]}{f'-{count}' if count > 1 else ''}.{field}" for (index, field), count in zip(numbers, counts, strict=True)
    ]


def _described(index: int, item: NamedSampler, labels: dict[Number, str], limits: Mapping[str | None, Limits]) -> dict[str, Any]:
    """Return the description of one sampler for the certificate."""
    inputs = {field: label for (owner, field), label in labels.items() if owner == index}
    bounds = {field: limits[label] for field, label in inputs.items() if limits[label] != [None, None]}
    values, fixed = ({field: value for field, value in item.sampler if (field in inputs) == free} for free in (True, False))
    return {"name": item.name, "inputs": inputs, "limits": bounds, "values": values, "fixed": fixed}


def _trace(chain: Chain, numbers: Sequence[Number], vocab_size: int) -> ir.Graph | None:
    """Return the graph, or None if torch cannot trace the chain with these numbers as inputs.

    Raises:
        MemoryError: memory ran out.
    """
    values = [getattr(chain[index].sampler, field) for index, field in numbers]
    tensors = [torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64) for value in values]
    logits, uniform, ids = torch.zeros(2, vocab_size), torch.zeros(2, 1).double(), torch.zeros(2, 7).long()
    example = (logits, uniform, ids, torch.tensor(3), tensors)
    rows = {0: "batch_size"}
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                ChainModule(chain, numbers).eval(),
                example,
                input_names=["logits", "uniform", "text_ids", "prompt_length", *_labels(numbers, chain)],
                output_names=["next_ids"],
                dynamic_shapes=(rows, rows, {0: "batch_size", 1: TEXT_LENGTH}, {}, [{}] * len(tensors)),
                opset_version=18,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
            assert program is not None  # it is None only when writing to a file
            optimizer.optimize(program.model)
    except Terminated:
        raise
    except (torch.onnx.errors.OnnxExporterError, SystemExit) as error:  # a plugin may call sys.exit
        if out_of_memory(error):
            raise MemoryError from error
        return None
    return _renamed(program.model.graph)


def _renamed(graph: ir.Graph) -> ir.Graph:
    """Add a prefix to all names so that they differ from the model's, and remove metadata about the machine that traced it."""
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
