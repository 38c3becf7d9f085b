"""Write a checkpoint as a GGUF file of the architecture `gpt2`, and verify the file against the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter, LlamaFileType, TokenType

from gpt2demo.config import ModelConfig
from gpt2demo.errors import ExportError, SettingError, TokenizerError
from gpt2demo.interfaces import HasTokenizerJson, Tokenizer
from gpt2demo.model import GPT2
from gpt2demo.runs.checkpoint import load_tokenizer
from gpt2demo.runs.folder import Run
from gpt2demo.runs.weights import load_model
from gpt2demo.storage import require_space
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import byte_symbols
from gpt2demo.tokenization.huggingface import is_byte_tokenizer
from gpt2demo.tokenization.vocabulary import BpeModel

Array = npt.NDArray[np.float32]

KINDS = {"fp32": Kind.F32, "fp16": Kind.F16, "q8_0": Kind.Q8_0}
FILE_TYPES = {"fp32": LlamaFileType.ALL_F32, "fp16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}
ROUNDING = {Kind.F32: (0.0, 0.0), Kind.F16: (2**-11, 2**-25), Kind.Q8_0: (0.57 / 127, 127 * 2**-25)}
"""Largest allowed error of a value: relative to the largest value in its block, plus an absolute error for values near float16's
smallest. In Q8_0, 32 values share a scale: half a step is 0.5 / 127 of the largest; the rest is the rounding of the scale."""
LIMITS = {"fp32": 1e-5, "fp16": 4e-3, "q8_0": 1e-1}
"""Largest allowed difference of a logit, relative to the largest logit, or to 1 if that is less."""
POSITIONS = 128
"""Longest sequence of the comparison."""


def write_export(checkpoint: Path, folder: Path, dtype: str, report: Callable[[str], None]) -> None:
    """Write a verified checkpoint as NAME.gguf and verify the result. See `gpt2demo.interfaces.Exporter`.

    Raises:
        SettingError: the dtype does not support the model's width.
        ExportError: the file differs from the checkpoint by more than `ROUNDING` and `LIMITS` allow.
    """
    model, (tokenizer, _) = load_model(checkpoint), load_tokenizer(checkpoint / "tokenizer")
    block, run = gguf.GGML_QUANT_SIZES[KINDS[dtype]][0], Run.of_checkpoint(checkpoint)
    if model.config.n_embd % block:
        raise SettingError(f"dtype={dtype!r}: n_embd={model.config.n_embd} is not a multiple of {block}; use fp16")
    file = folder / f"{run.name if run else checkpoint.name}.gguf"
    require_space(folder, 4 * model.config.n_parameters)
    report(f"writing {file.name} ({model.config.n_parameters:,} parameters, {dtype})")
    if not write(file, model, tokenizer, dtype):
        report("this tokenizer is not a byte-level BPE like GPT-2's; llama.cpp can only use ids")
    report("comparing the file with the checkpoint")
    difference, limit = compare(model, file, dtype)
    report(f"logits differ by at most {difference:.1e} (limit {limit:.1e})")


# ---------------------------------------------------------------------------------------------- writing


def write(file: Path, model: GPT2, tokenizer: Tokenizer, dtype: str) -> bool:
    """Write the file; return whether it contains the tokenizer."""
    writer = GGUFWriter(file, "gpt2")
    writer.add_name(file.stem)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_shape(writer, model.config)
    has_text = add_tokenizer(writer, tokenizer, model.config.vocab_size)
    for name, values in tensors(model).items():
        kind = kind_of(name, values, dtype)
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return has_text


def add_shape(writer: GGUFWriter, config: ModelConfig) -> None:
    """Write the model's shape."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)


def add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, vocab_size: int) -> bool:
    """Write tokens and merges if the tokenizer is a byte-level BPE like GPT-2's; return whether it is."""
    stored = byte_level(tokenizer)
    writer.add_tokenizer_model("gpt2" if stored else "none")
    if stored is None:
        return False
    part = BpeModel.model_validate(stored["model"])
    unused = {f"[PAD{index}]": index for index in range(tokenizer.vocab_size, vocab_size)}  # ids of the model without a token
    special = {token["content"]: token["id"] for token in stored.get("added_tokens", [])}
    kinds = dict.fromkeys(part.vocab.values(), TokenType.NORMAL)
    kinds |= dict.fromkeys(unused.values(), TokenType.UNUSED) | dict.fromkeys(special.values(), TokenType.CONTROL)
    token_of = {index: token for token, index in (part.vocab | unused | special).items()}
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token_of[index] for index in range(vocab_size)])
    writer.add_token_types([kinds[index] for index in range(vocab_size)])
    # llama.cpp requires a merge and an end-of-text id (default: id 11). UTF-8 never contains the byte 0xFF.
    never = byte_symbols()[0xFF]
    writer.add_token_merges([f"{left} {right}" for left, right in part.merges or [(never, never)]])
    end = part.vocab[never] if tokenizer.eos_id is None else tokenizer.eos_id
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    return True


def byte_level(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Return the tokenizer.json of a byte-level BPE in GPT-2's form or of plain bytes; None for other tokenizers."""
    if not isinstance(tokenizer, HasTokenizerJson):
        return None
    stored: dict[str, Any] = json.loads(tokenizer.tokenizer_json())
    try:
        return stored if is_byte_tokenizer(stored) or BpeTokenizer(stored) else None
    except TokenizerError:
        return None


def gguf_names(model: GPT2) -> dict[str, str]:
    """Return parameter name -> name in GGUF. The output head is the token embedding and has no name."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, model.config.n_layer)
    split = {name: name.rpartition(".") for name in model.state_dict()}
    return {name: f"{names[f'transformer.{module}']}.{part}" for name, (module, _, part) in split.items()}


def tensors(model: GPT2) -> dict[str, Array]:
    """Return the weights by their names in GGUF, which has the same layout (out, in)."""
    names = gguf_names(model)
    return {names[name]: tensor.numpy() for name, tensor in model.state_dict().items()}


def kind_of(name: str, values: Array, dtype: str) -> Kind:
    """Return the GGUF type of a tensor. Vectors and the position embedding are small and always float32."""
    return Kind.F32 if values.ndim == 1 or name == "position_embd.weight" else KINDS[dtype]


# ---------------------------------------------------------------------------------------------- verification


def compare(model: GPT2, file: Path, dtype: str) -> tuple[float, float]:
    """Compare the file with the model: first each tensor, then the logits of a model with these tensors.

    Returns:
        The largest difference of a logit, and its limit.

    Raises:
        ExportError: a tensor or a logit differs by more than the dtype's limit.
    """
    stored = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(file).tensors}
    for name, values in tensors(model).items():
        if name not in stored or not close(stored[name], values, kind_of(name, values, dtype)):
            raise ExportError(f"{file.name}: {name} differs from the checkpoint")
    with torch.device("meta"):
        loaded = GPT2(model.config).eval()
    loaded.load_state_dict({own: torch.tensor(stored[name]) for own, name in gguf_names(model).items()}, assign=True)
    difference, largest = logit_difference(model, loaded)
    limit = LIMITS[dtype] * max(1.0, largest)
    if not difference <= limit:  # also true for NaN
        raise ExportError(f"{dtype}: a logit of the written model differs by {difference:.3g}, limit {limit:.3g}; try fp32")
    return difference, limit


@torch.inference_mode()
def logit_difference(model: GPT2, other: GPT2) -> tuple[float, float]:
    """Return the largest difference of a logit on random ids from a fixed seed, and the largest logit."""
    shape = (2, min(model.config.n_positions, POSITIONS))
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    expected = model(ids)
    return float((other(ids) - expected).abs().max()), float(expected.abs().max())


def close(stored: Array, values: Array, kind: Kind) -> bool:
    """Return whether each value is within the rounding error of its type."""
    if stored.shape != values.shape:
        return False
    relative, absolute = ROUNDING[kind]
    blocks = values.reshape(-1, gguf.GGML_QUANT_SIZES[kind][0])
    error = np.abs(stored.reshape(blocks.shape) - blocks)
    return bool((error <= relative * np.abs(blocks).max(1, keepdims=True) + absolute).all())
