"""The whole inspection of a text, as data and as a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from samples import Cli

from gpt2demo.errors import SettingError
from gpt2demo.evaluation.score import score
from gpt2demo.generation.generate import Model
from gpt2demo.generation.load import load
from gpt2demo.inspection import report as module
from gpt2demo.inspection.page import page
from gpt2demo.inspection.report import inspect_text
from gpt2demo.inspection.surprise import surprise
from gpt2demo.runs.find import saved_milestones
from gpt2demo.runs.folder import Run

HOSTILE = "</script><script>alert(1)</script> ${alert(2)} {{7*7}} <!-- & $$x^2$$ \u2028"


@pytest.fixture(scope="module")
def model(trained_run: Run) -> Model:
    return load(trained_run.path)


# ---------------------------------------------------------------------------------------------- surprise


def test_surprise_adds_up_to_the_score(model: Model) -> None:
    """Also where the text is longer than the context."""
    ids = model.tokenizer.encode("The quick brown fox jumps over 3 lazy dogs, said Zoë. " * 3)
    tokens = surprise(model, ids)
    assert [token.id for token in tokens] == ids
    expected = score(model.engine, np.array(ids), 1).loss
    assert sum(token.bits for token in tokens[1:]) * np.log(2) / (len(ids) - 1) == pytest.approx(expected, rel=1e-5)


def test_each_token_stands_beside_what_was_expected(model: Model) -> None:
    first, *others = surprise(model, model.tokenizer.encode("Line 1: the"))
    assert (first.bits, first.rank, first.top) == (None, None, [])
    for token in others:
        assert len(token.top) == 10
        assert [share.probability for share in token.top] == sorted((share.probability for share in token.top), reverse=True)
        if token.rank < 10:
            assert token.top[token.rank].id == token.id
            assert token.top[token.rank].probability == pytest.approx(2**-token.bits, rel=1e-6)


def test_an_export_shows_the_same_surprise(model: Model, tiny_export: Path) -> None:
    exported, own = load(tiny_export), load(tiny_export, engine="onnx")
    found = inspect_text(exported, "abc abc")
    assert found.inside is None
    assert [token.bits for token in found.tokens] == [token.bits for token in surprise(own, own.tokenizer.encode("abc abc"))]


def test_an_empty_text_is_refused(model: Model) -> None:
    with pytest.raises(SettingError, match="the text is empty"):
        inspect_text(model, "")


# ---------------------------------------------------------------------------------------------- the whole


def test_an_inspection_as_json_has_all_views(model: Model) -> None:
    values = json.loads(json.dumps(inspect_text(model, "Line 7").as_dict()))
    assert values.keys() == {
        "model",
        "path",
        "tokens",
        "next",
        "skipped",
        "logit_lens",
        "heads",
        "chance",
        "attention",
        "anatomy",
        "growth",
    }
    assert len(values["tokens"]) == len(values["logit_lens"][0]["top"]) == 6
    assert [len(row) for row in values["attention"][1][0]] == [1, 2, 3, 4, 5, 6]
    assert sum(values["attention"][0][1][5]) == pytest.approx(1, abs=1e-3)
    assert len(values["heads"]) == 4


def test_a_text_is_read_with_the_weights_of_each_milestone(model: Model, trained_run: Run) -> None:
    stages = inspect_text(model, "Line 7: the quick").inside.growth
    assert [stage.step for stage in stages] == [saved.step for saved in saved_milestones(trained_run)]
    last = surprise(model, model.tokenizer.encode("Line 7: the quick"))
    assert stages[-1].bits == [token.bits for token in last]
    assert stages[-1].expected[1:] == [token.top[0].text for token in last[1:]]
    means = [sum(stage.bits[1:]) for stage in stages]
    assert means[-1] < means[0], "it has learned something"


def test_a_long_text_is_looked_at_from_its_end(model: Model) -> None:
    found = inspect_text(model, "x" * 50)
    assert (found.skipped, len(found.tokens), len(found.inside.lens[0].top)) == (18, 50, 32)


def test_attention_that_is_too_large_is_left_out(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATRIX_LIMIT", 10)
    inside = inspect_text(model, "Line 7").inside
    assert inside.attention is None
    assert inside.heads


class Scripts(HTMLParser):
    """Collect the scripts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.other: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")
        self.other += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def test_a_page_holds_hostile_text_as_data(model: Model) -> None:
    found = inspect_text(model, HOSTILE)
    parser = Scripts()
    parser.feed(page(found))
    data, code = parser.scripts
    assert json.loads(data) == json.loads(json.dumps(found.as_dict()))
    assert "alert" not in code
    assert parser.other == [], "a page refers to no other file"
    assert "default-src 'none'" in page(found)


def test_views_never_turn_text_into_markup() -> None:
    from gpt2demo.inspection.page import asset

    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", asset("views.js"))


# ---------------------------------------------------------------------------------------------- the command


def test_inspect_prints_each_token_with_its_surprise(invoke: Cli, run_copy: Run) -> None:
    result = invoke("inspect", "mine", "--text", "Line 7")
    assert '"L"' in result.stdout
    assert result.stdout.splitlines()[0].split() == ["token", "bits", "rank", "expected"]


def test_inspect_prints_json_or_writes_a_page(invoke: Cli, run_copy: Run, tmp_path: Path) -> None:
    values = json.loads(invoke("inspect", "mine", "--text", "Line 7", "--json").stdout)
    assert len(values["tokens"]) == 6
    result = invoke("inspect", "mine", "--text", "Line 7", "--html", tmp_path / "page.html")
    assert result.stdout.strip() == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_inspect_reads_standard_input(invoke: Cli, run_copy: Run) -> None:
    assert len(json.loads(invoke("inspect", "mine", "--json", stdin="ab").stdout)["tokens"]) == 2
