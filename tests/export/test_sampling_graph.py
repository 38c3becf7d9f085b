"""Samplers inside the ONNX graph, weights in fewer bits, and what runs without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from pydantic import Field
from samples import save_checkpoint, some_ids

from gpt2demo import plugins
from gpt2demo.config import ModelConfig
from gpt2demo.engines.exported import check_export
from gpt2demo.engines.onnx import TYPES, OnnxEngine, limited
from gpt2demo.errors import CheckpointError, ExportError, SettingError
from gpt2demo.export.export import export_model
from gpt2demo.export.onnx import certificate, continuations, sampling
from gpt2demo.export.onnx.protobuf import weight_places
from gpt2demo.export.onnx.quantization import BLOCKS, quantize
from gpt2demo.generation.load import load
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.draw import inverse
from gpt2demo.storage import sha256

STANDARD = ["temperature:value=0.7", "top-k:k=50", "top-p:p=0.9"]
ALL = [*STANDARD, "min-p", "typical", "epsilon", "eta", "repetition-penalty", "frequency-penalty", "presence-penalty"]
STRUCTURAL = "no-repeat-ngram:size=3"  # the size decides about the graph's form


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a chain of nearly everything."""
    chain = [*ALL, STRUCTURAL]
    return export_model(source, output=tmp_path_factory.mktemp("exports") / "tiny", samplers=chain, report=lambda line: None)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Sampler]]:
    """A place for samplers of a test's own."""
    own: dict[str, type[Sampler]] = {}
    real = plugins.registry().part
    monkeypatch.setattr(plugins.registry(), "part", lambda kind, name: own[name] if name in own else real(kind, name))
    return own


# ---------------------------------------------------------------------------------------------- samplers in the graph


def test_what_is_drawn_inside_is_what_the_samplers_draw_outside(exported: Path, source: Path) -> None:
    """Ten samplers with numbers as inputs of the graph, one whose number is fixed."""
    written = json.loads((exported / "gpt2demo.json").read_text())
    assert written["sampled"]["equal_tokens"] == written["sampled"]["tokens"] == 24
    steps = {step["name"]: step for step in written["samplers"]}
    limits = {"p": [pytest.approx(1e-4), None]}
    assert steps["top-p"] == {"name": "top-p", "inputs": {"p": "top-p.p"}, "limits": limits, "values": {"p": 0.9}, "fixed": {}}
    assert steps["no-repeat-ngram"]["fixed"] == {"size": 3}


@pytest.mark.parametrize("spec", [*ALL, STRUCTURAL])
def test_each_sampler_alone_is_the_same_inside_and_outside(spec: str) -> None:
    """Other numbers than at the export, and thousands of rows, a third of them with something ruled out."""
    traced = sampling.trace([spec], 40)
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 40, generator=rng) * 3
    logits[:1000][torch.rand(1000, 40, generator=rng) < 0.5] = -torch.inf
    logits[:, 7] = 1.0
    uniform = torch.rand(3000, 1, generator=rng, dtype=torch.float64)
    text = torch.randint(0, 40, (3000, 9), generator=rng)
    same = drawn_inside(traced, spec, logits, uniform, text) == drawn_outside(spec, logits, uniform, text)
    assert same.mean() > 0.999  # on a border between two tokens rounding may take either


@pytest.mark.parametrize("spec", ["typical", "eta"])
def test_a_limit_that_follows_the_entropy_is_the_same_over_a_large_vocabulary(spec: str) -> None:
    """With an entropy in float32, whose last digits depend on the order of the sum, one of these rows gives another token."""
    rng = torch.Generator().manual_seed(13)
    logits = torch.randn(50, 50_257, generator=rng) * 3
    uniform = torch.rand(50, 1, generator=rng, dtype=torch.float64)
    text = torch.zeros(50, 1, dtype=torch.int64)
    inside = drawn_inside(sampling.trace([spec], 50_257), spec, logits, uniform, text)
    assert inside.tolist() == drawn_outside(spec, logits, uniform, text).tolist()


@pytest.mark.parametrize("size", [1, 2, 4, 9, 20])
def test_ngrams_are_not_repeated_behind_a_text_of_any_length(size: int) -> None:
    """Also behind one that is shorter than an n-gram, and longer than the text that the trace saw."""
    spec = f"no-repeat-ngram:size={size}"
    traced = sampling.trace([spec], 12)
    rng = torch.Generator().manual_seed(0)
    for length in (1, 2, 3, 6, 8, 21, 40):
        logits = torch.randn(300, 12, generator=rng)
        uniform = torch.rand(300, 1, generator=rng, dtype=torch.float64)
        text = torch.arange(length).repeat(300, 1) % torch.tensor([2, 3, 5]).repeat(100)[:, None]
        inside = drawn_inside(traced, spec, logits, uniform, text)
        assert inside.tolist() == drawn_outside(spec, logits, uniform, text).tolist(), length


def drawn_outside(spec: str, logits: torch.Tensor, uniform: torch.Tensor, text: torch.Tensor) -> Any:
    """What PyTorch draws, (B, 1)."""
    return inverse(plugins.create_sampler(spec)(logits, SamplingContext(text, 4)), uniform).numpy()


def drawn_inside(traced: sampling.Traced, spec: str, logits: torch.Tensor, uniform: torch.Tensor, text: torch.Tensor) -> Any:
    """What the graph of one sampler draws with this sampler's numbers, (B, 1)."""
    session, (step,), sampler = session_of(traced), traced.chain, plugins.create_sampler(spec)
    given = {"logits": logits, "uniform": uniform, "text_ids": text, "prompt_length": torch.tensor(4)}
    wanted = {value.name: value for value in session.get_inputs()}
    inputs = {key: value.numpy() for key, value in given.items()}
    for field, key in step["inputs"].items():
        number = limited(getattr(sampler, field), *step["limits"].get(field, (None, None)))
        inputs[key] = np.full(wanted[key].shape, number, TYPES[wanted[key].type])
    (drawn,) = session.run(None, {key: value for key, value in inputs.items() if key in wanted})
    return drawn


def session_of(traced: sampling.Traced) -> onnxruntime.InferenceSession:
    """A traced chain alone in onnxruntime."""
    model = ir.Model(traced.graph, ir_version=10)
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def test_numbers_can_change_from_draw_to_draw(exported: Path) -> None:
    """The graph is one; temperature, top-k and the rest are its inputs."""
    engine = OnnxEngine(exported, "cpu")
    chain = [(step["name"], step["values"] | step["fixed"]) for step in engine.exported.chain or []]
    assert engine.takes(chain)
    wild = [(name, {**options, **({"value": 5.0} if name == "temperature" else {})}) for name, options in chain]
    prompt = some_ids(1, 8)
    calm = [continuations.sampled_inside(engine, chosen, prompt, 20) for chosen in (chain, wild, chain)]
    assert calm[0] == calm[2] != calm[1]
    assert not engine.takes(chain[:-1])
    assert not engine.takes([*chain[:-1], ("no-repeat-ngram", {"size": 4})])  # fixed at the export


def test_a_batch_draws_what_its_rows_draw_alone(exported: Path) -> None:
    engine = OnnxEngine(exported, "cpu")
    engine.set_options([(step["name"], step["values"] | step["fixed"]) for step in engine.exported.chain or []])
    prompts, uniform = some_ids(4, 10), [0.1, 0.5, 0.9, 0.3]
    together = engine.draw(prompts, uniform, prompts, 10).tolist()
    alone = []
    for row, number in zip(prompts, uniform, strict=True):
        engine.reset()
        alone += engine.draw(row[None], [number], row[None], 10).tolist()
    assert together == alone


def test_a_plugins_sampler_is_traced_like_any_other(registered: dict[str, type[Sampler]], source: Path, tmp_path: Path) -> None:
    class Floor(Sampler):
        """Keep what is within a distance of the best."""

        distance: float = Field(2.0, ge=0, description="how far below the best")

        def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
            return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - self.distance, -torch.inf)

    registered["floor"] = Floor
    folder = export_model(source, output=tmp_path / "floor", samplers=["floor:distance=1.5"], report=lambda line: None)
    written = json.loads((folder / "gpt2demo.json").read_text())
    assert written["samplers"][0]["inputs"] == {"distance": "floor.distance"}
    assert written["sampled"]["equal_tokens"] == 24


def test_numbers_are_made_ready_before_they_go_in(registered: dict[str, type[Sampler]]) -> None:
    """Limits and types of a number that is read once leave the graph; one that is read twice stays as it is."""

    class Bounded(Sampler):
        low: float = Field(1.0, description="never below a half, never above two")
        other: float = Field(1.0, description="read twice")

        def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
            low: Any = self.low
            other: Any = self.other
            return logits * low.clamp(min=0.5, max=2.0) + other.clamp(min=0.25) - other

    registered["bounded"] = Bounded
    traced = sampling.trace(["bounded"], 8)
    assert traced.chain[0]["limits"] == {"low": [0.5, 2.0]}
    kinds = {value.name: value.dtype for value in traced.graph.inputs}
    assert kinds["bounded.low"] == ir.DataType.FLOAT
    assert kinds["bounded.other"] == ir.DataType.DOUBLE
    assert "Clip" not in [node.op_type for node in traced.graph]


def test_what_cannot_be_part_of_a_graph_is_named(registered: dict[str, type[Sampler]]) -> None:
    class Moody(Sampler):
        traceable = False

    class Hasty(Sampler):
        def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
            return logits if float(logits.sum()) > 0 else -logits

    class Patient(Sampler):
        def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
            return logits if context.ids.shape[1] < 60 else -logits

    registered |= {"moody": Moody, "hasty": Hasty, "patient": Patient}
    with pytest.raises(SettingError, match="sampler 'moody': .* cannot be part of a graph"):
        sampling.trace(["temperature", "moody"], 50)
    with pytest.raises(SettingError, match="sampler 'hasty': cannot be traced .* `traceable = False`"):
        sampling.trace(["temperature", "hasty"], 50)
    with pytest.raises(SettingError, match="sampler 'patient': cannot be traced"):
        sampling.trace(["patient"], 50)


def test_an_option_that_nothing_reads_is_no_input(registered: dict[str, type[Sampler]], source: Path, tmp_path: Path) -> None:
    class Idle(Sampler):
        used: float = Field(2.0, description="is read")
        unused: float = Field(1.0, description="is not")

        def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
            return logits * self.used

    registered["idle"] = Idle
    folder = export_model(source, output=tmp_path / "idle", samplers=["idle"], report=lambda line: None)
    (step,) = json.loads((folder / "gpt2demo.json").read_text())["samplers"]
    assert (step["inputs"], step["fixed"]) == ({"used": "idle.used"}, {"unused": 1.0})


def test_the_exporter_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """torch prints whole programs when a trace fails, and the size of an n-gram makes the first one fail."""
    assert sampling.trace(["temperature", STRUCTURAL], 50).chain[1]["fixed"] == {"size": 3}
    assert capfd.readouterr() == ("", "")


def test_samplers_that_differ_inside_fail_the_proof(exported: Path, source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    graph = onnx.load(folder / "generate.onnx", load_external_data=False)
    for node in graph.graph.node:
        if node.name.startswith("samplers.") and node.op_type == "TopK":
            next(attribute for attribute in node.attribute if attribute.name == "largest").i = 0
    forged(folder, graph)
    model = load(source, device="cpu").engine.model  # type: ignore[attr-defined]
    with pytest.raises(ExportError, match=r"generate\.onnx does not draw as the samplers beside PyTorch do: token \d+"):
        continuations.compare_sampled(model, OnnxEngine(folder, "cpu"), some_ids(30), 256)


# ---------------------------------------------------------------------------------------------- one set of weights


def test_the_second_graph_has_no_weights_of_its_own(exported: Path) -> None:
    assert (exported / "generate.onnx").stat().st_size < 100_000
    places = weight_places(exported / "model.onnx")
    content = (exported / "model.onnx").read_bytes()
    for weight in onnx.load(exported / "model.onnx").graph.initializer:
        offset, length = places[weight.name]
        assert content[offset : offset + length] == weight.raw_data
    shared = [w for w in onnx.load(exported / "generate.onnx", load_external_data=False).graph.initializer if w.external_data]
    assert {w.name for w in shared} >= {"wte.weight", "h.1.mlp.c_fc.weight"}
    assert {entry.value for w in shared for entry in w.external_data if entry.key == "location"} == {"model.onnx"}


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "model.onnx.other", "sub/model.onnx", "MODEL.ONNX", ""])
def test_weights_from_anywhere_else_are_refused(exported: Path, tmp_path: Path, location: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    graph = onnx.load(folder / "generate.onnx", load_external_data=False)
    next(w for w in graph.graph.initializer if w.external_data).external_data[0].value = location
    forged(folder, graph)
    with pytest.raises(CheckpointError, match=r"generate\.onnx: keeps weights in other files"):
        check_export(folder)


def forged(folder: Path, graph: onnx.ModelProto) -> None:
    """Put another generate.onnx into a folder, and its checksum into the certificate."""
    (folder / "generate.onnx").write_bytes(graph.SerializeToString())
    written = json.loads((folder / "gpt2demo.json").read_text())
    written["files"]["generate.onnx"]["sha256"] = sha256(folder / "generate.onnx")
    (folder / "gpt2demo.json").write_text(json.dumps(written))


# ---------------------------------------------------------------------------------------------- fewer bits


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_by_at_most_half_a_step(bits: int) -> None:
    """A whole step at the far end of the shorter side; the number of largest magnitude is met exactly."""
    matrix = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    matrix[3] = 0
    found = quantize(matrix, bits)
    numbers = found.blocks if bits == 8 else np.stack([found.blocks & 15, found.blocks >> 4], -1)
    restored = (numbers.reshape(20, -1, found.block).astype(np.float32) - 2 ** (bits - 1)) * found.scales[..., None]
    cut = matrix.reshape(restored.shape)
    steps = np.abs(cut - restored) / np.abs(found.scales[..., None])
    assert steps.max() <= 1.0001
    assert np.quantile(steps, 0.99) <= 0.5001
    extreme = np.abs(cut).argmax(-1)[..., None]
    np.testing.assert_allclose(np.take_along_axis(restored, extreme, -1), np.take_along_axis(cut, extreme, -1), rtol=1e-6)


def test_a_width_without_blocks_is_refused() -> None:
    with pytest.raises(SettingError, match=f"width of 20 is not divisible by {BLOCKS[8][-1]}"):
        quantize(np.zeros((4, 20), np.float32), 8)


@pytest.mark.parametrize(("dtype", "smaller"), [("fp16", 1.8), ("int8", 2.5), ("int4", 2.6)])
def test_fewer_bits_are_smaller_and_near_enough(source: Path, tmp_path: Path, dtype: str, smaller: float, exported: Path) -> None:
    """The file shrinks as far as a model of 30 thousand parameters lets it: scales and the graph itself weigh in."""
    folder = export_model(source, output=tmp_path / dtype, dtype=dtype, samplers=["temperature"], report=lambda line: None)
    written = json.loads((folder / "gpt2demo.json").read_text())
    assert written["dtype"] == dtype
    assert all(row["kl_divergence"] <= written["limits"]["kl_divergence"] for row in written["comparisons"])
    assert written["sampled"]["equal_tokens"] == written["sampled"]["tokens"]
    size = written["files"]["model.onnx"]["bytes"]
    assert size * smaller < (exported / "model.onnx").stat().st_size
    assert "".join(load(folder).generate("Once", max_new_tokens=20, temperature=0))


def test_rounding_that_costs_too_much_fails_the_export(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(certificate.ROUNDED, "int4", (1e-9, 1.1))
    with pytest.raises(ExportError, match=r"the distributions diverge by .* nats, the limit is 1e-09"):
        export_model(source, output=tmp_path / "exports" / "int4", dtype="int4", report=lambda line: None)
    monkeypatch.setitem(certificate.ROUNDED, "int4", (9.0, 0.5))
    with pytest.raises(ExportError, match="perplexity .* choose a larger --dtype"):
        export_model(source, output=tmp_path / "exports" / "int4", dtype="int4", report=lambda line: None)
    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_heads_of_any_width_can_be_exported(tmp_path: Path, dtype: str) -> None:
    """onnxruntime's attention takes multiples of 8; these heads have 12 and become 16 wide."""
    shape = ModelConfig(vocab_size=256, n_positions=32, n_embd=48, n_head=4, n_layer=2)
    folder = export_model(
        save_checkpoint(tmp_path / "odd", shape=shape), output=tmp_path / "out", dtype=dtype, report=lambda line: None
    )
    written = json.loads((folder / "gpt2demo.json").read_text())
    assert written["head_dim"] == 16
    assert all(row["largest_difference"] < (1e-4 if dtype == "fp32" else 1) for row in written["comparisons"])
    program = f"import runpy, sys; sys.argv = ['run.py', 'Once']; runpy.run_path({str(folder / 'run.py')!r}, run_name='__main__')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.startswith(b"Once")


# ---------------------------------------------------------------------------------------------- without torch


def test_run_py_needs_nothing_of_ours(exported: Path) -> None:
    program = f"""
import runpy, sys
sys.argv = ["run.py", "Once upon", "--seed", "1", "--temperature.value", "0.5"]
runpy.run_path({str(exported / "run.py")!r}, run_name="__main__")
assert not {{"torch", "gpt2demo", "gradio", "transformers"}} & set(sys.modules), "too much is imported"
"""
    done = [subprocess.run([sys.executable, "-c", program], capture_output=True, check=False) for _ in range(2)]
    assert done[0].returncode == 0, done[0].stderr.decode()
    assert done[0].stdout.startswith(b"Once upon")
    assert len(done[0].stdout) > 100  # past the 48 positions of the context
    assert done[0].stdout == done[1].stdout


@pytest.mark.parametrize("words", [["--top-p", "0.9"], ["--seed", "x"], ["--top-p.p", "high"], ["one", "two"]])
def test_run_py_refuses_what_it_does_not_know(exported: Path, words: list[str]) -> None:
    done = subprocess.run([sys.executable, str(exported / "run.py"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("run.py: error: ")


def test_run_py_tells_its_options(exported: Path) -> None:
    done = subprocess.run([sys.executable, str(exported / "run.py"), "--help"], capture_output=True, text=True, check=True)
    assert "--top-p.p X" in done.stdout
    assert "default: 0.9" in done.stdout


def test_an_export_of_the_default_chain_writes_without_torch(source: Path, tmp_path: Path) -> None:
    folder = export_model(source, output=tmp_path / "default", report=lambda line: None)
    assert check_export(folder).chain
    program = f"""
import sys
from gpt2demo.cli import main
sys.argv = ["gpt2demo", "--no-plugins", "generate", {str(folder)!r}, "--prompt", "Once", "--seed", "1", "--top-p", "0.8", "--temperature", "0.9", "--json"]
try:
    main()
except SystemExit as end:
    assert not end.code
assert not {{"torch", "gradio", "transformers", "onnx"}} & set(sys.modules), "too much is imported"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    beside_torch = "".join(load(source, device="cpu").generate("Once", seed=1, temperature=0.9, top_p=0.8))
    assert json.loads(done.stdout)["text"] == beside_torch
