"""Loading, cleaning and writing a corpus."""

from __future__ import annotations

import io
import itertools
import json
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SMALL, TEXT, Cli, read_texts

import gpt2demo
from gpt2demo.cli import app
from gpt2demo.config import DataConfig
from gpt2demo.data import cleaning, corpus, formats
from gpt2demo.data.corpus import load_corpus
from gpt2demo.data.preparation import prepare_corpus, write_jsonl
from gpt2demo.errors import CheckpointError, SettingError
from gpt2demo.evaluation.score import evaluate
from gpt2demo.runs.find import find_run, summary
from gpt2demo.runs.folder import Run
from gpt2demo.training import prepare_run
from gpt2demo.training import text as text_of_runs

characters = st.characters(codec="utf-8", exclude_characters="\0")
some_text = st.text(characters).filter(lambda text: text.strip())


def write_rows(path: Path) -> Path:
    """Write a hundred short documents to a .jsonl file; every tenth repeats the first."""
    texts = [f"Story {n * (n % 10 > 0)}: the fox is a friend of Zoë.\nThe end.\n" for n in range(100)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


# Cleaning


def cleaned(documents: list[str], **settings: str) -> tuple[list[str], int, int]:
    """Return the cleaned documents, and how many documents and lines were removed."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "all.jsonl")
        path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents), encoding="utf-8")
        text = load_corpus([path], config=DataConfig.create(**settings))
        survey = text.survey()
        return list(text.documents), survey.removed_documents, survey.removed_lines


def test_documents_are_unchanged_by_default() -> None:
    documents = ["ﬁne", "ﬁne", "a\na\n"]
    assert cleaned(documents) == (documents, 0, 0)


def test_duplicate_documents_are_removed() -> None:
    assert cleaned(["one", "two", "one", "one "], unique="documents") == (["one", "two", "one "], 1, 0)


def test_duplicate_lines_are_removed_across_documents() -> None:
    documents = ["Menu\r\n\r\nFirst page\r\n", "Menu\n\nSecond page\n  Menu\n", "\n Menu", "Second\u2028page\n"]
    kept = ["Menu\r\n\r\nFirst page\r\n", "\nSecond page\n", "Second\u2028page\n"]
    assert cleaned(documents, unique="lines") == (kept, 1, 3)


def test_duplicates_are_found_among_many_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are sorted in small batches and merged; the result is that of a set."""
    monkeypatch.setattr(cleaning, "BATCH", 8)
    numbers = np.random.default_rng(0).integers(0, 300, 1000).tolist()
    found, seen = cleaning.FirstOccurrences(), set()
    for number in numbers:
        found.add(number << 55)
    expected = [number not in seen and not seen.add(number) for number in numbers]
    assert list(itertools.islice(found.finish().flags(), 1000)) == expected
    assert found.repeated == 1000 - sum(expected)


# Documents in pieces


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "PIECE", 20)
    monkeypatch.setattr(formats, "CHUNK", 16)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("settings", [{}, {"normalize": "nfc"}, {"normalize": "nfkc"}, {"unique": "documents"}])
def test_a_long_document_is_the_same_in_pieces(tmp_path: Path, settings: dict[str, str]) -> None:
    text = "Ein A\u0308pfel, 각\u11a8\uff9e " * 9 + "e\u0301" * 50 + "\r\nline\n\n" * 20 + "a" * 100 + "\u0301b"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_text(text, encoding="utf-8", newline="")
    expected = unicodedata.normalize(settings.get("normalize", "").upper(), text) if "normalize" in settings else text
    documents, _ = read_texts(tmp_path, **settings)
    assert documents == [expected] * (1 if "unique" in settings else 2)
    pieces = list(load_corpus([tmp_path / "a.txt"]).pieces())
    assert len(pieces) > 10
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.usefixtures("small_pieces")
def test_a_survey_counts_what_the_text_holds(tmp_path: Path) -> None:
    texts = ["Zoë\n", "a long document " * 10, " ", "short"]
    write_jsonl(texts, tmp_path / "all.jsonl")
    survey = load_corpus([tmp_path / "all.jsonl"]).survey()
    assert survey.documents == 3
    assert (survey.characters, survey.bytes) == (169, 170)
    assert survey.long.keys() == {1}, "documents of one piece need not be remembered"
    assert survey.long[1].characters == 160
    assert survey.long[1].hash == cleaning.text_hash(texts[1])


def test_a_sample_is_the_text_in_order_or_a_part_of_it(tmp_path: Path) -> None:
    texts = [f"Document {number:04}.\n" for number in range(1000)]
    write_jsonl(texts, tmp_path / "all.jsonl")
    text = load_corpus([tmp_path / "all.jsonl"])
    assert list(text.survey().sample.documents()) == texts
    sample = text.survey(20_000).sample
    drawn = list(sample.documents())
    assert not sample.complete
    assert 100 < len(drawn) < 150, "each document counts 16 characters and its objects"
    assert drawn == sorted(drawn)
    assert drawn[0] < "Document 0100"
    assert drawn[-1] > "Document 0900"
    assert list(text.survey(20_000).sample.documents()) == drawn
    assert list(text.survey(20_000, seed=1).sample.documents()) != drawn


def test_duplicates_are_found_after_normalization() -> None:
    composed, decomposed = "Zoë", unicodedata.normalize("NFD", "Zoë")
    assert cleaned([composed, decomposed, "ﬁne"], normalize="nfc", unique="documents") == ([composed, "ﬁne"], 1, 0)
    assert cleaned([decomposed, "ﬁne"], normalize="nfkc") == ([composed, "fine"], 0, 0)


@settings(max_examples=40)
@given(st.lists(some_text, min_size=1), st.sampled_from(["documents", "lines"]), st.sampled_from(["none", "nfc", "nfkc"]))
def test_cleaning_is_idempotent(documents: list[str], unique: str, normalize: str) -> None:
    once, *_ = cleaned(documents, unique=unique, normalize=normalize)
    assert cleaned(once, unique=unique, normalize=normalize) == (once, 0, 0)
    if unique == "lines":
        lines = [line.strip() for document in once for line in io.StringIO(document, newline="") if line.strip()]
        assert len(lines) == len(set(lines))


# Writing


@pytest.mark.parametrize("name", ["new/all.jsonl", "all.jsonl.gz"])
def test_written_documents_are_read_back_unchanged(tmp_path: Path, name: str) -> None:
    documents = ["Zoë\r\n", '"\\ \u2028\x85\ufeff', "\ufeff", "x" * 100_000]
    write_jsonl(documents, tmp_path / name)
    assert read_texts(tmp_path / name)[0] == documents
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name], "no temporary file is left"


@given(st.lists(some_text, min_size=1))
def test_any_documents_are_read_back_unchanged(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "all.jsonl"
    write_jsonl(documents, path)
    assert read_texts(path)[0] == documents


def test_equal_documents_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_jsonl(["one", "two"], tmp_path / name)
    content = (tmp_path / "a.jsonl.gz").read_bytes()
    assert content == (tmp_path / "b.jsonl.gz").read_bytes()
    assert content[3:8] == bytes(5), "the gzip header has neither name nor time"


def test_an_existing_or_unsupported_output_is_refused(tmp_path: Path, rows: Path) -> None:
    before = rows.read_bytes()
    with pytest.raises(SettingError, match="file already exists"):
        prepare_corpus([rows], output=rows)
    with pytest.raises(SettingError, match=r"ends in \.jsonl or \.jsonl\.gz"):
        prepare_corpus([rows], output=tmp_path / "all.csv")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_jsonl(["one"], rows / "all.jsonl")
    assert rows.read_bytes() == before


# Preparing


def test_a_corpus_is_read_cleaned_compared_and_written(tmp_path: Path, rows: Path) -> None:
    report = prepare_corpus([rows], ["byte"], tmp_path / "clean.jsonl", unique="documents")
    assert (report["documents"], report["removed_documents"], report["output"]) == (91, 9, str(tmp_path / "clean.jsonl"))
    assert report["bytes"] == report["characters"] + 91, "each ë has two bytes"
    assert (report["sources"][0]["path"], report["sources"][0]["documents"]) == (str(rows), 100)
    assert [row["tokens"] for row in report["tokenizers"]] == [report["bytes"]]
    assert prepare_corpus([tmp_path / "clean.jsonl"], ["byte"], unique="documents")["removed_documents"] == 0


def test_an_example_dataset_is_prepared_like_a_file(tmp_path: Path) -> None:
    report = prepare_corpus(["tales:stories=20,seed=3"], ["byte"], tmp_path / "tales.jsonl")
    assert (report["documents"], report["sources"][0]["path"]) == (20, "dataset:tales:stories=20,seed=3")
    stories = load_corpus(dataset="tales:stories=20,seed=3").documents
    assert list(load_corpus([tmp_path / "tales.jsonl"]).documents) == list(stories)


def test_the_data_command_prints_and_writes_a_corpus(
    cli: Cli, tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--unique documents --tokenizer byte --tokenizer bpe:vocab_size=270 --output clean.jsonl.gz"
    done = cli("data", rows, *options.split())
    assert (done.returncode, done.stderr) == (0, "")
    corpus, tokenizers = done.stdout.split("tokenizer ")
    names, values = corpus.split()[:6], corpus.split()[6:]
    assert names == ["documents", "bytes", "characters", "removed_documents", "removed_lines", "output"]
    assert (values[0], values[3:5]) == ("91", ["9", "0"])
    assert [line.split()[:2] for line in tokenizers.splitlines()[1:]] == [["byte", "256"], ["bpe:vocab_size=270", "270"]]
    app(["data", str(tmp_path / "clean.jsonl.gz"), "--tokenizer", "char", "--json"], standalone_mode=False)
    again = json.loads(capsys.readouterr().out)
    assert (again["documents"], [row["tokenizer"] for row in again["tokenizers"]]) == (91, ["char"])


# Training and evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train one step on five files, each with the same hundred documents, with duplicates removed."""
    folder = tmp_path_factory.mktemp("corpus")
    for name in "abcde":
        write_rows(folder / f"{name}.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2DEMO_RUNS_DIR", str(folder / "runs"))
        settings = {**SMALL, "steps": 1, "n_layer": 1, "sample_tokens": 0}
        list(gpt2demo.train(folder / "[a-e].jsonl", run="mine", unique="documents", normalize="nfc", **settings))
        return find_run("mine")


def test_a_run_records_its_files_and_the_cleaning(trained: Run) -> None:
    info = trained.info()
    assert [(Path(source["path"]).name, source["documents"]) for source in info["data"]] == [
        (f"{name}.jsonl", 100) for name in "abcde"
    ]
    assert all(len(source["sha256"]) == 64 for source in info["data"])
    expected = {
        "field": "text",
        "normalize": "nfc",
        "unique": "documents",
        "documents": 91,
        "removed_documents": 409,
        "removed_lines": 0,
    }
    assert info["cleaning"].items() >= expected.items()
    assert summary(trained)["data"] == "a.jsonl, b.jsonl, c.jsonl, and 2 more"


def test_a_list_of_many_files_is_a_file_beside_run_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LISTED", 2)
    monkeypatch.setattr(text_of_runs, "LISTED", 2)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(TEXT, encoding="utf-8")
    run = prepare_run(tmp_path, **SMALL)
    files = [json.loads(line) for line in (run.path / "files.jsonl").read_text().splitlines()]
    assert [Path(file["path"]).name for file in files] == ["a.txt", "b.txt", "c.txt"]
    (entry,) = run.info()["data"]
    assert (entry["path"], entry["files"], entry["documents"]) == (str(tmp_path), 3, 3)
    assert entry["bytes"] == sum(file["bytes"] for file in files)


def test_evaluation_reads_and_cleans_like_training(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(load_corpus([write_rows(tmp_path / "rows.jsonl")]).documents, tmp_path / "texts" / "all.jsonl.gz")
    model = gpt2demo.load(trained.path)
    assert evaluate(model, [tmp_path / "*.jsonl"]) == evaluate(model, [tmp_path / "texts"])
    clean_score = evaluate(model, [tmp_path / "texts"], DataConfig(unique="documents"))
    assert clean_score.tokens < evaluate(model, [tmp_path / "texts"]).tokens
    app(["eval", str(trained.path), str(tmp_path / "texts"), "--unique", "documents", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out).items() >= clean_score.as_dict().items()


def test_options_for_reading_text_need_a_text(trained: Run) -> None:
    with pytest.raises(SettingError, match="field=body"):
        evaluate(gpt2demo.load(trained.path), config=DataConfig(field="body"))
