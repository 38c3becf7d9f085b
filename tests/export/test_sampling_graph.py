"""Sampler chains traced into generate.onnx draw the same tokens as in Python."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx_files import update_checksum
from pydantic import Field
from samples import some_ids
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.engines.exported import check_export
from gpt2demo.engines.onnx import TYPES, OnnxEngine, clamp
from gpt2demo.errors import CheckpointError, ExportError, SettingError
from gpt2demo.export.export import export_model
from gpt2demo.export.onnx import continuations
from gpt2demo.export.onnx.protobuf import weight_ranges
from gpt2demo.export.onnx.sampling import Traced, trace
from gpt2demo.generation.load import load
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.chains import create_chain
from gpt2demo.sampling.draw import inverse
from gpt2demo.sampling.ranking import SMALL, run_sampler

STANDARD = ["temperature:value=0.7", "top-k:k=50", "top-p:p=0.9"]
ALL = [*STANDARD, "min-p", "typical", "epsilon", "eta", "repetition-penalty", "frequency-penalty", "presence-penalty"]
STRUCTURAL = "no-repeat-ngram:size=3"  # the size determines the structure of the graph
EXPORTED = [*STANDARD, "repetition-penalty", "frequency-penalty", STRUCTURAL]
PROMPT_LENGTH = 4


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a model with samplers that read the logits, the text or the prompt length, and one with a fixed option."""
    output = tmp_path_factory.mktemp("exports") / "tiny"
    return export_model(tiny_checkpoint, output=output, samplers=EXPORTED, report=lambda line: None)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Sampler]]:
    """Return a dict whose samplers are registered by name."""
    added: dict[str, type[Sampler]] = {}
    part = plugins.registry().part
    monkeypatch.setattr(plugins.registry(), "part", lambda kind, name: added[name] if name in added else part(kind, name))
    return added


def draw_outside(specs: list[str], logits: Tensor, uniform: Tensor, text: Tensor) -> Any:
    """Return the ids (B, 1) drawn in Python."""
    ranking, logits = None, logits.clone()
    for item in create_chain(specs):
        logits, ranking = run_sampler(item.sampler, logits, SamplingContext(text, PROMPT_LENGTH), ranking)
    return inverse(logits, uniform, ranking).numpy()


def draw_inside(traced: Traced, specs: list[str], logits: Tensor, uniform: Tensor, text: Tensor) -> Any:
    """Return the ids (B, 1) drawn in the graph with these options."""
    model = ir.to_proto(ir.Model(traced.graph, ir_version=10))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {value.name: value for value in session.get_inputs()}
    tensors = {"logits": logits, "uniform": uniform, "text_ids": text, "prompt_length": torch.tensor(PROMPT_LENGTH)}
    values = {key: value.numpy() for key, value in tensors.items()}
    for described, item in zip(traced.samplers, create_chain(specs), strict=True):
        for field, key in described["inputs"].items():
            number = clamp(getattr(item.sampler, field), *described["limits"].get(field, (None, None)))
            values[key] = np.full(inputs[key].shape, number, TYPES[inputs[key].type])
    (drawn,) = session.run(None, {key: value for key, value in values.items() if key in inputs})
    return drawn


# ---------------------------------------------------------------------------------------------- built-in samplers


@pytest.mark.parametrize("spec", ALL)
def test_each_sampler_draws_the_same_inside_and_outside(spec: str) -> None:
    """With thousands of rows, in a third of which tokens are ruled out."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 40, generator=rng) * 3
    logits[:1000][torch.rand(1000, 40, generator=rng) < 0.5] = -torch.inf
    logits[:, 7] = 1.0
    uniform = torch.rand(3000, 1, generator=rng, dtype=torch.float64)
    text = torch.randint(0, 40, (3000, 9), generator=rng)
    traced = trace(create_chain([spec]), 40)
    same = draw_inside(traced, [spec], logits, uniform, text) == draw_outside([spec], logits, uniform, text)
    assert same.mean() > 0.999  # near a border between two tokens rounding may decide


@pytest.mark.parametrize(("width", "operators"), [(256, 16), (50_257, 17)])
def test_the_standard_chain_is_a_small_graph_with_the_same_draws(width: int, operators: int) -> None:
    """top-p uses the order that top-k has found."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(200, width, generator=rng) * 3
    uniform = torch.rand(200, 1, generator=rng, dtype=torch.float64)
    text = torch.zeros(200, 1, dtype=torch.int64)
    traced = trace(create_chain(STANDARD), width)
    counts = Counter(node.op_type for node in traced.graph)
    assert counts.total() <= operators
    assert counts["TopK"] == (1 if width <= SMALL else 2), "the second one sorts the few tokens left by id"
    inside = draw_inside(traced, STANDARD, logits, uniform, text)
    assert inside.tolist() == draw_outside(STANDARD, logits, uniform, text).tolist()


@pytest.mark.parametrize("spec", ["temperature:value=0.8", "typical", "eta"])
def test_a_large_vocabulary_gives_the_same_draws(spec: str) -> None:
    """In float32 the sums of entropies and probabilities depend on their order, which would change a draw."""
    rng = torch.Generator().manual_seed(13)
    logits = torch.randn(50, 50_257, generator=rng) * 3
    uniform = torch.rand(50, 1, generator=rng, dtype=torch.float64)
    text = torch.zeros(50, 1, dtype=torch.int64)
    inside = draw_inside(trace(create_chain([spec]), 50_257), [spec], logits, uniform, text)
    assert inside.tolist() == draw_outside([spec], logits, uniform, text).tolist()


@pytest.mark.parametrize("size", [1, 9])
def test_ngrams_are_not_repeated_after_a_text_of_any_length(size: int) -> None:
    """Also after texts shorter than an n-gram, and longer than the one in the trace."""
    spec = f"no-repeat-ngram:size={size}"
    traced = trace(create_chain([spec]), 12)
    rng = torch.Generator().manual_seed(0)
    for length in (1, 2, 3, 6, 8, 21, 40):
        logits = torch.randn(300, 12, generator=rng)
        uniform = torch.rand(300, 1, generator=rng, dtype=torch.float64)
        text = torch.arange(length).repeat(300, 1) % torch.tensor([2, 3, 5]).repeat(100)[:, None]
        inside = draw_inside(traced, [spec], logits, uniform, text)
        assert inside.tolist() == draw_outside([spec], logits, uniform, text).tolist(), length


def test_the_certificate_describes_the_samplers_and_their_draws(exported: Path) -> None:
    certificate = json.loads((exported / "gpt2demo.json").read_text())
    assert certificate["sampled"]["equal_tokens"] == certificate["sampled"]["tokens"] == 24
    samplers = {item["name"]: item for item in certificate["samplers"]}
    limits = {"p": [pytest.approx(1e-4), None]}
    assert samplers["top-p"] == {
        "name": "top-p",
        "inputs": {"p": "top-p.p"},
        "limits": limits,
        "values": {"p": 0.9},
        "fixed": {},
    }
    assert samplers["no-repeat-ngram"]["fixed"] == {"size": 3}


def test_options_can_change_from_draw_to_draw(exported: Path) -> None:
    engine = OnnxEngine(exported, "cpu")
    chain = [(item["name"], item["values"] | item["fixed"]) for item in engine.exported.samplers or []]
    hot = [(name, {**options, **({"value": 5.0} if name == "temperature" else {})}) for name, options in chain]
    texts = [continuations.sampled_inside(engine, options, some_ids(1, 8), 20) for options in (chain, hot, chain)]
    assert texts[0] == texts[2] != texts[1]


def test_only_the_exported_chain_is_accepted(exported: Path) -> None:
    engine = OnnxEngine(exported, "cpu")
    chain = [(item["name"], item["values"] | item["fixed"]) for item in engine.exported.samplers or []]
    assert engine.takes(chain)
    assert not engine.takes(chain[:-1])
    assert not engine.takes([*chain[:-1], ("no-repeat-ngram", {"size": 4})]), "a fixed option"


def test_a_batch_draws_what_its_rows_draw_alone(exported: Path) -> None:
    engine = OnnxEngine(exported, "cpu")
    engine.set_options([(item["name"], item["values"] | item["fixed"]) for item in engine.exported.samplers or []])
    prompts, uniform = some_ids(4, 10), [0.1, 0.5, 0.9, 0.3]
    together = engine.draw(prompts, uniform, prompts, 10).tolist()
    alone = []
    for row, number in zip(prompts, uniform, strict=True):
        engine.reset()
        alone += engine.draw(row[None], [number], row[None], 10).tolist()
    assert together == alone


# ---------------------------------------------------------------------------------------------- samplers of plugins


class Floor(Sampler):
    """Keep the tokens within a distance of the largest logit."""

    distance: float = Field(2.0, ge=0, description="maximum distance")
    unused: float = Field(1.0, description="never read")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - self.distance, -torch.inf)


def test_a_plugins_sampler_is_exported(registered: dict[str, type[Sampler]], tiny_checkpoint: Path, tmp_path: Path) -> None:
    registered["floor"] = Floor
    folder = export_model(tiny_checkpoint, output=tmp_path / "floor", samplers=["floor:distance=1.5"], report=lambda line: None)
    certificate = json.loads((folder / "gpt2demo.json").read_text())
    assert certificate["sampled"]["equal_tokens"] == 24
    (described,) = certificate["samplers"]
    assert described["inputs"] == {"distance": "floor.distance"}
    assert described["fixed"] == {"unused": 1.0}, "an option that is never read is not an input"


class Ban(Sampler):
    """Rule out token 3 in a copy of the logits."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill(torch.arange(logits.shape[-1]) == 3, -torch.inf)


class BanInPlace(Sampler):
    """Rule out token 3 in place."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        logits[:, 3] = -torch.inf
        return logits


@pytest.mark.parametrize("width", [40, SMALL + 1])
@pytest.mark.parametrize("cls", [Ban, BanInPlace])
def test_logits_that_a_plugin_changes_after_top_k_are_the_ones_drawn_from(
    registered: dict[str, type[Sampler]], cls: type[Sampler], width: int
) -> None:
    """The most likely token is ruled out: a stale ranking would still contain it."""
    registered["ban"] = cls
    specs = ["top-k:k=5", "ban", "top-p:p=0.99"]
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(50, width, generator=rng)
    logits[:, 3] = 9.0
    uniform = torch.rand(50, 1, generator=rng, dtype=torch.float64)
    text = torch.zeros(50, 1, dtype=torch.int64)
    inside = draw_inside(trace(create_chain(specs), width), specs, logits, uniform, text)
    assert 3 not in inside
    assert inside.tolist() == draw_outside(specs, logits, uniform, text).tolist()


def test_limits_and_casts_of_options_are_applied_outside_the_graph(registered: dict[str, type[Sampler]]) -> None:
    """If an option is read once. The graph of an option that is read twice is unchanged."""

    class Bounded(Sampler):
        once: float = Field(1.0, description="between ½ and 2")
        twice: float = Field(1.0, description="read twice")

        def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
            once: Any = self.once
            twice: Any = self.twice
            return logits * once.clamp(min=0.5, max=2.0) + twice.clamp(min=0.25) - twice

    registered["bounded"] = Bounded
    traced = trace(create_chain(["bounded"]), 8)
    assert traced.samplers[0]["limits"] == {"once": [0.5, 2.0]}
    dtypes = {value.name: value.dtype for value in traced.graph.inputs}
    assert dtypes["bounded.once"] == ir.DataType.FLOAT
    assert dtypes["bounded.twice"] == ir.DataType.DOUBLE
    assert "Clip" not in [node.op_type for node in traced.graph]


class Stateful(Sampler):
    """A sampler that is declared not to be traceable."""

    traceable = False


class ValueBranch(Sampler):
    """A sampler that branches on the logits."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits if float(logits.sum()) > 0 else -logits


class LengthBranch(Sampler):
    """A sampler that branches on the length of the text."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits if context.ids.shape[1] < 60 else -logits


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Stateful, "sampler 'plugin': .* cannot be part of a graph"),
        (ValueBranch, "sampler 'plugin': cannot be traced .* `traceable = False`"),
        (LengthBranch, "sampler 'plugin': cannot be traced"),
    ],
)
def test_a_sampler_that_cannot_be_traced_is_named(registered: dict[str, type[Sampler]], cls: type[Sampler], message: str) -> None:
    registered["plugin"] = cls
    with pytest.raises(SettingError, match=message):
        trace(create_chain(["plugin"]), 50)


def test_tracing_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """torch prints the whole program when a trace fails, as the first one does with this option."""
    assert trace(create_chain([STRUCTURAL]), 50).samplers[0]["fixed"] == {"size": 3}
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------- generate.onnx


def test_a_different_draw_in_the_graph_fails_the_verification(exported: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    graph = onnx.load(folder / "generate.onnx", load_external_data=False)
    for node in graph.graph.node:
        if node.name.startswith("samplers.") and node.op_type == "TopK":
            next(attribute for attribute in node.attribute if attribute.name == "largest").i = 0
    replace_graph(folder, graph)
    engine = load(tiny_checkpoint, device="cpu").engine
    with pytest.raises(ExportError, match=r"generate\.onnx does not draw the same tokens as the samplers in PyTorch: token \d+"):
        continuations.compare_sampled(lambda: engine, OnnxEngine(folder, "cpu"), some_ids(30), 256)


def test_the_weights_of_generate_onnx_are_those_in_model_onnx(exported: Path) -> None:
    assert (exported / "generate.onnx").stat().st_size < 100_000
    ranges = weight_ranges(exported / "model.onnx")
    content = (exported / "model.onnx").read_bytes()
    for weight in onnx.load(exported / "model.onnx").graph.initializer:
        offset, length = ranges[weight.name]
        assert content[offset : offset + length] == weight.raw_data
    shared = [w for w in onnx.load(exported / "generate.onnx", load_external_data=False).graph.initializer if w.external_data]
    assert {w.name for w in shared} >= {"wte.weight", "h.1.mlp.c_fc.weight"}
    assert {entry.value for w in shared for entry in w.external_data if entry.key == "location"} == {"model.onnx"}


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "model.onnx.other", "sub/model.onnx", "MODEL.ONNX", ""])
def test_weights_in_other_files_are_refused(exported: Path, tmp_path: Path, location: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    graph = onnx.load(folder / "generate.onnx", load_external_data=False)
    next(w for w in graph.graph.initializer if w.external_data).external_data[0].value = location
    replace_graph(folder, graph)
    with pytest.raises(CheckpointError, match=r"generate\.onnx loads weights from other files"):
        check_export(folder)


def replace_graph(folder: Path, graph: onnx.ModelProto) -> None:
    """Replace generate.onnx and its checksum."""
    (folder / "generate.onnx").write_bytes(graph.SerializeToString())
    update_checksum(folder, "generate.onnx")
