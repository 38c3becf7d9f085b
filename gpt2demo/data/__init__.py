"""Read and clean text, tokenize it, and cut it into training batches; includes the built-in example dataset."""

from __future__ import annotations

from gpt2demo.data.compare import compare_tokenizers
from gpt2demo.data.corpus import Corpus, load_corpus
from gpt2demo.data.preparation import prepare_corpus
from gpt2demo.data.sources import Source
from gpt2demo.data.tales import Tales
from gpt2demo.data.windows import Windows
from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Dataset

__all__ = ["Corpus", "Source", "Windows", "compare_tokenizers", "load_corpus", "prepare_corpus"]


@hookimpl
def gpt2demo_datasets() -> dict[str, type[Dataset]]:
    """Return the built-in example datasets by name."""
    return {"tales": Tales}
