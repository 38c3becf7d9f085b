"""Text is made ready: cleaned as asked, measured under tokenizers side by side, written so that it can be read again."""

from __future__ import annotations

import io
import json
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from samples import SMALL, Cli

import gpt2demo
from gpt2demo import plugins
from gpt2demo.cli import display
from gpt2demo.config import DataConfig
from gpt2demo.data import corpus
from gpt2demo.data.compare import compare
from gpt2demo.data.corpus import clean, load, make, write
from gpt2demo.data.sources import read_file
from gpt2demo.errors import CheckpointError, DataError, SettingError
from gpt2demo.progress import task, use_display
from gpt2demo.runs.find import find_run, summary
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer

characters = st.characters(codec="utf-8", exclude_characters="\0")
some_text = st.text(characters).filter(lambda text: text.strip())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A hundred short documents in a .jsonl file; every tenth is the first one again."""
    texts = [f"Story {n * (n % 10 > 0)}: the fox is a friend of Zoë.\nThe end.\n" for n in range(100)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


# Cleaning


def cleaned(documents: list[str], **settings: str) -> tuple[list[str], int, int]:
    made = clean(documents, [], DataConfig.create(**settings))
    return made.documents, made.removed_documents, made.removed_lines


def test_nothing_is_changed_unless_asked() -> None:
    documents = ["ﬁne", "ﬁne", "a\na\n"]
    assert cleaned(documents) == (documents, 0, 0)


def test_documents_that_came_before_are_dropped() -> None:
    assert cleaned(["one", "two", "one", "one "], unique="documents") == (["one", "two", "one "], 1, 0)


def test_lines_that_came_before_are_dropped_in_whichever_document() -> None:
    documents = ["Menu\r\n\r\nFirst page\r\n", "Menu\n\nSecond page\n  Menu\n", "\n Menu", "Second\u2028page\n"]
    kept = ["Menu\r\n\r\nFirst page\r\n", "\nSecond page\n", "Second\u2028page\n"]
    assert cleaned(documents, unique="lines") == (kept, 1, 3)


def test_normalised_texts_are_equal_texts() -> None:
    zoe, decomposed = "Zoë", unicodedata.normalize("NFD", "Zoë")
    assert cleaned([zoe, decomposed, "ﬁne"], normalize="nfc", unique="documents") == ([zoe, "ﬁne"], 1, 0)
    assert cleaned([decomposed, "ﬁne"], normalize="nfkc") == ([zoe, "fine"], 0, 0)


@given(st.lists(st.text(characters)), st.sampled_from(["documents", "lines"]), st.sampled_from(["none", "nfc", "nfkc"]))
def test_what_is_clean_stays_as_it_is(documents: list[str], unique: str, normalize: str) -> None:
    once, *_ = cleaned(documents, unique=unique, normalize=normalize)
    assert cleaned(once, unique=unique, normalize=normalize) == (once, 0, 0)
    if unique == "lines":
        lines = [line.strip() for document in once for line in io.StringIO(document, newline="") if line.strip()]
        assert len(lines) == len(set(lines))


# Measuring


def test_tokenizers_are_measured_side_by_side(rows: Path) -> None:
    documents = load([rows]).documents
    size = sum(len(document.encode()) for document in documents)
    byte, small, large = compare(documents, ["byte", "bpe:vocab_size=270", "bpe:vocab_size=280"])
    assert (byte.vocabulary, byte.tokens, byte.bytes_per_token) == (256, size, 1.0)
    trained = BpeTokenizer.train(documents, vocab_size=270)
    assert small.vocabulary == 270
    assert small.tokens == sum(len(trained.encode(document)) + 1 for document in documents), "and an end of each document"
    assert small.bytes_per_token == pytest.approx(size / small.tokens)
    assert large.bytes_per_token > small.bytes_per_token > 1


class Picky(ByteTokenizer):
    """A plugin's tokenizer that does not like any text."""

    @classmethod
    def train(cls, texts: object) -> Picky:
        raise RuntimeError("too\nshort")


def test_a_tokenizer_that_cannot_be_trained_says_why_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.registry()._parts["tokenizers"], "picky", plugins.registry()._parts["tokenizers"]["byte"])
    monkeypatch.setattr(
        plugins, "train_tokenizer", lambda name, texts, options: (Picky if name == "picky" else ByteTokenizer).train(texts)
    )
    measured = {row.tokenizer: row for row in compare(["text\n"])}
    assert measured.keys() == plugins.tokenizers().keys()
    assert (measured["picky"].error, measured["picky"].tokens) == ("too short", None)
    assert (measured["byte"].error, measured["byte"].tokens) == (None, 5)


def test_a_tokenizer_that_is_not_there_or_has_no_such_option_is_refused() -> None:
    with pytest.raises(gpt2demo.PluginError, match="nope"):
        list(compare(["text"], ["nope"]))
    with pytest.raises(SettingError, match="vocab_size='3'"):
        list(compare(["text"], ["bpe:vocab_size=3"]))


# Writing


@pytest.mark.parametrize("name", ["made/all.jsonl", "all.jsonl.gz"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    documents = ["Zoë\r\n", '"\\ \u2028\x85\ufeff', "\ufeff", "x" * 100_000]
    write(documents, tmp_path / name)
    assert read_file(tmp_path / name)[0] == documents
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name], "nothing else is left"


@given(st.lists(some_text, min_size=1))
def test_any_documents_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "all.jsonl"
    write(documents, path)
    assert read_file(path)[0] == documents


def test_the_same_documents_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write(["one", "two"], tmp_path / name)
    content = (tmp_path / "a.jsonl.gz").read_bytes()
    assert content == (tmp_path / "b.jsonl.gz").read_bytes()
    assert content[3:8] == bytes(5), "neither name nor time"


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, rows: Path) -> None:
    before = rows.read_bytes()
    with pytest.raises(SettingError, match="is already there"):
        make([rows], output=rows)
    with pytest.raises(SettingError, match=r"ends in \.jsonl or \.jsonl\.gz"):
        make([rows], output=tmp_path / "all.csv")
    with pytest.raises(CheckpointError, match="could not be written"):
        write(["one"], rows / "all.jsonl")
    assert rows.read_bytes() == before


# All together


def test_a_text_is_made_ready_in_one_call(tmp_path: Path, rows: Path) -> None:
    made = make([rows], ["byte"], tmp_path / "clean.jsonl", unique="documents")
    assert (made["documents"], made["removed_documents"], made["output"]) == (91, 9, str(tmp_path / "clean.jsonl"))
    assert made["bytes"] == made["characters"] + 91, "each ë has two bytes"
    assert (made["sources"][0]["path"], made["sources"][0]["documents"]) == (str(rows), 100)
    assert [row["tokens"] for row in made["tokenizers"]] == [made["bytes"]]
    assert make([tmp_path / "clean.jsonl"], ["byte"], unique="documents")["removed_documents"] == 0


def test_a_dataset_is_made_ready_as_a_file_is(tmp_path: Path) -> None:
    made = make(["tales:stories=20,seed=3"], ["byte"], tmp_path / "tales.jsonl")
    assert (made["documents"], made["sources"][0]["path"]) == (20, "dataset:tales:stories=20,seed=3")
    assert load([tmp_path / "tales.jsonl"]).documents == load(dataset="tales:stories=20,seed=3").documents


def test_a_run_remembers_what_was_read_and_how_it_was_cleaned(rows: Path) -> None:
    list(gpt2demo.train(rows, run="mine", unique="documents", normalize="nfc", **SMALL))
    info = find_run("mine").info()
    assert [(source["path"], source["documents"], len(source["sha256"])) for source in info["data"]] == [(str(rows), 100, 64)]
    expected = {
        "field": "text",
        "normalize": "nfc",
        "unique": "documents",
        "documents": 91,
        "removed_documents": 9,
        "removed_lines": 0,
    }
    assert info["cleaning"].items() >= expected.items()


def test_rows_are_split_as_whole_documents(rows: Path) -> None:
    list(gpt2demo.train(rows, run="mine", **SMALL))
    validation = (find_run("mine").data / "validation.npy").read_bytes().replace(b"\0", b"")
    assert validation.count(b"Story ") == validation.count(b"The end.\n") == 10


def test_the_list_of_runs_names_a_few_of_many_files(tmp_path: Path, text_file: Path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.txt").write_bytes(text_file.read_bytes())
    list(gpt2demo.train(tmp_path / "[a-e].txt", run="many", **SMALL))
    assert summary(find_run("many"))["data"] == "a.txt, b.txt, c.txt, and 2 more"


def test_a_run_of_more_files_than_its_folder_can_tell_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2demo.training.prepare.FILES", 2)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    with pytest.raises(DataError, match=r"3 files.*gpt2demo data .* --output all\.jsonl"):
        list(gpt2demo.train(tmp_path, **SMALL))


# In the terminal


def test_data_shows_a_text_and_writes_it(cli: Cli, tmp_path: Path, rows: Path) -> None:
    done = cli(
        "data",
        rows,
        "--unique",
        "lines",
        "--tokenizer",
        "byte",
        "--tokenizer",
        "bpe:vocab_size=270",
        "--output",
        "clean.jsonl.gz",
    )
    assert (done.returncode, done.stderr) == (0, "")
    whole, tokenizers = done.stdout.split("tokenizer ")
    assert whole.split() == [
        "documents",
        "bytes",
        "characters",
        "removed_documents",
        "removed_lines",
        "output",
        "91",
        *whole.split()[7:],
    ]
    assert [line.split()[:2] for line in tokenizers.splitlines()[1:]] == [["byte", "256"], ["bpe:vocab_size=270", "270"]]
    again = json.loads(cli("data", tmp_path / "clean.jsonl.gz", "--tokenizer", "char", "--json").stdout)
    assert (again["documents"], [row["tokenizer"] for row in again["tokenizers"]]) == (91, ["char"])


def test_train_and_eval_read_what_data_reads(cli: Cli, tmp_path: Path, rows: Path) -> None:
    (tmp_path / "texts").mkdir()
    write(load([rows]).documents, tmp_path / "texts" / "all.jsonl.gz")
    tiny = "--tokenizer byte --n-layer 1 --n-head 2 --n-embd 16 --n-positions 24 --batch-size 4 --steps 2 --eval-batches 1 --sample-tokens 0".split()
    done = cli("train", "texts", "--unique", "documents", *tiny)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/runs/texts-nano\n"
    scores = [json.loads(cli("eval", "texts-nano", place, "--json").stdout) for place in ("*.jsonl", "texts")]
    assert scores[0] == scores[1]
    fewer = json.loads(cli("eval", "texts-nano", "texts", "--unique", "documents", "--json").stdout)
    assert fewer["tokens"] < scores[0]["tokens"]
    refused = cli("eval", "texts-nano", "--field", "body")
    assert (refused.returncode, "there is no text to read" in refused.stderr) == (2, True)


def test_a_file_shorter_than_the_context_says_how_long_it_is(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Once upon a time.", encoding="utf-8")
    done = cli("train", "short.txt", "--tokenizer", "byte")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gpt2demo: error: the train part of the text has 16 tokens, but a context of 128 needs at least 129; "
        "give more text or a smaller --n-positions\n"
    )


# How far it is


def test_long_work_tells_how_far_it_is() -> None:
    told: list[tuple[str, int | None, list[int]]] = []

    class Display:
        def __init__(self, what: str, total: int | None) -> None:
            told.append((what, total, []))

        def __enter__(self):
            return told[-1][2].append

        def __exit__(self, *error: object) -> None:
            told[-1][2].append(-1)

    documents = ["Once upon a time there was a fox. " * 200, "The end.\n"]
    with use_display(Display):
        made = corpus.train_tokenizer("bpe", documents, {"vocab_size": "270"})
    (what, total, steps), *_ = told
    assert (what, total) == ("training the tokenizer bpe", len(documents[0]) + len(documents[1]))
    assert sum(steps[:-1]) == total + 1, "and the line break that each document ends with"
    assert len(steps) > 5, "a single long document moves too"
    assert steps[-1] == -1
    assert made.vocab_size == BpeTokenizer.train(documents, vocab_size=270).vocab_size


def shown(monkeypatch: pytest.MonkeyPatch, *, on_terminal: bool) -> str:
    """What is to be seen of a work on a terminal or elsewhere."""
    console = Console(file=io.StringIO(), force_terminal=on_terminal, width=120)
    monkeypatch.setattr(display, "console", console)
    with display.show_progress(), task("counting sheep", 100) as advance:
        for _ in range(3):
            advance(25)
        time.sleep(0.3)  # the bar is drawn ten times a second
    return console.file.getvalue()


def test_progress_is_a_bar_on_a_terminal_and_silent_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "counting sheep" in (bar := shown(monkeypatch, on_terminal=True))
    assert "75%" in bar
    assert shown(monkeypatch, on_terminal=False) == ""
    assert capsys.readouterr().out == ""


def test_long_progress_is_a_line_now_and_then_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SILENCE", -1)
    assert (
        shown(monkeypatch, on_terminal=False)
        == "counting sheep: 25 of 100\ncounting sheep: 50 of 100\ncounting sheep: 75 of 100\n"
    )
