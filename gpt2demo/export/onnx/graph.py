"""Build GPT-2 as an ONNX graph, node by node, with onnxruntime's operators for transformers.

A graph exported from PyTorch code has a few dozen small nodes per layer and copies the cache for each token. Here a layer has
nine nodes, and if past and present share a buffer, attention (`GroupQueryAttention`) writes new keys and values into it in place.
`certificate.py` compares each export with the PyTorch model.

Padding is masked in one of two ways. An attention bias needs the fewest nodes, but onnxruntime's attention on NVIDIA GPUs does
not support it. The fp16 graph, which is for these GPUs, passes the length of each row to attention instead.

Inputs and outputs have the names and axes that Optimum, onnxruntime-genai and transformers.js expect:

input_ids, position_ids      int64   batch_size, sequence_length
attention_mask               int64   batch_size, past_sequence_length + sequence_length
past_key_values.N.key|value  float   batch_size, n_head, past_sequence_length, head_dim
logits                       float   batch_size, sequence_length, vocab_size
present.N.key|value          float   batch_size, n_head, past_sequence_length + sequence_length, head_dim

Shapes: B = batch, T = new positions, P = positions in the cache, S = P + T, C = width, H = heads,
D = width of a head (`engines.exported.head_dim`), V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from gpt2demo.config import ModelConfig
from gpt2demo.engines.exported import cache_names, head_dim
from gpt2demo.export.onnx.quantization import Quantized
from gpt2demo.export.onnx.weights import Weights

OPSET = 18
IR_VERSION = 10
MICROSOFT = "com.microsoft"
INT32 = {"to": ir.DataType.INT32.value}
AttentionInputs = Sequence[ir.Value | None]

IDS = ("batch_size", "sequence_length")
MASK = ("batch_size", "past_sequence_length + sequence_length")
KEEP = "num_logits_to_keep"
"""Optional input: number of trailing positions to compute logits for; the default 0 means all."""


class Writer(Tape):
    """Record the nodes and weights of a graph.

    Args:
        config: the model's shape.
        weights: name -> (out, in) matrix, vector or embedding table, as in the model; see `weights.convert_weights`.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        self.config = config
        self.weights = weights
        self.dtype = np.dtype(np.float16 if weights["wpe.weight"].dtype == np.float16 else np.float32)
        self._stored: dict[str, ir.Value] = {}

    def stored(self, name: str, array: npt.NDArray[Any] | None = None) -> ir.Value:
        """Return the value of a weight or constant. Each name is stored once."""
        if name not in self._stored:
            found = np.asarray(self.weights[name] if array is None else array)
            self._stored[name] = self.initializer(_tensor(name, found))
        return self._stored[name]

    def constant(self, value: float | Sequence[float], dtype: npt.DTypeLike = np.int64) -> ir.Value:
        """Return the value of a constant."""
        array = np.array(value, dtype)
        return self.stored(f"constant_{array.dtype}_{'_'.join(map(str, array.reshape(-1)))}_{array.ndim}", array)

    def embedding(self, name: str, ids: ir.Value) -> ir.Value:
        """Look up rows of a table, which may be quantized: (B, T) -> (B, T, C)."""
        table = self.weights[name]
        if not isinstance(table, Quantized):
            return self.op("Gather", [self.stored(name), ids])
        # GatherBlockQuantized does this in one node, but the WebAssembly build of onnxruntime for browsers does not have it.
        blocks = self.op("Gather", [self.stored(f"{name}.blocks", table.blocks), ids])  # (B, T, blocks, block) uint8
        scales = self.op("Gather", [self.stored(f"{name}.row_scales", table.scales[..., None]), ids])  # (B, T, blocks, 1)
        middle = self.constant(2 ** (table.bits - 1), np.float32)
        rows = self.op("Mul", [self.op("Sub", [self.op("Cast", [blocks], {"to": ir.DataType.FLOAT.value}), middle]), scales])
        return self.op("Reshape", [rows, self.constant([0, 0, self.config.n_embd])])

    def linear(self, name: str, x: ir.Value, *, bias: bool = False, output: ir.Value | None = None) -> ir.Value:
        """Return x Wᵀ, plus the layer's bias on request."""
        weight = self.weights[f"{name}.weight"]
        added = self.stored(f"{name}.bias") if bias else None
        if isinstance(weight, Quantized):
            return self._quantized_linear(f"{name}.weight", weight, x, added, output)
        if name == "wte":  # the output head uses the token embedding, which is stored once
            return self.op("FusedMatMul", [x, self.stored("wte.weight")], {"transB": 1}, domain=MICROSOFT, output=output)
        y = self.op("MatMul", [x, self.stored(f"{name}.weight", weight.T)], output=None if bias else output)
        return self.op("Add", [y, added], output=output) if bias else y

    def _quantized_linear(self, name: str, weight: Quantized, x: ir.Value, bias: Any, output: Any) -> ir.Value:
        rows, columns = weight.shape
        sizes = {"K": columns, "N": rows, "bits": weight.bits, "block_size": weight.block, "accuracy_level": 4}
        inputs = [x, self.stored(f"{name}.blocks", weight.blocks), self.stored(f"{name}.scales", weight.scales.reshape(-1))]
        return self.op("MatMulNBits", [*inputs, None, None, bias], sizes, domain=MICROSOFT, output=output)


def decoder(w: Writer, ids: ir.Value, mask: ir.Value, positions: ir.Value) -> tuple[ir.Value, list[ir.Value], list[ir.Value]]:
    """Add everything except the output head.

    Returns:
        The result of the last layer norm (B, T, C); the inputs and the outputs of the cache, keys and values alternating.
    """
    total = w.op("Cast", [w.op("Shape", [mask], {"start": 1, "end": 2})], INT32)  # (1,): S
    if w.dtype == np.float16:
        columns = left_aligned_columns(w, mask, ids)
        ids, positions = (w.op("ScatterElements", [value, columns, value], {"axis": 1}) for value in (ids, positions))
        hidden, past, present = layers(w, ids, positions, [last_positions(w, mask), total, None])
        columns = w.op("Unsqueeze", [columns, w.constant([2])])  # (B, T, 1)
        return w.op("GatherND", [hidden, columns], {"batch_dims": 1}), past, present
    last = w.op("ArgMax", [mask], {"axis": 1, "keepdims": 0, "select_last_index": 1})
    newest = w.op("Cast", [last], INT32)  # (B,): S - 1, or less if the mask ends with zeros
    return layers(w, ids, positions, [newest, total, padding_bias(w, mask, ids)])


def layers(
    w: Writer, ids: ir.Value, positions: ir.Value, where: AttentionInputs
) -> tuple[ir.Value, list[ir.Value], list[ir.Value]]:
    """Add embeddings, all layers and the last layer norm; for `where` see `attention`. Return the same as `decoder`."""
    past, present = cache_values(w, "past_key_values", "past"), cache_values(w, "present", "present")
    x = w.op("Add", [w.embedding("wte.weight", ids), w.embedding("wpe.weight", positions)])  # (B, T, C), the residual stream
    normed = layer_norm(w, "h.0.ln_1", x)
    for layer in range(w.config.n_layer):
        name = f"h.{layer}"
        attended = attention(w, name, normed, past[2 * layer : 2 * layer + 2], where, present[2 * layer : 2 * layer + 2])
        x, normed = add_and_norm(w, x, w.linear(f"{name}.attn.c_proj", attended), f"{name}.attn.c_proj", f"{name}.ln_2")
        hidden = w.op("FastGelu", [w.linear(f"{name}.mlp.c_fc", normed), w.stored(f"{name}.mlp.c_fc.bias")], domain=MICROSOFT)
        following = f"h.{layer + 1}.ln_1" if layer + 1 < w.config.n_layer else "ln_f"
        x, normed = add_and_norm(w, x, w.linear(f"{name}.mlp.c_proj", hidden), f"{name}.mlp.c_proj", following)
    return normed, past, present


def left_aligned_columns(w: Writer, mask: ir.Value, ids: ir.Value) -> ir.Value:
    """Return the column of each new position after moving padding from the left to the right of its row, (B, T) int64.

    onnxruntime's attention on NVIDIA GPUs does not support a bias that masks padding, but it supports rows of different lengths.
    So padding on the left is moved to the right before the layers and back after them. Columns of padding are negative: they
    count from the end.
    """
    count = w.op("Shape", [ids], {"start": 1, "end": 2})  # (1,): T
    text = w.op("Slice", [mask, w.op("Neg", [count]), w.constant([2**62]), w.constant([1])])  # (B, T): 1 for a token
    forwards = w.op("Sub", [w.op("CumSum", [text, w.constant(1)]), w.constant(1)])
    padding = w.op("CumSum", [w.op("Sub", [w.constant(1), text]), w.constant(1)], {"reverse": 1})
    return w.op("Where", [w.op("Cast", [text], {"to": ir.DataType.BOOL.value}), forwards, w.op("Neg", [padding])])


def last_positions(w: Writer, mask: ir.Value) -> ir.Value:
    """Return the number of tokens in each row minus one, at least 0, (B,) int32. On NVIDIA GPUs, integer sums require cuDNN."""
    tokens = w.op("Cast", [mask], {"to": ir.DataType.FLOAT.value})
    count = w.op("ReduceSum", [tokens, w.constant([1])], {"keepdims": 0})
    return w.op("Cast", [w.op("Sub", [w.op("Max", [count, w.constant(1, np.float32)]), w.constant(1, np.float32)])], INT32)


def padding_bias(w: Writer, mask: ir.Value, ids: ir.Value) -> ir.Value:
    """Return 0 for tokens and -1e4 for padding, (B, 1, T, S). With -inf, the softmax of a row of only padding would be NaN."""
    bias = w.op("Gather", [w.constant([-1e4, 0], w.dtype), mask])  # (B, S)
    new = w.op("Unsqueeze", [ids, w.constant([1, 3])])  # (B, 1, T, 1)
    return w.op("Expand", [w.op("Unsqueeze", [bias, w.constant([1, 2])]), w.op("Shape", [new])])


def attention(
    w: Writer, name: str, x: ir.Value, past: Sequence[ir.Value], where: AttentionInputs, present: Sequence[ir.Value]
) -> ir.Value:
    """Add causal attention over cache and new positions: (B, T, C) -> (B, T, C). Query, key and value are one tensor.

    `where` has each row's last position (B,) and S (1,), both int32, and the bias of `padding_bias` or None.
    """
    newest, total, bias = where
    scale = (w.config.n_embd // w.config.n_head) ** -0.5  # of the trained width, without the padding of `pad_heads`
    heads = {"num_heads": w.config.n_head, "kv_num_heads": w.config.n_head, "scale": scale}
    qkv = w.linear(f"{name}.attn.c_attn", x, bias=True)  # (B, T, 3C)
    inputs = [qkv, None, None, *past, newest, total, *([None, None, None, bias] if bias else [])]
    mixed = ir.Value(name=f"{name}.attn.mixed")
    w.op_multi_out("GroupQueryAttention", inputs, heads, outputs=[mixed, *present], domain=MICROSOFT)
    return mixed


def layer_norm(w: Writer, name: str, x: ir.Value) -> ir.Value:
    """Add a layer norm: (B, T, C) -> (B, T, C)."""
    return w.op("LayerNormalization", [x, w.stored(f"{name}.weight"), w.stored(f"{name}.bias")], {"epsilon": 1e-5})


def add_and_norm(w: Writer, stream: ir.Value, update: ir.Value, linear: str, norm: str) -> tuple[ir.Value, ir.Value]:
    """Add a sub-block's result and the bias of its last linear layer to the residual stream.

    Returns:
        The stream, and its layer norm.
    """
    inputs = [update, stream, w.stored(f"{norm}.weight"), w.stored(f"{norm}.bias"), w.stored(f"{linear}.bias")]
    normed, _, _, added = w.op_multi_out("SkipLayerNormalization", inputs, {"epsilon": 1e-5}, num_outputs=4, domain=MICROSOFT)
    return added, normed


def cache_values(w: Writer, prefix: str, axis: str) -> list[ir.Value]:
    """Return the cache's inputs (B, H, P, D), for the axis `past`, or its outputs (B, H, S, D)."""
    length = "past_sequence_length" if axis == "past" else MASK[1]
    shape = ("batch_size", w.config.n_head, length, head_dim(w.config))
    return [ir.val(name, data_type(w.dtype), shape) for name in cache_names(prefix, w.config.n_layer)]


def _tensor(name: str, array: npt.NDArray[Any]) -> ir.TensorProtocol:
    """Return a tensor. A transposed matrix is copied when it is written, so that copies of all matrices never coexist."""
    if array.flags.c_contiguous:
        return ir.tensor(array, name=name)
    shape = ir.Shape(array.shape)
    return ir.LazyTensor(lambda: ir.tensor(np.ascontiguousarray(array)), dtype=data_type(array.dtype), shape=shape, name=name)


def data_type(dtype: npt.DTypeLike) -> ir.DataType:
    """Return the ONNX data type of a numpy dtype."""
    return ir.DataType.from_numpy(np.dtype(dtype))


def model_graph(config: ModelConfig, weights: Weights) -> ir.Model:
    """Return the whole model: ids, mask, positions and cache in; logits and the extended cache out."""
    w = Writer(config, weights)
    inputs = model_inputs()
    hidden, past, present = decoder(w, *inputs)
    keep = w.stored(KEEP, np.array([0], np.int64))
    logits = ir.val("logits", ir.DataType.FLOAT, (*IDS, config.vocab_size))
    kept = w.op("Slice", [hidden, first_kept(w, keep, inputs[0]), w.constant([2**62]), w.constant([1])])
    output_head(w, kept, logits)
    return build(w, [*inputs, *past, keep], [logits, *present])


def first_kept(w: Writer, keep: ir.Value, ids: ir.Value) -> ir.Value:
    """Return -keep, the start of a slice with the last `keep` positions, (1,).

    onnxruntime captures a graph for NVIDIA GPUs only if nothing is copied to the host, which reads the start. What depends on a
    shape is computed on the host.
    """
    if w.dtype == np.float32:
        return w.op("Neg", [keep])
    count = w.op("Shape", [ids], {"start": 1, "end": 2})  # (1,): T
    return w.op("Sub", [w.op("Sub", [count, keep]), count])


def generate_graph(config: ModelConfig, weights: Weights, drawing: ir.Graph, vocab_size: int) -> ir.Model:
    """Return the model followed by a sampler chain and the draw.

    Its inputs are ids, mask, positions, cache and the samplers' inputs; its outputs the next ids and the extended cache.

    Args:
        config: the model's shape.
        weights: as for `model_graph`.
        drawing: sampler chain and draw, as traced by `sampling.trace`; its nodes are moved into the new graph.
        vocab_size: vocabulary size of the tokenizer; the model may have more ids.
    """
    w = Writer(config, weights)
    inputs = model_inputs()
    hidden, past, present = decoder(w, *inputs)
    last = w.op("Gather", [hidden, w.constant(-1)], {"axis": 1})  # (B, C)
    logits = output_head(w, last)  # (B, V)
    if vocab_size < config.vocab_size:
        logits = w.op("Slice", [logits, w.constant([0]), w.constant([vocab_size]), w.constant([1])])
    ir.convenience.replace_all_uses_with(drawing.inputs[0], logits)
    used = [value for value in drawing.inputs[1:] if value.uses()]
    return build(w, [*inputs, *past, *used], [*drawing.outputs, *present], drawing)


def model_inputs() -> list[ir.Value]:
    """Return the inputs new ids, mask of all positions, and positions of the new ids."""
    shapes = {"input_ids": IDS, "attention_mask": MASK, "position_ids": IDS}
    return [ir.val(name, ir.DataType.INT64, shape) for name, shape in shapes.items()]


def output_head(w: Writer, hidden: ir.Value, logits: ir.Value | None = None) -> ir.Value:
    """Add the output head, whose logits are float32: (..., C) -> (..., V)."""
    if w.dtype == np.float32:
        return w.linear("wte", hidden, output=logits)
    return w.op("Cast", [w.linear("wte", hidden)], {"to": ir.DataType.FLOAT.value}, output=logits)


def build(w: Writer, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], tail: ir.Graph | None = None) -> ir.Model:
    """Return a model of the recorded nodes, followed by the nodes of another graph."""
    opsets = {"": OPSET, MICROSOFT: 1}
    nodes, initializers = list(w.nodes), list(w.initializers)
    if tail is not None:
        initializers += list(tail.initializers.values())
        tail.initializers.clear()
        tail.inputs.clear()
        tail.outputs.clear()
        moved = list(tail)
        tail.remove(moved)
        nodes += moved
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=initializers, opset_imports=opsets, name="gpt2")
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="gpt2demo")
