"""Traces: equal to the model, to a float64 reference, and to each other in several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from samples import SHAPE

from gpt2demo.errors import Error, SettingError
from gpt2demo.inspection import trace as module
from gpt2demo.inspection.anatomy import anatomy, lines
from gpt2demo.inspection.heads import head_scores, repeated_tokens
from gpt2demo.inspection.lens import logit_lens
from gpt2demo.inspection.trace import Trace, trace
from gpt2demo.model import GPT2

IDS = np.random.default_rng(0).integers(0, SHAPE.vocab_size, 20).tolist()


@pytest.fixture(scope="module")
def model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(SHAPE.with_changes(initializer_range=0.2, dropout=0.3))


@pytest.fixture(scope="module")
def found(model: GPT2) -> Trace:
    return trace(model, IDS)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def reference(model: GPT2, ids: list[int]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Compute residual stream, attention and logits in NumPy, in float64."""
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    T, C, H = len(ids), SHAPE.n_embd, SHAPE.n_head
    x = w["wte.weight"][ids] + w["wpe.weight"][:T]
    stream, attention = [x], []
    for layer in range(SHAPE.n_layer):

        def linear(x: np.ndarray, name: str, layer: int = layer) -> np.ndarray:
            return x @ w[f"h.{layer}.{name}.weight"].T + w[f"h.{layer}.{name}.bias"]

        def norm(x: np.ndarray, name: str, layer: int = layer) -> np.ndarray:
            return layer_norm(x, w[f"h.{layer}.{name}.weight"], w[f"h.{layer}.{name}.bias"])

        q, k, v = linear(norm(x, "ln_1"), "attn.c_attn").reshape(T, 3, H, C // H).transpose(1, 2, 0, 3)
        weights = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(C // H) + np.triu(np.full((T, T), -np.inf), 1))
        attention.append(weights)
        x = x + linear((weights @ v).transpose(1, 0, 2).reshape(T, C), "attn.c_proj")
        u = linear(norm(x, "ln_2"), "mlp.c_fc")
        x = x + linear(0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))), "mlp.c_proj")
        stream.append(x)
    return stream, attention, layer_norm(x, w["ln_f.weight"], w["ln_f.bias"]) @ w["wte.weight"].T


def test_a_trace_equals_a_float64_reference(model: GPT2, found: Trace) -> None:
    stream, attention, logits = reference(model, IDS)
    assert np.abs(found.logits.numpy() - logits).max() < 1e-5 * np.abs(logits).max()
    for layer, weights in enumerate(attention):
        assert found.attention(layer).numpy() == pytest.approx(weights, abs=1e-5)
    for recorded, expected in zip(found.stream.numpy(), stream, strict=True):
        assert np.abs(recorded - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_trace_leaves_the_model_as_it_is(model: GPT2) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, IDS)
    assert model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_threads_trace_one_model_at_the_same_time(model: GPT2) -> None:
    texts = [IDS[:count] for count in (3, 20, 7, 12)] * 5
    with ThreadPoolExecutor(4) as pool:
        traces = list(pool.map(lambda ids: trace(model, ids), texts))
    alone = {len(ids): trace(model, ids) for ids in texts}
    for found in traces:
        assert torch.equal(found.stream, alone[len(found.ids)].stream)
        assert all(torch.equal(*pair) for pair in zip(found.qkv, alone[len(found.ids)].qkv, strict=True))


def test_attention_that_the_model_did_not_compute_is_noticed(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return module.attention_weights_before(key, query)

    monkeypatch.setattr(module, "attention_weights_before", module.attention_weights, raising=False)
    monkeypatch.setattr(module, "attention_weights", backwards)
    with pytest.raises(Error, match="layer 0: the recorded attention differs from the model's"):
        trace(model, IDS)


@pytest.mark.parametrize("count", [0, SHAPE.n_positions + 1])
def test_a_text_must_fit_the_context(model: GPT2, count: int) -> None:
    with pytest.raises(SettingError, match=f"{count} tokens: the model reads from 1 to {SHAPE.n_positions}"):
        trace(model, [1] * count)


# ---------------------------------------------------------------------------------------------- views


def test_the_last_row_of_the_lens_is_the_model(found: Trace) -> None:
    rows = logit_lens(found, str)
    assert [row.layer for row in rows] == [0, 1, 2]
    probabilities = found.logits.softmax(-1)
    for position, guesses in enumerate(rows[-1].top):
        assert [guess.id for guess in guesses] == probabilities[position].topk(5).indices.tolist()
        assert guesses[0].probability == pytest.approx(float(probabilities[position].max()), rel=1e-5)
        assert guesses[0].text == str(guesses[0].id)
    ranks = [int((row > row[target]).sum()) for row, target in zip(found.logits, IDS[1:], strict=False)]
    assert rows[-1].ranks == ranks
    assert rows[0].norms == pytest.approx(found.stream[0].norm(dim=-1).tolist())


def test_even_attention_scores_as_chance(model: GPT2) -> None:
    """Queries of zero attend to all positions alike."""
    torch.manual_seed(0)
    flat = GPT2(SHAPE)
    with torch.no_grad():
        for block in flat.h:
            block.attn.c_attn.weight[: SHAPE.n_embd] = 0
    scores, chance = head_scores(trace(flat, IDS), flat)
    assert len(scores) == SHAPE.n_layer * SHAPE.n_head
    for score in scores:
        values = (score.previous_token, score.first_token, score.induction)
        assert values == pytest.approx((chance.previous_token, chance.first_token, chance.induction), abs=1e-6)


def test_heads_of_known_kinds_score_high(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is replaced: head 0 looks at the position before, head 1 at the first, head 2 after the earlier occurrence."""

    def attention(self: Trace, layer: int) -> torch.Tensor:
        T = len(self.ids)
        weights = torch.zeros(SHAPE.n_head, T, T)
        for i in range(T):
            earlier = [j + 1 for j in range(i) if self.ids[j] == self.ids[i]]
            for head, target in enumerate((max(0, i - 1), 0, earlier[0] if earlier else 0)):
                weights[head, i, target] = 1
        return weights

    monkeypatch.setattr(Trace, "attention", attention)
    distinct = list(range(12))
    monkeypatch.setattr("gpt2demo.inspection.heads.repeated_tokens", lambda length, size: distinct[:length] * 2)
    monkeypatch.setattr(
        "gpt2demo.inspection.heads.trace", lambda model, ids: Trace(model, torch.tensor(ids), *[torch.empty(0)] * 3)
    )
    scores, _ = head_scores(Trace(model, torch.arange(10), *[torch.empty(0)] * 3), model)
    assert (scores[0].previous_token, scores[1].first_token, scores[2].induction) == (1.0, 1.0, 1.0)
    assert scores[1].previous_token == pytest.approx(1 / 9)  # only position 1, whose previous one is the first


def test_repeated_tokens_are_the_same_twice_and_each_time() -> None:
    tokens = repeated_tokens(10, 50)
    assert tokens[:10] == tokens[10:]
    assert tokens == repeated_tokens(10, 50)


def test_one_position_has_no_scores_of_earlier_ones(model: GPT2) -> None:
    scores, _ = head_scores(trace(model, IDS[:1]), model)
    assert (scores[0].previous_token, scores[0].first_token) == (0.0, 0.0)


def test_anatomy_has_every_parameter_once(model: GPT2) -> None:
    parts = anatomy(SHAPE).parts
    assert {part.name: part.shape for part in parts} == {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert sum(part.parameters for part in parts) == SHAPE.n_parameters
    assert sum(part.bytes for part in parts) == 4 * SHAPE.n_parameters


def test_anatomy_counts_operations_like_the_usual_estimate() -> None:
    """About 2 operations per parameter and token, without embeddings (Kaplan et al. 2020, table 1)."""
    found = anatomy(SHAPE)
    blocks = [part for part in found.parts if part.name.startswith("h.")]
    assert sum(part.flops for part in blocks) == pytest.approx(2 * 12 * SHAPE.n_layer * SHAPE.n_embd**2, rel=0.03)
    assert {part.flops for part in found.parts if part.name in ("wte.weight", "wpe.weight")} == {0}
    assert found.head_flops == 2 * SHAPE.vocab_size * SHAPE.n_embd


def test_anatomy_names_the_line_of_each_part() -> None:
    import inspect

    source = inspect.getsource(inspect.getmodule(GPT2)).splitlines()
    for part in anatomy(SHAPE).parts:
        assert f"self.{part.name.split('.')[-2]} = " in source[part.line - 1]
    assert lines()["Attention", "c_proj"] != lines()["MLP", "c_proj"]
