"""Everything that `gpt2demo eval` reports about a model, and models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpt2demo.config import DataConfig, EvalConfig, GenerateConfig
from gpt2demo.data.tokens import load_ids, load_sizes
from gpt2demo.evaluation.baselines import TOKEN_LIMIT, Baselines, baselines, compute, verdict
from gpt2demo.evaluation.copying import Copied, Source
from gpt2demo.evaluation.fables import accepted
from gpt2demo.evaluation.overfitting import overfitting_since
from gpt2demo.evaluation.score import Score, Text, encoded, own_run, plain_text, read_text, score
from gpt2demo.evaluation.variety import Variety, variety
from gpt2demo.generation.generate import Model
from gpt2demo.generation.load import load
from gpt2demo.runs.folder import Run
from gpt2demo.storage import write_json

FINAL_OPERATIONS, FINAL_TOKENS = 2e12, 300_000
"""Most operations and tokens of an evaluation at the end of a training: about 20 seconds on two cores."""
SAMPLE = GenerateConfig(max_new_tokens=200, seed=0)
"""How samples are drawn: the same ones at each evaluation."""


@dataclass(frozen=True)
class Samples:
    """What samples of a model are like. Held-out text of equal size shows what is usual for the text itself.

    Attributes:
        samples: number of samples.
        bytes: their size.
        copied: how much of them stands in the training text.
        held_out_copied: the same for held-out text.
        variety, held_out_variety: how varied they are.
        grammatical: for runs on `tales`, the fraction of sentences that its grammar accepts.
    """

    samples: int
    bytes: int
    copied: Copied
    held_out_copied: Copied
    variety: Variety
    held_out_variety: Variety
    grammatical: float | None


@dataclass(frozen=True)
class Report:
    """The evaluation of a model.

    Attributes:
        model: path of the checkpoint or export.
        engine, provider: what computed it.
        score: how well the model predicts the text.
        baselines: how well simple methods predict it; None without the run's text.
        overfitting_since: the step since which the run has been overfitting, or None.
        samples: what its samples are like, if requested.
    """

    model: Path
    engine: str
    provider: str
    score: Score
    baselines: Baselines | None = None
    overfitting_since: int | None = None
    samples: Samples | None = None

    @property
    def verdict(self) -> str | None:
        """One sentence that compares the model with the baselines."""
        return verdict(self.score.bits_per_byte, self.baselines) if self.baselines else None

    def as_dict(self) -> dict[str, Any]:
        """Return all values, for JSON."""
        values = {**self.score.as_dict(), "model": str(self.model), "engine": self.engine, "provider": self.provider}
        for name in ("baselines", "samples"):
            part = getattr(self, name)
            values[name] = part and asdict(part)
        return {**values, "verdict": self.verdict, "overfitting_since": self.overfitting_since}


def final_report(run: Run) -> Report | None:
    """Evaluate a run that has finished and store the result as evaluation.json in its folder.

    Returns:
        The report, or None if it would take too long.
    """
    tokens, parameters = load_sizes(run.data)["validation"].tokens, run.info().get("parameters") or 0
    if tokens > FINAL_TOKENS or 4 * parameters * tokens > FINAL_OPERATIONS:  # twice for each token: windows overlap by half
        return None
    [report] = evaluate_all([load(run.path)])
    write_json(run.path / "evaluation.json", {"step": run.read_state().step, **report.as_dict()})
    return report


def evaluate_all(
    models: Sequence[Model],
    places: Sequence[str | Path] = (),
    config: DataConfig | None = None,
    settings: EvalConfig | None = None,
) -> list[Report]:
    """Evaluate models on the same text: files, or the validation split of the first model's run.

    Args:
        models: loaded models, at least one.
        places, config: as in `evaluate`.
        settings: stride and number of samples.

    Raises:
        Error: as `evaluate` does; or a model's tokenizer cannot encode the text.
    """
    settings = settings or EvalConfig()
    first, run = models[0], own_run(models[0])
    text = read_text(first, places, config)
    found = None
    if run:
        found = _baselines_on(text, run, first) if places else baselines(run, first)
    texts = [text, *(encoded(documents(text, first), other) for other in models[1:])]
    return [_report(model, text, found, settings) for model, text in zip(models, texts, strict=True)]


def documents(text: Text, model: Model) -> list[str]:
    """Return the documents of an encoded text."""
    ids, end = text.ids.tolist(), model.tokenizer.eos_id
    borders = [-1, *(place for place, number in enumerate(ids) if number == end), len(ids)]
    parts = (ids[start + 1 : stop] for start, stop in pairwise(borders))
    return [model.tokenizer.decode(part) for part in parts if part]


def _report(model: Model, text: Text, found: Baselines | None, settings: EvalConfig) -> Report:
    """Evaluate one model on an encoded text."""
    run = own_run(model)
    result = score(model.engine, text.ids, text.bytes, text.characters, stride=settings.stride)
    return Report(
        model=model.path,
        engine=model.engine.name,
        provider=model.engine.provider,
        score=result,
        baselines=found,
        overfitting_since=overfitting_since(run.checked_records(run.metrics)) if run else None,
        samples=samples_of(model, run, settings.samples) if run and settings.samples else None,
    )


def _baselines_on(text: Text, run: Run, model: Model) -> Baselines:
    """Return the baselines of another text than the run's validation split."""
    return compute(load_ids(run.data, "train"), text.ids, model.tokenizer)


def samples_of(model: Model, run: Run, count: int) -> Samples:
    """Draw samples and compare them with the run's training text."""
    texts = [text.text for text in model.generate_batch([""], SAMPLE.with_changes(samples=count))]
    train = plain_text(model.tokenizer, load_ids(run.data, "train")[-TOKEN_LIMIT:])
    validation = plain_text(model.tokenizer, load_ids(run.data, "validation")[:TOKEN_LIMIT])
    held_out = _pieces(validation, [len(text) for text in texts])
    source = Source(train.encode())
    return Samples(
        samples=count,
        bytes=sum(len(text.encode()) for text in texts),
        copied=source.measure("\n".join(texts).encode()),
        held_out_copied=source.measure("\n".join(held_out).encode()),
        variety=variety(texts),
        held_out_variety=variety(held_out),
        grammatical=accepted(texts) if (run.info().get("dataset") or "").partition(":")[0] == "tales" else None,
    )


def _pieces(text: str, lengths: Sequence[int]) -> list[str]:
    """Return pieces of a text of the given lengths, evenly spaced."""
    starts = [number * len(text) // len(lengths) for number in range(len(lengths))]
    return [text[start : start + length] for start, length in zip(starts, lengths, strict=True)]
