"""A run as an object: what it recorded, its checkpoints, and what can be done with it. For notebooks and scripts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2demo.config import DeviceName, EngineName, ModelConfig, TrainConfig
from gpt2demo.runs import find
from gpt2demo.runs.checkpoint import Checkpoint, best_of
from gpt2demo.runs.find import find_checkpoint, find_run, saved_checkpoints, summary
from gpt2demo.runs.folder import Status

if TYPE_CHECKING:
    import pandas as pd

    from gpt2demo.evaluation.score import Score
    from gpt2demo.generation.generate import Model
    from gpt2demo.training.callback import Callback
    from gpt2demo.training.events import Event, StopRequest

SPLITS = ("batch", "train", "validation")


@dataclass(frozen=True)
class RunCheckpoint(Checkpoint):
    """A checkpoint of a run.

    Attributes:
        best: True if it has the lowest validation loss.
        newest: True if it is the last one.
    """

    best: bool
    newest: bool


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run.

    Attributes:
        model: the shape.
        train: the training settings; None for an imported model.
    """

    model: ModelConfig
    train: TrainConfig | None


class Run:
    """A run.

    Args:
        name: its name or path.

    Raises:
        RunError: it does not exist; the message lists the runs.
    """

    def __init__(self, name: str | Path) -> None:
        self._folder = find_run(str(name))

    @property
    def name(self) -> str:
        """The run's name."""
        return self._folder.name

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def status(self) -> Status:
        """`running`, `finished`, `stopped`, `failed` or `interrupted`."""
        return self._folder.state().status

    @property
    def config(self) -> RunConfig:
        """The settings.

        Raises:
            RunError: run.json is damaged.
            SettingError: a setting is invalid.
        """
        info = self._folder.info()
        train = info.get("train")
        return RunConfig(ModelConfig.create(**info["model"]), None if train is None else TrainConfig.create(**train))

    @property
    def checkpoints(self) -> list[RunCheckpoint]:
        """The checkpoints, oldest first. Their files are not verified; `load` does that."""
        saved = saved_checkpoints(self._folder)
        best = best_of(saved)
        return [RunCheckpoint(**asdict(entry), best=entry == best, newest=entry == saved[-1]) for entry in saved]

    def losses(self) -> pd.DataFrame:
        """Return the losses in nats per token, a row per step: columns `batch`, `train` and `validation`.

        `batch` is the loss of the batch that the step trained on, `train` and `validation` those of evaluations; NaN without one.
        """
        metrics = self.metrics().drop_duplicates(["step", "split"], keep="last")
        table = metrics.pivot(index="step", columns="split", values="loss")
        return table.reindex(columns=list(SPLITS)).rename_axis(columns=None)

    def metrics(self) -> pd.DataFrame:
        """Return all records of metrics.jsonl as a table; `gpt2demo.events.Step` describes the columns.

        Raises:
            CheckpointError: the file is damaged.
        """
        return self._table(self._folder.metrics, ["step", "split", "loss"])

    def samples(self) -> pd.DataFrame:
        """Return the samples that were generated during training: columns `step`, `prompt`, `text` and `time`.

        Raises:
            CheckpointError: the file is damaged.
        """
        return self._table(self._folder.samples, ["step", "prompt", "text", "time"])

    def _table(self, file: Path, columns: list[str]) -> pd.DataFrame:
        """Return the records of a .jsonl file as a table, with these columns if there are none."""
        import pandas as pd

        return pd.DataFrame(list(self._folder.checked_records(file)) or {name: [] for name in columns})

    def load(self, checkpoint: int | str = "newest", *, engine: EngineName = "auto", device: DeviceName = "auto") -> Model:
        """Load a checkpoint for generation.

        Args:
            checkpoint: a step, `best` or `newest`.
            engine, device: as in `gpt2demo.load`.

        Raises:
            RunError: there is no such checkpoint; the message lists those that exist.
            CheckpointError: it is damaged.
        """
        from gpt2demo.generation.load import load

        return load(self._model(checkpoint), engine=engine, device=device)

    def _model(self, checkpoint: int | str) -> Path:
        """Return the MODEL of a checkpoint; for the newest the run, of which a damaged one is skipped and an export found."""
        return self.path if checkpoint == "newest" else find_checkpoint(self._folder, checkpoint).path

    def evaluate(self, text: str | Path | Sequence[str | Path] = (), checkpoint: int | str = "newest", **settings: Any) -> Score:
        """Score a checkpoint on text, by default on the run's validation split; see `gpt2demo.evaluate`."""
        from gpt2demo.evaluation.score import evaluate

        return evaluate(self.load(checkpoint), text, **settings)

    def export(self, format: str = "onnx", checkpoint: int | str = "newest", **options: Any) -> Path:  # noqa: A002  # the option's name
        """Export a checkpoint and verify it; return the folder.

        Args:
            format: name of an exporter.
            checkpoint: a step, `best` or `newest`.
            options: `output`, `dtype`, `report`, and the exporter's own, such as `samplers`.

        Raises:
            Error: as `gpt2demo export`.
        """
        from gpt2demo.export.export import export_model

        return export_model(self._model(checkpoint), format, **options)

    def resume(self, *, stop: StopRequest = lambda: None, callback: Callback | None = None, **changes: Any) -> Generator[Event]:
        """Continue the training from the newest checkpoint; yield its events.

        Args:
            stop, callback: as in `gpt2demo.train`.
            changes: `steps` or `epochs`, a new length of the whole run.

        Raises:
            RunError: no steps are left, or another process trains the run.
        """
        from gpt2demo.training.train import resume

        yield from resume(str(self.path), stop=stop, callback=callback, **changes)

    def __repr__(self) -> str:
        facts = "".join(f", {name} {value}" for name, value in self._facts().items())
        return f"<Run {self.name!r}{facts}>"

    def _repr_html_(self) -> str:
        """Return the run as a table, for notebooks."""
        rows = {"run": self.name, **self._facts()}
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table>{cells}</table>"

    def _facts(self) -> dict[str, str]:
        """Return what describes the run, as text."""
        found = {"checkpoints": len(list(self._folder.checkpoints.glob("step-*"))), **summary(self._folder)}
        if found.get("total_steps"):
            found["step"] = f"{found['step']} of {found['total_steps']}"
        names = ("status", "step", "parameters", "validation_loss", "tokenizer", "checkpoints")
        return {name.replace("_", " "): _text(found[name]) for name in names if found.get(name) is not None}


def _text(value: object) -> str:
    """Return a value as text: numbers with separators, losses with four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else str(value)


def list_runs() -> list[Run]:
    """Return all runs, the most recently active first."""
    return [Run(run.path) for run in find.list_runs()]
