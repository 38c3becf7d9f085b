"""A large text is prepared once; runs with the same text and settings share the result."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from samples import SMALL, TEXT, Cli, train_small

import gpt2demo
from gpt2demo.data import corpus, encoding, tokens
from gpt2demo.data.tokens import load_ids
from gpt2demo.errors import DataError, TokenizerError
from gpt2demo.evaluation import evaluate
from gpt2demo.runs.folder import Run
from gpt2demo.training import prepare_run, resume, stores, text
from gpt2demo.training.stores import clean_stores, stores_dir

BPE = {**SMALL, "tokenizer": "bpe", "vocab_size": 300}


@pytest.fixture(autouse=True)
def small_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use stores for the small texts of tests too, with several files of ids."""
    monkeypatch.setattr(stores, "STORED", 1)
    monkeypatch.setattr(tokens, "SHARD", 1000)
    monkeypatch.setattr(encoding, "UNIT", 500)
    monkeypatch.setattr(encoding, "BATCH", 1000)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each reading, training and encoding of a text."""
    done: list[str] = []

    def count(module: Any, name: str) -> None:
        original = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(corpus.Corpus, "survey")
    count(text, "train_tokenizer")
    count(text, "write_splits")
    return done


def ids(run: Run) -> list[list[int]]:
    return [load_ids(run.data, split).tolist() for split in ("train", "validation")]


def test_a_second_run_starts_without_reading_the_text(text_file: Path, work: list[str]) -> None:
    first = prepare_run(text_file, **BPE)
    assert work == ["survey", "train_tokenizer", "write_splits"]
    second = prepare_run(text_file, **BPE, seed=5)
    assert len(work) == 3
    assert ids(first) == ids(second)
    for key in ("data", "cleaning", "store"):
        assert first.info()[key] == second.info()[key]
    assert (first.data / "train.npy").stat().st_ino == (second.data / "train.npy").stat().st_ino, "the disk has them once"


def test_a_run_with_a_store_is_like_one_without(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = prepare_run(text_file, run="shared", **BPE)
    monkeypatch.setattr(stores, "STORED", 2**30)
    own = prepare_run(text_file, run="own", **{**BPE, "validation_fraction": 0.2})
    assert "store" in shared.info()
    assert "store" not in own.info()
    again = prepare_run(text_file, run="again", **BPE)
    assert ids(again) == ids(shared), "a store that exists is used for a small text as well"
    shutil.rmtree(stores_dir())
    assert ids(prepare_run(text_file, run="new", **BPE)) == ids(shared)


@pytest.mark.parametrize(
    "other",
    [
        {"vocab_size": 301},
        {"tokenizer": "byte", "vocab_size": None},
        {"normalize": "nfkc"},
        {"validation_fraction": 0.2},
    ],
)
def test_other_settings_are_another_store(text_file: Path, work: list[str], other: dict[str, Any]) -> None:
    first = prepare_run(text_file, **BPE).info()["store"]
    assert prepare_run(text_file, **{**BPE, **other}).info()["store"] != first
    assert work.count("write_splits") == 2


def test_a_changed_text_is_read_again_and_equal_content_is_recognized(text_file: Path, tmp_path: Path, work: list[str]) -> None:
    first = prepare_run(text_file, **BPE)
    os.utime(text_file, ns=(0, 0))
    copy = tmp_path / "elsewhere" / "copy.txt"
    copy.parent.mkdir()
    shutil.copy(text_file, copy)
    for path in (text_file, copy):
        run = prepare_run(path, **BPE)
        assert run.info()["store"] == first.info()["store"]
        assert run.info()["data"][0]["path"] == str(path)
    assert work == ["survey", "train_tokenizer", "write_splits", "survey", "survey"]
    text_file.write_text(TEXT.replace("fox", "cat"), encoding="utf-8")
    assert prepare_run(text_file, **BPE).info()["store"] != first.info()["store"]


def test_a_dataset_is_known_by_its_options(work: list[str]) -> None:
    for _ in range(2):
        run = prepare_run(dataset="tales:stories=300", **SMALL)
    assert work.count("survey") == 1
    assert run.info()["data"][0]["path"] == "dataset:tales:stories=300"
    prepare_run(dataset="tales:stories=301", **SMALL)
    assert work.count("survey") == 2


def test_a_run_trains_resumes_and_is_evaluated_from_several_files_of_ids(text_file: Path) -> None:
    train_small(text_file, run="mine", **{**BPE, "steps": 6})
    run = Run(Path(os.environ["GPT2DEMO_RUNS_DIR"]) / "mine")
    assert len(list(run.data.glob("train-0*.npy"))) > 1
    list(resume("mine", steps=8))
    assert run.read_state().status == "finished"
    assert evaluate(gpt2demo.load("mine")).tokens == len(load_ids(run.data, "validation")) - 1


def test_cleaning_removes_stores_without_runs_and_no_files_of_runs(text_file: Path, invoke: Cli) -> None:
    kept = prepare_run(text_file, run="kept", **BPE)
    gone = prepare_run(text_file, run="gone", **{**BPE, "vocab_size": 301})
    before = ids(kept)
    (stores_dir() / ".partial-0123").mkdir()
    shutil.rmtree(gone.path)
    done = invoke("data", "--clean-cache")
    assert done.returncode == 0, done.stderr
    assert "2 stores" in done.stdout
    assert [path.name for path in stores_dir().iterdir() if path.is_dir()] == [kept.info()["store"]]
    shutil.rmtree(stores_dir())
    assert ids(kept) == before, "a run is whole without its store"
    assert clean_stores().stores == 0


def test_a_disk_without_hard_links_gets_copies(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    first, second = (prepare_run(text_file, **BPE) for _ in range(2))
    assert ids(first) == ids(second)
    assert (first.data / "train.npy").stat().st_nlink == 1


# Failures


class Killed(BaseException):
    """Stands for the end of the process: nothing is cleaned up."""


def test_a_killed_preparation_is_continued(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: list[str]
) -> None:
    expected = ids(prepare_run(text_file, run="whole", **BPE))
    shutil.rmtree(stores_dir())
    monkeypatch.setattr(tokens, "COMMIT", 1)

    def encode_some(*args: Any) -> Any:
        for number, encoded in enumerate(encoding.encode_batches(*args)):
            if number == 5:
                raise Killed
            yield encoded

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "encode_batches", encode_some)
        with pytest.raises(Killed):
            prepare_run(text_file, **BPE)
    assert [path.name[:9] for path in stores_dir().iterdir() if path.is_dir()] == [".partial-"]
    work.clear()
    assert ids(prepare_run(text_file, **BPE)) == expected
    assert work == ["survey", "write_splits"], "the tokenizer is not trained again"


def test_a_text_that_cannot_be_encoded_leaves_nothing_behind(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise TokenizerError("no")

    monkeypatch.setattr(text, "write_splits", refuse)
    with pytest.raises(TokenizerError):
        prepare_run(text_file, **BPE)
    assert not [path for path in stores_dir().iterdir() if path.is_dir()]


def test_a_text_that_changes_while_it_is_read_is_refused(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*args: Any) -> Any:
        text_file.write_text(TEXT + "one more line\n", encoding="utf-8")
        return encoding.train_tokenizer(*args)

    monkeypatch.setattr(text, "train_tokenizer", train)
    with pytest.raises(DataError, match=r"text\.txt: the text has changed while it was read"):
        prepare_run(text_file, **BPE)


def test_two_trainings_may_prepare_the_same_text_at_once(text_file: Path, work: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda name: prepare_run(text_file, run=name, **BPE), "ab")
    assert ids(one) == ids(other)
    assert (work.count("survey"), work.count("write_splits")) == (2, 1), "the second waits for the first"
    assert len([path for path in stores_dir().iterdir() if path.is_dir()]) == 1


# Paths and lists


def test_the_list_of_many_files_is_linked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LISTED", 2)
    monkeypatch.setattr(text, "LISTED", 2)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(TEXT, encoding="utf-8")
    runs = [prepare_run(tmp_path / "*.txt", **SMALL) for _ in range(2)]
    for run in runs:
        assert (run.path / "files.jsonl").read_text(encoding="utf-8").count("\n") == 3
        assert run.info()["data"][0]["files"] == 3
