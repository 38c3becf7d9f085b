"""Weights as the export stores them: heads padded for onnxruntime's attention, rounded to the requested dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpt2demo.config import ModelConfig
from gpt2demo.engines.exported import Dtype, head_dim
from gpt2demo.export.onnx.quantization import Quantized, quantize
from gpt2demo.model import GPT2

Weights = Mapping[str, npt.NDArray[Any] | Quantized]


def convert_weights(model: GPT2, dtype: Dtype) -> Weights:
    """Return the model's weights in the dtype of the export.

    With int8 and int4, only matrices used in a matrix product are quantized; the position embedding and vectors stay float32.
    """
    return {name: _converted(name, tensor, model.config, dtype) for name, tensor in model.state_dict().items()}


def round_weights(model: GPT2, dtype: Dtype) -> None:
    """Replace each weight of a model by the value that an export with this dtype stores, in float32."""
    if dtype == "fp32":
        return
    for name, tensor in model.state_dict().items():
        weight = _converted(name, tensor, model.config, dtype)
        restored = weight.restored() if isinstance(weight, Quantized) else weight.astype(np.float32)
        tensor.copy_(torch.from_numpy(unpad_heads(name, restored, model.config)))


def _converted(name: str, tensor: torch.Tensor, config: ModelConfig, dtype: Dtype) -> npt.NDArray[Any] | Quantized:
    """Return one weight as the export stores it."""
    array: npt.NDArray[Any] = pad_heads(name, tensor.detach().numpy(), config)
    if dtype in ("fp32", "fp16"):
        return array.astype(np.float16 if dtype == "fp16" else np.float32, copy=False)
    if array.ndim < 2 or name == "wpe.weight":
        return array
    # The embedding is also the output head. Quantized to 4 bits it would cost more accuracy than all layers together.
    return quantize(array, 8 if dtype == "int8" or name == "wte.weight" else 4)


def pad_heads(name: str, array: npt.NDArray[Any], config: ModelConfig) -> npt.NDArray[Any]:
    """Return a weight with each head padded with zeros to `head_dim`. The zeros do not change any product."""
    H, D = config.n_head, config.n_embd // config.n_head
    padded = head_dim(config)
    if padded == D:
        return array
    if _has_heads_in_rows(name):
        heads = array.reshape(3, H, D, -1)
        return np.pad(heads, [(0, 0), (0, 0), (0, padded - D), (0, 0)]).reshape(3 * H * padded, *array.shape[1:])
    if _has_heads_in_columns(name):
        return np.pad(array.reshape(-1, H, D), [(0, 0), (0, 0), (0, padded - D)]).reshape(len(array), -1)
    return array


def unpad_heads(name: str, array: npt.NDArray[Any], config: ModelConfig) -> npt.NDArray[Any]:
    """Return a weight without the padding of `pad_heads`."""
    H, D, padded = config.n_head, config.n_embd // config.n_head, head_dim(config)
    if _has_heads_in_rows(name):
        return array.reshape(3, H, padded, -1)[:, :, :D].reshape(3 * H * D, *array.shape[1:])
    if _has_heads_in_columns(name):
        return array.reshape(-1, H, padded)[:, :, :D].reshape(len(array), -1)
    return array


def _has_heads_in_rows(name: str) -> bool:
    return name.endswith((".c_attn.weight", ".c_attn.bias"))


def _has_heads_in_columns(name: str) -> bool:
    return name.endswith(".attn.c_proj.weight")
