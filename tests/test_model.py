"""The model is GPT-2: the same parameters, the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from samples import SHAPE
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2demo.config import PRESETS, ModelConfig
from gpt2demo.engines.cache import KeyValueCache
from gpt2demo.layers import ELEMENTS_PER_THREAD, linear
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import hugging_face_config, to_hugging_face


@pytest.fixture
def model() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(SHAPE).eval()
    with torch.no_grad():  # biases and norms too, so that none can be forgotten
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, SHAPE.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_transformers(model: GPT2) -> None:
    reference = GPT2LMHeadModel(GPT2Config(**hugging_face_config(SHAPE, None))).eval()
    missing, unexpected = reference.load_state_dict(to_hugging_face(model), strict=False)
    assert missing == ["lm_head.weight"]  # tied to wte
    assert not unexpected
    reference.tie_weights()
    tokens = ids(3, SHAPE.n_positions)
    torch.testing.assert_close(model(tokens), reference(tokens).logits, atol=1e-4, rtol=0)


def test_gpt2_has_as_many_parameters_as_openais() -> None:
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


def test_initialisation_is_openais() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=1000, n_positions=256, n_embd=256, n_head=4, n_layer=8)
    model = GPT2(config)
    block = model.h[3]
    expected = {model.wte: 0.02, model.wpe: 0.01, block.attn.c_attn: 0.02, block.mlp.c_fc: 0.02}
    expected |= dict.fromkeys((block.attn.c_proj, block.mlp.c_proj), 0.02 / math.sqrt(2 * 8))
    for module, deviation in expected.items():
        assert module.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert all(parameter.abs().sum() == 0 for name, parameter in model.named_parameters() if name.endswith("bias"))


def test_a_position_sees_nothing_that_comes_later(model: GPT2) -> None:
    tokens = ids(1, 20)
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % SHAPE.vocab_size
    torch.testing.assert_close(model(tokens)[:, :12], model(changed)[:, :12])
    assert not torch.allclose(model(tokens)[:, 12:], model(changed)[:, 12:])


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 1, 12], [5, 15]])
def test_the_cache_changes_nothing(model: GPT2, pieces: list[int]) -> None:
    tokens = ids(2, 20)
    cache = KeyValueCache(SHAPE, 2, model.wte.weight)
    with torch.inference_mode():
        parts = [model(piece, cache) for piece in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-5, rtol=1e-5)
    assert cache.length == 20


def test_last_only_is_the_last_of_all(model: GPT2) -> None:
    tokens = ids(2, 9)
    torch.testing.assert_close(model(tokens, last_only=True), model(tokens)[:, -1:])


def test_left_padded_rows_equal_single_rows(model: GPT2) -> None:
    """`positions` and `mask` let rows of unequal length share a batch."""
    short, long = ids(1, 5), ids(1, 9)
    batch = torch.cat([torch.nn.functional.pad(short, (4, 0)), long])
    positions = torch.stack([(torch.arange(9) - 4).clamp(min=0), torch.arange(9)])
    mask = torch.full((9, 9), float("-inf")).triu(1).expand(2, 1, 9, 9).clone()
    mask[0, :, :, :4] = -1e9  # finite: the padding's own rows look at nothing else
    logits = model(batch, positions=positions, mask=mask)
    torch.testing.assert_close(logits[0, 4:], model(short)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1], model(long)[0], atol=1e-5, rtol=1e-5)


def test_more_positions_than_the_model_has_are_refused(model: GPT2) -> None:
    with pytest.raises(ValueError, match="25 positions are more than n_positions=24"):
        model(ids(1, 25))


def test_gradients_are_those_of_transformers(model: GPT2) -> None:
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


@pytest.mark.parametrize("rows", [1024, 1025, 1031])
@pytest.mark.parametrize("threads", [2, 3])
def test_a_matrix_shared_among_threads_gives_the_same_product(rows: int, threads: int) -> None:
    """For a single position, with any number of rows; several positions and training go PyTorch's way."""
    x, weight, bias = torch.randn(1, 1, 600), torch.randn(rows, 600), torch.randn(rows)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            assert weight.numel() >= threads * ELEMENTS_PER_THREAD
            torch.testing.assert_close(linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(linear(x, weight), torch.nn.functional.linear(x, weight), atol=1e-4, rtol=1e-5)
            several = torch.randn(2, 3, 600)
            assert torch.equal(linear(several, weight, bias), torch.nn.functional.linear(several, weight, bias))
    finally:
        torch.set_num_threads(before)
