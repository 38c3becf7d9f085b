"""Training on windows that stay inside documents: `--pack documents`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from samples import SHAPE, SMALL

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.data.windows import DocumentWindows, open_windows
from gpt2demo.metrics import PADDING, token_losses
from gpt2demo.model import GPT2
from gpt2demo.training import check_resume, prepare_run, train_run
from gpt2demo.training.step import MeanLoss


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write 300 documents, half of them shorter and half of them longer than a window."""
    texts = [f"Note {number}. " + "The fox walks home. " * (number % 2 * 3) for number in range(300)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_the_loss_is_the_mean_over_tokens_without_padding() -> None:
    torch.manual_seed(0)
    model = GPT2(SHAPE)
    windows = torch.randint(0, 97, (3, 9))
    windows[0, 4:] = PADDING
    windows[1, 2:] = PADDING
    losses = [token_losses(model, row[None, row != PADDING]).flatten() for row in windows]
    assert MeanLoss(model, padded=True)(windows).item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


def test_a_training_inside_documents_can_be_resumed_exactly(rows: Path) -> None:
    run = prepare_run(rows, **SMALL, pack="documents")
    reports: list[str] = []
    check_resume(run, reports.append, steps=6)
    assert reports[0].startswith("resume is exact")
    info = run.info()
    windows = open_windows(run.data, "train", ModelConfig.create(**info["model"]), TrainConfig.create(**info["train"]))
    assert isinstance(windows, DocumentWindows)
    assert (windows.batch(0, 20) == PADDING).any()
    assert list(train_run(run))[-1].status == "finished"
