"""Everything that `gpt2demo inspect` reports about a model and a text, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from gpt2demo.engines.torch import TorchEngine
from gpt2demo.generation.generate import Model
from gpt2demo.inspection.anatomy import Anatomy, anatomy
from gpt2demo.inspection.growth import Stage, growth
from gpt2demo.inspection.heads import Chance, HeadScores, head_scores
from gpt2demo.inspection.lens import LensRow, logit_lens
from gpt2demo.inspection.surprise import TokenSurprise, surprise
from gpt2demo.inspection.trace import Trace, trace
from gpt2demo.runs.folder import Run
from gpt2demo.sampling.explain import Explanation

MATRIX_LIMIT = 2_000_000
"""Largest number of attention weights in a report, all heads together: about 16 MB of JSON."""
DIGITS = 4


@dataclass(frozen=True)
class Inside:
    """What only a model in PyTorch can show.

    Attributes:
        lens: the logit lens, a row for each layer.
        heads: scores of all heads.
        chance: the same scores of even attention.
        attention: the lower triangles of all heads, [layer][head][row] -> a list of row + 1 weights; None if they are too large.
        anatomy: the parts of the model.
        growth: the surprise of the text at each milestone of the run.
    """

    lens: list[LensRow]
    heads: list[HeadScores]
    chance: Chance
    attention: list[list[list[list[float]]]] | None
    anatomy: Anatomy
    growth: list[Stage]


@dataclass(frozen=True)
class Inspection:
    """What a model does with a text.

    Attributes:
        model: its name.
        path: its checkpoint or export.
        tokens: the text's tokens, with their surprise.
        next: how the token after the text is drawn.
        skipped: number of tokens at the beginning that `inside` leaves out: the text is longer than the context.
        inside: attention, heads, lens and anatomy; None for an export.
    """

    model: str
    path: str
    tokens: list[TokenSurprise]
    next: Explanation
    skipped: int
    inside: Inside | None

    def as_dict(self) -> dict[str, Any]:
        """Return all values for JSON."""
        inside = asdict(self.inside) if self.inside else dict.fromkeys(field.name for field in fields(Inside))
        return {
            "model": self.model,
            "path": self.path,
            "tokens": [asdict(token) for token in self.tokens],
            "next": asdict(self.next),
            "skipped": self.skipped,
            "logit_lens": inside.pop("lens"),
            **inside,
        }


def inspect_text(model: Model, text: str) -> Inspection:
    """Let a model read a text and report what happens inside.

    Args:
        model: a loaded model. Of an export, only the surprise of the tokens can be seen.
        text: the text.

    Raises:
        TokenizerError: the tokenizer cannot encode the text.
        SettingError: the text is empty.
    """
    ids = model.tokenizer.encode(text)
    common = model.name, str(model.path), surprise(model, ids), next_token(model, text)
    if not isinstance(model.engine, TorchEngine):
        return Inspection(*common, 0, None)
    kept = ids[-model.engine.n_positions :]
    return Inspection(*common, len(ids) - len(kept), _inside(model, model.engine, kept))


def next_token(model: Model, text: str) -> Explanation:
    """Return how the default samplers draw the token after a text: the distribution after each, and the random number."""
    [found] = model.generate_batch([text], max_new_tokens=1, seed=0, explain=True)
    return found.explanations[0]


def _inside(model: Model, engine: TorchEngine, ids: list[int]) -> Inside:
    """Trace the text, and compute all views of the trace."""
    found = trace(engine.model, ids)
    scores, chance = head_scores(found, engine.model)
    lens = logit_lens(found, lambda token: model.tokenizer.decode([token]))
    run = Run.of_checkpoint(model.path)
    stages = growth(run, model, ids) if run else []
    return Inside(lens, scores, chance, triangles(found), anatomy(engine.config), stages)


def triangles(found: Trace) -> list[list[list[list[float]]]] | None:
    """Return the attention of all heads as lower triangles, or None if they are too large."""
    T, config = len(found.ids), found.config
    if config.n_layer * config.n_head * T * (T + 1) // 2 > MATRIX_LIMIT:
        return None
    return [[_triangle(head) for head in found.attention(layer).tolist()] for layer in range(config.n_layer)]


def _triangle(matrix: list[list[float]]) -> list[list[float]]:
    return [[round(value, DIGITS) for value in row[: i + 1]] for i, row in enumerate(matrix)]
