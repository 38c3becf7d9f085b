"""GPT-2 as an ONNX graph, written node by node with the operators that onnxruntime has for transformers.

A graph that an exporter makes of PyTorch code has a few dozen small nodes a layer, and a cache that is copied for each token.
Here a layer has nine nodes, and attention (`GroupQueryAttention`) writes new keys and values into the buffer that it reads from,
where host and past share one. That it is the same model is not assumed: `certificate.py` proves it for each export.

Padding is hidden in two ways: by a bias, which takes the fewest nodes and which attention on NVIDIA GPUs refuses; in fp16, which
is for those, by giving each row's attention its own length.

The inputs and outputs have the names and axes that Optimum, onnxruntime-genai and transformers.js look for:

input_ids, position_ids      int64   batch_size, sequence_length
attention_mask               int64   batch_size, past_sequence_length + sequence_length
past_key_values.N.key|value  float   batch_size, n_head, past_sequence_length, head_dim
logits                       float   batch_size, sequence_length, vocab_size
present.N.key|value          float   batch_size, n_head, past_sequence_length + sequence_length, head_dim

Legend for shapes: B = batch, T = new positions, P = positions in the cache, S = P + T, C = width, H = heads,
D = width of a head (`engines.exported.head_dim`), V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from gpt2demo.config import ModelConfig
from gpt2demo.engines.exported import cache_names, head_dim
from gpt2demo.export.onnx.quantization import Quantized

OPSET = 18
IR_VERSION = 10
MICROSOFT = "com.microsoft"
INT32 = {"to": ir.DataType.INT32.value}
Weights = Mapping[str, npt.NDArray[Any] | Quantized]
Where = Sequence[ir.Value | None]

IDS = ("batch_size", "sequence_length")
MASK = ("batch_size", "past_sequence_length + sequence_length")
KEEP = "num_logits_to_keep"
"""An input that may be left out: how many of the last positions get logits; 0, which it is by itself, means all."""


def padded_heads(arrays: dict[str, npt.NDArray[Any]], config: ModelConfig) -> dict[str, npt.NDArray[Any]]:
    """The model's weights with each head filled up with zeros to `head_dim`: they add nothing to any product."""
    H, D = config.n_head, config.n_embd // config.n_head
    more = head_dim(config) - D

    def padded(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if name.endswith((".c_attn.weight", ".c_attn.bias")):
            heads = array.reshape(3, H, D, -1)
            return np.pad(heads, [(0, 0), (0, 0), (0, more), (0, 0)]).reshape(3 * H * (D + more), *array.shape[1:])
        if name.endswith(".attn.c_proj.weight"):
            return np.pad(array.reshape(-1, H, D), [(0, 0), (0, 0), (0, more)]).reshape(len(array), -1)
        return array

    return {name: padded(name, array) for name, array in arrays.items()} if more else arrays


class Writer(Tape):
    """Records nodes and weights.

    Args:
        config: the model's shape.
        weights: name -> (out, in) matrices, vectors and tables as the model has them; see `arrays`.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        self.config = config
        self.weights = weights
        self.dtype = np.dtype(np.float16 if weights["wpe.weight"].dtype == np.float16 else np.float32)
        self._stored: dict[str, ir.Value] = {}

    def stored(self, name: str, array: npt.NDArray[Any] | None = None) -> ir.Value:
        """A weight or constant as a value; one name is stored once."""
        if name not in self._stored:
            found = self.weights[name] if array is None else array
            self._stored[name] = self.initializer(ir.tensor(np.asarray(found, order="C"), name=name))
        return self._stored[name]

    def number(self, value: float | Sequence[float], dtype: npt.DTypeLike = np.int64) -> ir.Value:
        """A constant."""
        array = np.array(value, dtype)
        return self.stored(f"constant_{array.dtype}_{'_'.join(map(str, array.reshape(-1)))}_{array.ndim}", array)

    def embedding(self, name: str, ids: ir.Value) -> ir.Value:
        """Rows of a table, which may have 8 bits: (B, T) -> (B, T, C)."""
        table = self.weights[name]
        if not isinstance(table, Quantized):
            return self.op("Gather", [self.stored(name), ids])
        # GatherBlockQuantized is all this in one node, but the onnxruntime that browsers load by itself has none for WebAssembly.
        numbers = self.op("Gather", [self.stored(f"{name}.blocks", table.blocks), ids])  # (B, T, blocks, block) uint8
        scales = self.op("Gather", [self.stored(f"{name}.row_scales", table.scales[..., None]), ids])  # (B, T, blocks, 1)
        middle = self.number(2 ** (table.bits - 1), np.float32)
        rows = self.op("Mul", [self.op("Sub", [self.op("Cast", [numbers], {"to": ir.DataType.FLOAT.value}), middle]), scales])
        return self.op("Reshape", [rows, self.number([0, 0, self.config.n_embd])])

    def linear(self, name: str, x: ir.Value, *, bias: bool = False, output: ir.Value | None = None) -> ir.Value:
        """X Wᵀ, plus the layer's bias if it is wanted."""
        weight = self.weights[f"{name}.weight"]
        offset = self.stored(f"{name}.bias") if bias else None
        if isinstance(weight, Quantized):
            return self._quantized_linear(f"{name}.weight", weight, x, offset, output)
        if name == "wte":  # the head: the embedding, stored once
            return self.op("FusedMatMul", [x, self.stored("wte.weight")], {"transB": 1}, domain=MICROSOFT, output=output)
        y = self.op("MatMul", [x, self.stored(f"{name}.weight", weight.T)], output=None if bias else output)
        return self.op("Add", [y, offset], output=output) if bias else y

    def _quantized_linear(self, name: str, weight: Quantized, x: ir.Value, bias: Any, output: Any) -> ir.Value:
        rows, columns = weight.shape
        sizes = {"K": columns, "N": rows, "bits": weight.bits, "block_size": weight.block, "accuracy_level": 4}
        inputs = [x, self.stored(f"{name}.blocks", weight.blocks), self.stored(f"{name}.scales", weight.scales.reshape(-1))]
        return self.op("MatMulNBits", [*inputs, None, None, bias], sizes, domain=MICROSOFT, output=output)


def decoder(w: Writer, ids: ir.Value, mask: ir.Value, positions: ir.Value) -> tuple[ir.Value, list[ir.Value], list[ir.Value]]:
    """Everything below the head.

    Returns:
        The last layer norm's result (B, T, C); the inputs and the outputs of the cache, keys and values by turns.
    """
    total = w.op("Cast", [w.op("Shape", [mask], {"start": 1, "end": 2})], INT32)  # (1,): S
    if w.dtype == np.float16:
        place = places(w, mask, ids)
        ids, positions = (w.op("ScatterElements", [value, place, value], {"axis": 1}) for value in (ids, positions))
        hidden, past, present = layers(w, ids, positions, [count_minus_one(w, mask), total, None])
        place = w.op("Unsqueeze", [place, w.number([2])])  # (B, T, 1)
        return w.op("GatherND", [hidden, place], {"batch_dims": 1}), past, present
    last = w.op("ArgMax", [mask], {"axis": 1, "keepdims": 0, "select_last_index": 1})
    newest = w.op("Cast", [last], INT32)  # (B,): S - 1, or less where zeros follow
    return layers(w, ids, positions, [newest, total, padding_bias(w, mask, ids)])


def layers(w: Writer, ids: ir.Value, positions: ir.Value, where: Where) -> tuple[ir.Value, list[ir.Value], list[ir.Value]]:
    """Embeddings, all layers and the last layer norm; `where` is for `attention`. Returns what `decoder` does."""
    past, present = cache_values(w, "past_key_values", "past"), cache_values(w, "present", "present")
    x = w.op("Add", [w.embedding("wte.weight", ids), w.embedding("wpe.weight", positions)])  # (B, T, C), the stream
    normed = layer_norm(w, "h.0.ln_1", x)
    for layer in range(w.config.n_layer):
        name = f"h.{layer}"
        attended = attention(w, name, normed, past[2 * layer : 2 * layer + 2], where, present[2 * layer : 2 * layer + 2])
        x, normed = add_and_norm(w, x, w.linear(f"{name}.attn.c_proj", attended), f"{name}.attn.c_proj", f"{name}.ln_2")
        hidden = w.op("FastGelu", [w.linear(f"{name}.mlp.c_fc", normed), w.stored(f"{name}.mlp.c_fc.bias")], domain=MICROSOFT)
        following = f"h.{layer + 1}.ln_1" if layer + 1 < w.config.n_layer else "ln_f"
        x, normed = add_and_norm(w, x, w.linear(f"{name}.mlp.c_proj", hidden), f"{name}.mlp.c_proj", following)
    return normed, past, present


def places(w: Writer, mask: ir.Value, ids: ir.Value) -> ir.Value:
    """(B, T) int64: the place of each new column in a row whose text begins at its first place and whose padding follows it.

    onnxruntime's attention on NVIDIA GPUs takes no bias that could hide padding, but rows of different lengths: so padding
    that is on the left goes to the right before the layers, and back behind them. Places of padding are counted from the end.
    """
    count = w.op("Shape", [ids], {"start": 1, "end": 2})  # (1,): T
    text = w.op("Slice", [mask, w.op("Neg", [count]), w.number([2**62]), w.number([1])])  # (B, T): 1 for a token
    forwards = w.op("Sub", [w.op("CumSum", [text, w.number(1)]), w.number(1)])
    padding = w.op("CumSum", [w.op("Sub", [w.number(1), text]), w.number(1)], {"reverse": 1})
    return w.op("Where", [w.op("Cast", [text], {"to": ir.DataType.BOOL.value}), forwards, w.op("Neg", [padding])])


def count_minus_one(w: Writer, mask: ir.Value) -> ir.Value:
    """(B,) int32: the tokens of each row so far but one; 0 where there is none yet."""
    count = w.op("ReduceSum", [mask, w.number([1])], {"keepdims": 0})
    return w.op("Cast", [w.op("Sub", [w.op("Max", [count, w.number(1)]), w.number(1)])], INT32)


def padding_bias(w: Writer, mask: ir.Value, ids: ir.Value) -> ir.Value:
    """(B, 1, T, S): 0 for a token and a large negative number for padding. Not -inf: a softmax over nothing else is NaN."""
    bias = w.op("Gather", [w.number([-1e4, 0], w.dtype), mask])  # (B, S)
    new = w.op("Unsqueeze", [ids, w.number([1, 3])])  # (B, 1, T, 1)
    return w.op("Expand", [w.op("Unsqueeze", [bias, w.number([1, 2])]), w.op("Shape", [new])])


def attention(w: Writer, name: str, x: ir.Value, past: Sequence[ir.Value], where: Where, present: Sequence[ir.Value]) -> ir.Value:
    """Causal attention over cache and new positions: (B, T, C) -> (B, T, C). Query, key and value go in as one tensor.

    `where`: each row's tokens so far but one (B,), S (1,), both int32; the bias of `padding_bias`, or None.
    """
    newest, total, bias = where
    scale = (w.config.n_embd // w.config.n_head) ** -0.5  # of the heads as they were trained, see `padded_heads`
    heads = {"num_heads": w.config.n_head, "kv_num_heads": w.config.n_head, "scale": scale}
    qkv = w.linear(f"{name}.attn.c_attn", x, bias=True)  # (B, T, 3C)
    inputs = [qkv, None, None, *past, newest, total, *([None, None, None, bias] if bias else [])]
    mixed = ir.Value(name=f"{name}.attn.mixed")
    w.op_multi_out("GroupQueryAttention", inputs, heads, outputs=[mixed, *present], domain=MICROSOFT)
    return mixed


def layer_norm(w: Writer, name: str, x: ir.Value) -> ir.Value:
    """(B, T, C) -> (B, T, C)."""
    return w.op("LayerNormalization", [x, w.stored(f"{name}.weight"), w.stored(f"{name}.bias")], {"epsilon": 1e-5})


def add_and_norm(w: Writer, stream: ir.Value, part: ir.Value, linear: str, norm: str) -> tuple[ir.Value, ir.Value]:
    """Add a sub-block's result, without its bias yet, and the bias to the stream; give the stream and its layer norm."""
    parts = [part, stream, w.stored(f"{norm}.weight"), w.stored(f"{norm}.bias"), w.stored(f"{linear}.bias")]
    normed, _, _, added = w.op_multi_out("SkipLayerNormalization", parts, {"epsilon": 1e-5}, num_outputs=4, domain=MICROSOFT)
    return added, normed


def cache_values(w: Writer, prefix: str, axis: str) -> list[ir.Value]:
    """The cache's tensors, (B, H, P, D) or (B, H, S, D)."""
    length = "past_sequence_length" if axis == "past" else MASK[1]
    shape = ("batch_size", w.config.n_head, length, head_dim(w.config))
    return [ir.val(name, data_type(w.dtype), shape) for name in cache_names(prefix, w.config.n_layer)]


def data_type(dtype: npt.DTypeLike) -> ir.DataType:
    """ONNX's name of a numpy type."""
    return ir.DataType.from_numpy(np.dtype(dtype))


def model_graph(config: ModelConfig, weights: Weights) -> ir.Model:
    """The whole model: ids, mask, positions and cache in; logits and the grown cache out."""
    w = Writer(config, weights)
    given = model_inputs()
    hidden, past, present = decoder(w, *given)
    keep = w.stored(KEEP, np.array([0], np.int64))
    logits = ir.val("logits", ir.DataType.FLOAT, (*IDS, config.vocab_size))
    kept = w.op("Slice", [hidden, w.op("Neg", [keep]), w.number([2**62]), w.number([1])])
    head(w, kept, logits)
    return finished(w, [*given, *past, keep], [logits, *present])


def generate_graph(config: ModelConfig, weights: Weights, chain: ir.Graph, vocab_size: int) -> ir.Model:
    """The model with a sampler chain and the draw behind it: ids, mask, positions, cache and the chain's inputs in, next ids out.

    Args:
        config: the model's shape.
        weights: as for `model_graph`.
        chain: as `sampling.trace` gives it; its nodes are moved into the new graph.
        vocab_size: how many ids the tokenizer has; the model may have more.
    """
    w = Writer(config, weights)
    given = model_inputs()
    hidden, past, present = decoder(w, *given)
    last = w.op("Gather", [hidden, w.number(-1)], {"axis": 1})  # (B, C)
    logits = head(w, last)  # (B, V)
    if vocab_size < config.vocab_size:
        logits = w.op("Slice", [logits, w.number([0]), w.number([vocab_size]), w.number([1])])
    ir.convenience.replace_all_uses_with(chain.inputs[0], logits)
    used = [value for value in chain.inputs[1:] if value.uses()]
    return finished(w, [*given, *past, *used], [*chain.outputs, *present], chain)


def model_inputs() -> list[ir.Value]:
    """New ids, the mask of all positions, the new ids' positions."""
    shapes = {"input_ids": IDS, "attention_mask": MASK, "position_ids": IDS}
    return [ir.val(name, ir.DataType.INT64, shape) for name, shape in shapes.items()]


def head(w: Writer, hidden: ir.Value, logits: ir.Value | None = None) -> ir.Value:
    """Logits in float32: (..., C) -> (..., V)."""
    if w.dtype == np.float32:
        return w.linear("wte", hidden, output=logits)
    return w.op("Cast", [w.linear("wte", hidden)], {"to": ir.DataType.FLOAT.value}, output=logits)


def finished(w: Writer, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], tail: ir.Graph | None = None) -> ir.Model:
    """The recorded nodes, and those of another graph behind them, as a model."""
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
