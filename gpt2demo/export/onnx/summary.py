"""Format a certificate as lines of text, for the terminal and the web page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def summary(certificate: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the comparisons and a line for each other result.

    Args:
        certificate: the content of a complete gpt2demo.json.
    """
    yield f"{'':34}{'positions':>9}{'largest difference':>20}{'divergence, nats':>18}{'same best token':>17}"
    for row in certificate["comparisons"]:
        values = f"{row['positions']:9,}{row['largest_difference']:20.1e}{row['kl_divergence']:18.1e}"
        yield f"{row['way']:34}{values}{row['argmax_agreement']:17.2%}"
    perplexity, greedy, sampled = certificate["perplexity"], certificate["greedy"], certificate["sampled"]
    values = f"{perplexity['torch']:.4f} PyTorch, {perplexity['onnx']:.4f} ONNX"
    yield f"{'perplexity':34}{values}, on {perplexity['tokens']:,} tokens of {perplexity['text']}"
    yield f"{'greedy tokens':34}{greedy['equal_tokens']} of {greedy['tokens']} equal, past the end of the context"
    names = ", ".join(name for name, _ in sampled["chain"])
    yield f"{'tokens sampled in the graph':34}{sampled['equal_tokens']} of {sampled['tokens']} equal ({names})"
    times = greedy["microseconds_per_token"]
    yield f"{'microseconds per token':34}{times['torch']:,} PyTorch, {times['onnx']:,} ONNX"
    size, original = certificate["files"]["model.onnx"]["bytes"], certificate["source"]["bytes"]
    yield f"{'bytes':34}{original:,} checkpoint, {size:,} model.onnx ({certificate['dtype']})"
