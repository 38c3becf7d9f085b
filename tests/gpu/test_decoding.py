"""Both engines on a device: the provider that runs, equal logits in every mode, replayed steps, samplers, and the same text."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import some_ids

from gpt2demo.config import GenerateConfig
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.export.onnx.certificate import ROUNDED, read_modes, reference_logits
from gpt2demo.export.onnx.comparison import Comparison
from gpt2demo.generation.generate import Model
from gpt2demo.interfaces import Engine
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import load_model
from gpt2demo.sampling.chains import create_chain
from gpt2demo.sampling.draw import ChainRunner, Uniforms
from gpt2demo.tokenization.byte import ByteTokenizer

CLOSE = {"fp32": {"rtol": 0, "atol": 1e-3}, "fp16": {"rtol": 0, "atol": 5e-2}}  # of logits up to 10
CHAINS = [["temperature:value=0.8", "top-p:p=0.95"], ["top-k:k=40", "min-p:threshold=0.02"], ["typical:p=0.9"]]


def on(device: str, model: GPT2, **options: Any) -> TorchEngine:
    return TorchEngine(model.to(device), **options)


@pytest.fixture
def model(tiny_checkpoint: Path) -> GPT2:
    return load_model(tiny_checkpoint)


@pytest.fixture(params=["torch", "onnx"])
def engine(request: pytest.FixtureRequest, device: Any, model: GPT2, fp16_export: Path) -> Engine:
    return on(device, model) if request.param == "torch" else OnnxEngine(fp16_export, device)


def test_the_requested_device_runs_and_steps_are_replayed_on_a_gpu(engine: Any, device: str) -> None:
    engine.feed(some_ids(1, 5))
    engine.feed(some_ids(1, 1))
    assert engine.provider == {"torch": device, "onnx": f"{device.upper()}ExecutionProvider"}[engine.name]
    assert (engine.eager_reason is None) == (device == "cuda"), engine.eager_reason


@pytest.mark.parametrize("padding", [None, [0, 3, 11]])
def test_logits_are_those_of_the_model_up_to_the_end_of_the_context(
    engine: Any, tiny_checkpoint: Path, padding: list[int] | None
) -> None:
    """On a GPU, the first step of a number of rows is captured and the others are replayed."""
    close, ids = CLOSE["fp32" if engine.name == "torch" else "fp16"], some_ids(3, 48)
    starts = np.array(padding or [0, 0, 0])
    reference = load_model(tiny_checkpoint)
    expected = [reference_logits(reference, row[start:]) for row, start in zip(ids, starts, strict=True)]
    for _ in range(2):  # the second time, all steps are replayed
        engine.reset()
        found = [engine.feed(ids[:, :12], None if padding is None else starts).copy()]
        found += [engine.feed(column[:, None]).copy() for column in ids.T[12:]]
        for row, start in enumerate(starts):
            np.testing.assert_allclose([logits[row] for logits in found], expected[row][11 - start :], **close)


def test_batches_of_other_sizes_do_not_disturb_each_other(engine: Any, tiny_checkpoint: Path) -> None:
    close, reference = CLOSE["fp32" if engine.name == "torch" else "fp16"], load_model(tiny_checkpoint)
    for rows, width in [(1, 7), (4, 5), (1, 30), (2, 9)]:
        ids = some_ids(rows, width + 2, seed=rows)
        engine.reset()
        engine.feed(ids[:, :width])
        engine.feed(ids[:, width : width + 1])
        last = engine.feed(ids[:, width + 1 :])
        for row in range(rows):
            np.testing.assert_allclose(last[row], reference_logits(reference, ids[row])[-1], **close)


def test_replayed_steps_of_the_torch_engine_equal_growing_ones(device: Any, model: GPT2) -> None:
    fixed, growing = on(device, model, fixed_steps=True), on(device, model, fixed_steps=False)
    ids = some_ids(2, 48)
    for engine in (fixed, growing):
        engine.feed(ids[:, :5])
    for column in ids.T[5:]:
        np.testing.assert_allclose(fixed.feed(column[:, None]), growing.feed(column[:, None]), **CLOSE["fp32"])


def test_every_mode_of_an_fp16_export_keeps_the_limit_of_its_certificate(device: Any, model: GPT2, fp16_export: Path) -> None:
    engine, row = OnnxEngine(fp16_export, device), some_ids(48)
    for mode, pieces in read_modes(engine, row):
        comparison = Comparison(mode)
        for ids, first, measured in pieces:
            comparison.add(reference_logits(model, ids), measured, first)
        assert comparison.positions
        assert comparison.divergence_above(ROUNDED["fp16"][0]) is None


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"samplers": CHAINS[0]}], ids=["greedy", "sampled"])
def test_a_device_generates_the_text_of_the_cpu(
    device: Any, model: GPT2, fp16_export: Path, tiny_checkpoint: Path, settings: dict[str, Any]
) -> None:
    """Also past the end of the context, and with several rows. In fp16 a near tie may fall the other way, so the text is short."""
    prompts, config = ["Once", "upon a time", "x"], GenerateConfig.create(max_new_tokens=60, seed=4, **settings)

    def texts(engine: Engine) -> list[list[int]]:
        rows = Model(engine, ByteTokenizer(), "tiny", tiny_checkpoint).generate_batch(prompts, config)
        return [row.ids for row in rows]

    assert texts(on(device, model)) == texts(on("cpu", load_model(tiny_checkpoint)))
    onnx, cpu = (texts(OnnxEngine(fp16_export, where)) for where in (device, "cpu"))
    assert [ids[:8] for ids in onnx] == [ids[:8] for ids in cpu]


def test_samplers_inside_the_graph_draw_what_they_draw_outside(device: Any, fp16_export: Path) -> None:
    engine, ids = OnnxEngine(fp16_export, device), some_ids(4, 9)
    chain = create_chain(GenerateConfig.create(samplers=CHAINS[0]).chain)
    uniforms = [0.1, 0.35, 0.6, 0.85]
    engine.set_options([(item.name, item.sampler.model_dump()) for item in chain])
    assert (engine.eager_reason is None) == (device == "cuda"), engine.eager_reason
    inside = [engine.draw(ids[:, :7], uniforms, ids[:, :7], 7).tolist()]
    inside += [engine.draw(ids[:, end - 1 : end], uniforms, ids[:, :end], 7).tolist() for end in (8, 9)]
    for end, drawn in zip((7, 8, 9), inside, strict=True):
        runner = ChainRunner(chain, Fixed(uniforms), 7)
        logits = OnnxEngine(fp16_export, "cpu").feed(ids[:, :end])
        assert runner.draw(logits, ids[:, :end], range(4)).ids.tolist() == drawn


class Fixed(Uniforms):
    """The same numbers at every position."""

    def __init__(self, numbers: list[float]) -> None:
        self._numbers = numbers

    def at(self, position: int, rows: Any) -> list[float]:
        return self._numbers


@pytest.mark.parametrize("width", [300, 50_257])
@pytest.mark.parametrize("chain", CHAINS, ids=["top-p", "top-k", "typical"])
def test_samplers_draw_the_ids_of_the_cpu_and_wait_for_the_gpu_once(device: Any, chain: list[str], width: int) -> None:
    logits, text = torch.randn(3, width, generator=torch.Generator().manual_seed(0)) * 3, some_ids(3, 5)

    def ids(values: Any) -> list[int]:
        runner = ChainRunner(create_chain(GenerateConfig.create(samplers=chain).chain), Uniforms(7), 2)
        return runner.draw(values, text, range(3)).ids.tolist()

    expected, values = ids(logits.numpy()), logits.to(device)
    ids(values)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            assert ids(values) == expected
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchroniz" in str(wait.message)]) == (1 if device == "cuda" else 0)
