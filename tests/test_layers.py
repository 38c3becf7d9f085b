"""Linear and Dropout: the results of PyTorch's modules on every path, up to the choice of what is dropped."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gpt2demo import layers
from gpt2demo.layers import MIN_ELEMENTS_PER_THREAD, Dropout, Linear, drop, linear


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("over", [0, 1, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_cut_into_parts_is_the_whole_product(threads: int, over: int, bias: bool) -> None:
    """For a single position, with any number of rows. Sums are rounded in another order."""
    columns = 600
    rows = -(-3 * MIN_ELEMENTS_PER_THREAD // columns) + over  # enough for three threads
    layer = Linear(columns, rows, bias=bias)
    x = torch.randn(1, 1, columns)
    with torch.no_grad():
        exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        torch.testing.assert_close(layer(x).double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (2, 1)])
def test_several_positions_are_computed_by_pytorch(threads: int, shape: tuple[int, int]) -> None:
    weight = torch.randn(3 * MIN_ELEMENTS_PER_THREAD // 600 + 1, 600)
    x = torch.randn(*shape, 600)
    with torch.no_grad():
        assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_gradients_flow_for_a_single_position(threads: int) -> None:
    layer = Linear(600, 3 * MIN_ELEMENTS_PER_THREAD // 600 + 1)
    x = torch.randn(1, 1, 600, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad[0, 0], layer.weight.sum(0), atol=1e-5, rtol=1e-5)
    assert torch.equal(layer.weight.grad[0], x.detach()[0, 0])


def test_a_quantized_weight_is_left_to_its_own_operators(threads: int) -> None:
    """Tensor subclasses, which quantization libraries put in a weight's place, need not have views."""

    class Quantized(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function in (torch.Tensor.view, torch.Tensor.transpose, torch.Tensor.__getitem__, torch.bmm, torch.baddbmm):
                raise NotImplementedError(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    layer = Linear(600, 3 * MIN_ELEMENTS_PER_THREAD // 600 + 1)
    x = torch.randn(1, 1, 600)
    with torch.no_grad():
        expected = F.linear(x, layer.weight, layer.bias)
        layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Quantized), requires_grad=False)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("training", [True, False])
def test_dropout_equals_pytorchs_where_that_is_fast(p: float, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "FAST_BERNOULLI", True)
    x = torch.randn(50, 50)
    torch.manual_seed(0)
    expected = torch.nn.Dropout(p).train(training)(x)
    torch.manual_seed(0)
    assert torch.equal(Dropout(p).train(training)(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.75])
def test_drop_keeps_the_mean_and_its_gradient_is_the_mask(p: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of elements is odd: not a multiple of the four that share a draw."""
    monkeypatch.setattr(layers, "FAST_BERNOULLI", False)
    torch.manual_seed(0)
    x = torch.ones(401, 501, dtype=dtype, requires_grad=True)
    y = drop(x, p)
    y.sum().backward()
    dropped = (y == 0).double().mean().item()
    deviation = math.sqrt(p * (1 - p) / x.numel())
    assert dropped == pytest.approx(p, abs=4 * deviation)
    assert y.unique().tolist() == [0, pytest.approx(1 / (1 - p), rel=1e-2)]
    assert y.detach().double().mean().item() == pytest.approx(1, abs=4 * deviation / (1 - p) + torch.finfo(dtype).eps)
    assert torch.equal(x.grad, y.detach())


def test_each_draw_of_drop_is_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbors share a draw of 64 bits, but are dropped independently; the same seed drops the same elements."""
    monkeypatch.setattr(layers, "FAST_BERNOULLI", False)
    x = torch.ones(4, 100_000)
    torch.manual_seed(0)
    first, second = drop(x, 0.5), drop(x, 0.5)
    torch.manual_seed(0)
    assert torch.equal(drop(x, 0.5), first)
    correlations = torch.corrcoef(torch.stack([first.view(-1)[number::4] for number in range(4)] + [second.view(-1)[::4]]))
    assert (correlations - torch.eye(5)).abs().max() < 0.015


def test_drop_of_almost_everything_stays_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "FAST_BERNOULLI", False)
    assert drop(torch.ones(100), 0.9999999).isfinite().all()


@pytest.mark.parametrize(("matrices", "cut"), [(1, False), (2, True), (3, True)])
def test_only_matrices_that_are_large_enough_are_cut(matrices: int, cut: bool, threads: int, monkeypatch) -> None:
    """One part for each thread, and at least `MIN_ELEMENTS_PER_THREAD` elements in each."""
    parts: list[int] = []
    product = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda x, matrices: parts.append(len(x)) or product(x, matrices))
    with torch.no_grad():
        linear(torch.randn(1, 1, 64), torch.randn(matrices * MIN_ELEMENTS_PER_THREAD // 64, 64))
    assert parts == ([min(threads, matrices)] if cut and threads > 1 else [])


@pytest.mark.parametrize("shape", [(600,), (1, 600), (1, 1, 600), (0, 1, 600), (0, 600), (2, 1, 1, 600)])
def test_any_leading_dimensions_give_the_shape_of_nn_linear(threads: int, shape: tuple[int, ...]) -> None:
    layer = Linear(600, 3 * MIN_ELEMENTS_PER_THREAD // 600 + 1)
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)
