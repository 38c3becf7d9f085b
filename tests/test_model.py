"""The model is GPT-2: the same parameters, logits and gradients as the reference."""

from __future__ import annotations

import math

import pytest
import torch
from samples import SHAPE
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2demo import layers
from gpt2demo.config import PRESETS, ModelConfig
from gpt2demo.engines.cache import KeyValueCache
from gpt2demo.metrics import token_losses
from gpt2demo.model import GPT2, Attention, attend, attention_weights, causal_mask
from gpt2demo.runs.weights import hugging_face_config, to_hugging_face


@pytest.fixture
def model() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(SHAPE).eval()
    with torch.no_grad():  # biases and norms too, so that omitting one is noticed
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, SHAPE.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def test_logits_equal_those_of_transformers(model: GPT2) -> None:
    reference = GPT2LMHeadModel(GPT2Config(**hugging_face_config(SHAPE, None))).eval()
    missing, unexpected = reference.load_state_dict(to_hugging_face(model), strict=False)
    assert missing == ["lm_head.weight"]  # tied to wte
    assert not unexpected
    reference.tie_weights()
    tokens = ids(3, SHAPE.n_positions)
    torch.testing.assert_close(model(tokens), reference(tokens).logits, atol=1e-4, rtol=0)


def test_the_gpt2_preset_has_as_many_parameters_as_openais_model() -> None:
    with torch.device("meta"):
        model = GPT2(PRESETS["gpt2"].model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
    assert PRESETS["gpt2"].model.n_parameters == 124_439_808


def test_the_seed_preset_is_the_original_program() -> None:
    seed = PRESETS["seed"]
    shape = seed.model
    assert (shape.vocab_size, shape.n_embd, shape.n_head, shape.n_layer, shape.n_positions) == (256, 256, 4, 4, 100)
    train = seed.train
    assert (train.batch_size, train.epochs, train.learning_rate, train.schedule) == (32, 10, 3e-4, "constant")
    assert (train.weight_decay, train.grad_clip, train.warmup_steps, seed.tokenizer) == (0, 0, 0, "byte")


def test_weights_are_initialized_as_in_openais_code() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=1000, n_positions=256, n_embd=256, n_head=4, n_layer=8)
    model = GPT2(config)
    block = model.h[3]
    expected = {model.wte: 0.02, model.wpe: 0.01, block.attn.c_attn: 0.02, block.mlp.c_fc: 0.02}
    expected |= dict.fromkeys((block.attn.c_proj, block.mlp.c_proj), 0.02 / math.sqrt(2 * 8))
    for module, deviation in expected.items():
        assert module.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert all(parameter.abs().sum() == 0 for name, parameter in model.named_parameters() if name.endswith("bias"))


def test_a_position_does_not_depend_on_later_ones(model: GPT2) -> None:
    tokens = ids(1, 20)
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % SHAPE.vocab_size
    torch.testing.assert_close(model(tokens)[:, :12], model(changed)[:, :12])
    assert not torch.allclose(model(tokens)[:, 12:], model(changed)[:, 12:])


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 1, 12], [5, 15], [3, 2, 15]])
def test_logits_are_the_same_with_a_cache(model: GPT2, pieces: list[int]) -> None:
    tokens = ids(2, 20)
    cache = KeyValueCache(SHAPE, 2, model.wte.weight)
    with torch.inference_mode():
        parts = [model(piece, cache) for piece in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-5, rtol=1e-5)
    assert cache.length == 20


def test_last_only_returns_the_last_positions_logits(model: GPT2) -> None:
    tokens = ids(2, 9)
    torch.testing.assert_close(model(tokens, last_only=True), model(tokens)[:, -1:])


def test_attention_weights_are_dropped_while_training_and_only_then() -> None:
    torch.manual_seed(0)
    attention = Attention(SHAPE.with_changes(dropout=0.5), layer=0)
    attention.resid_dropout.p = 0.0
    x = torch.randn(2, 9, SHAPE.n_embd)
    without = Attention(SHAPE, layer=0)
    without.load_state_dict(attention.state_dict())
    torch.testing.assert_close(attention.eval()(x), without(x))
    with torch.no_grad():  # the fused kernel
        torch.testing.assert_close(attention(x), without(x))
    assert not torch.allclose(attention.train()(x), without(x))


def test_left_padded_rows_equal_single_rows(model: GPT2) -> None:
    """`positions` and `mask` allow rows of different lengths in one batch."""
    short, long = ids(1, 5), ids(1, 9)
    batch = torch.cat([torch.nn.functional.pad(short, (4, 0)), long])
    positions = torch.stack([(torch.arange(9) - 4).clamp(min=0), torch.arange(9)])
    mask = torch.full((9, 9), float("-inf")).triu(1).expand(2, 1, 9, 9).clone()
    mask[0, :, :, :4] = -1e9  # finite: rows of padding attend to nothing else
    logits = model(batch, positions=positions, mask=mask)
    torch.testing.assert_close(logits[0, 4:], model(short)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1], model(long)[0], atol=1e-5, rtol=1e-5)


def test_more_positions_than_the_model_has_are_refused(model: GPT2) -> None:
    with pytest.raises(ValueError, match="25 positions are more than n_positions=24"):
        model(ids(1, 25))


def test_gradients_equal_those_of_transformers(model: GPT2) -> None:
    reference = GPT2LMHeadModel(GPT2Config(**hugging_face_config(SHAPE, None))).eval()
    reference.load_state_dict(to_hugging_face(model), strict=False)
    reference.tie_weights()
    tokens = ids(2, 16)
    model(tokens).logsumexp(-1).sum().backward()
    reference(tokens).logits.logsumexp(-1).sum().backward()
    expected = reference.transformer
    torch.testing.assert_close(model.wte.weight.grad, expected.wte.weight.grad, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        model.h[0].attn.c_attn.weight.grad, expected.h[0].attn.c_attn.weight.grad.t(), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_activations_give_the_same_gradients_with_less_memory(dropout: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = GPT2(SHAPE.with_changes(dropout=dropout, n_layer=4)).train()
    (loss, saved), gradients = backward(model, dtype), [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model.checkpoint_activations = True
    loss_again, saved_again = backward(model, dtype)
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(parameter.grad, before) for parameter, before in zip(model.parameters(), gradients, strict=True))
    assert saved_again < saved / 4


def backward(model: GPT2, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    """Compute the gradients of a loss; return the loss, and the bytes of the tensors that the forward pass kept for them."""
    sizes: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    arithmetic = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with arithmetic, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = token_losses(model, ids(8, SHAPE.n_positions + 1)).mean()
    loss.backward()
    inputs = 4 * 8 * SHAPE.n_positions * SHAPE.n_embd * model.config.n_layer  # of the layers, which checkpointing keeps
    return loss.detach(), sum(sizes.values()) + inputs


def test_a_cache_and_evaluation_do_not_checkpoint(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2demo.model.checkpoint", None)
    model.checkpoint_activations = True
    model(ids(1, 5))
    with torch.no_grad():
        model.train()(ids(1, 5), KeyValueCache(SHAPE, 1, model.wte.weight))
    with pytest.raises(TypeError):
        model(ids(1, 5))


def test_attention_weights_are_a_causal_distribution() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 6, 8).double()
    weights = attention_weights(query, key)  # (B, H, T, T)
    scores = query @ key.transpose(-2, -1) / math.sqrt(8)
    expected = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf")).softmax(-1)
    torch.testing.assert_close(weights, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(attend(query, key, value), expected @ value, atol=1e-12, rtol=0)


def test_attention_weights_of_new_positions_after_cached_ones() -> None:
    """Without a mask, the last query is the position of the last key."""
    query, key = torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    whole = attention_weights(query, key)
    torch.testing.assert_close(attention_weights(query[:, :, 4:], key), whole[:, :, 4:])


@pytest.mark.parametrize("mask", [None, causal_mask(6, 0, torch.device("cpu"))])
def test_both_attention_paths_give_the_same_result(mask: torch.Tensor | None) -> None:
    """Plain operators while training on a CPU, the fused kernel otherwise."""
    query, key, value = torch.randn(3, 2, 4, 6, 8)
    with torch.no_grad():
        fused = attend(query, key, value, mask)
    torch.testing.assert_close(attend(query, key, value, mask), fused, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_forward_with_its_loss_is_one_compiled_graph(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fullgraph` raises at the first operation that torch.compile cannot trace."""
    monkeypatch.setattr(layers, "FAST_BERNOULLI", True)  # a compiled graph has PyTorch's dropout on every CPU
    torch.manual_seed(0)
    model = GPT2(SHAPE.with_changes(dropout=0.1)).train()
    model.checkpoint_activations = recompute
    windows = ids(2, SHAPE.n_positions + 1)
    compiled = torch.compile(lambda batch: token_losses(model, batch).mean(), fullgraph=True, backend="eager")
    torch.manual_seed(1)
    expected = token_losses(model, windows).mean()
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(windows), expected)


def test_forward_hooks_see_every_linear_layer(model: GPT2) -> None:
    """Also for a single position without gradients, where a CPU takes another path."""
    seen: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, args, output, name=name: seen.append(name))
    expected = [f"h.{layer}.{part}" for layer in range(2) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    model(ids(1, 5))
    assert seen == expected
    with torch.inference_mode():
        model(ids(1, 1))
    assert seen == expected * 2


def test_a_low_rank_update_of_a_linear_layer_is_used(model: GPT2) -> None:
    """LoRA (Hu et al. 2021) as its libraries do it: wrap the module, add a low-rank product to its output."""

    class LoRA(torch.nn.Module):
        def __init__(self, base: torch.nn.Linear) -> None:
            super().__init__()
            self.base = base
            self.a = torch.nn.Parameter(torch.randn(2, base.in_features))
            self.b = torch.nn.Parameter(torch.randn(base.out_features, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + x @ self.a.t() @ self.b.t()

    tokens = ids(2, 7)
    layer = model.h[1].attn.c_attn
    adapted = LoRA(layer)
    model.h[1].attn.c_attn = adapted
    with torch.no_grad():
        wrapped = model(tokens)
        model.h[1].attn.c_attn = layer
        layer.weight += adapted.b @ adapted.a
        torch.testing.assert_close(wrapped, model(tokens), atol=1e-4, rtol=1e-4)
