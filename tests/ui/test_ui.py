"""The web page: its controls are the settings, its server is closed to strangers, and a newcomer's journey works in a browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from samples import SMALL

import gpt2demo
from gpt2demo import plugins
from gpt2demo.config import DEFAULT_CHAIN, PRESETS, DataConfig, ModelConfig, TrainConfig
from gpt2demo.errors import Error, ExportError, RunError, SettingError, UserError
from gpt2demo.runs.folder import Run, State, runs_dir
from gpt2demo.training import jobs
from gpt2demo.ui import create_app, launch, models, server
from gpt2demo.ui.controls import shown
from gpt2demo.ui.form import TrainingForm, size_line
from gpt2demo.ui.models import Loaded, choices
from gpt2demo.ui.tabs.chat import NO_SAMPLER, ChatTab, Conversation, SamplerControls
from gpt2demo.ui.tabs.export import reported
from gpt2demo.ui.tabs.train import frame, progress_html, samples_html
from gpt2demo.ui.toast import toast, toasting
from gpt2demo.ui.watch import Curve, Progress, Watch

PLUGIN = """
import gradio as gr
from pydantic import Field
from gpt2demo import hookimpl
from gpt2demo.interfaces import Sampler

class Whim(Sampler):
    '''Follow a whim.'''
    strength: float = Field(0.25, ge=0, le=1, description="how much")
    tokens: int = Field(7, ge=1, le=99, description="how many")
    often: bool = Field(True, description="how often")
    def __call__(self, logits, context):
        return logits

def broken():
    gr.Textbox(label="half a tab")
    raise ValueError("no <b>luck</b>")

@hookimpl
def gpt2demo_samplers():
    return {"whim": Whim}

@hookimpl
def gpt2demo_tabs():
    return {"Broken": broken, "Whole": lambda: gr.Textbox(label="all is well", elem_id="whole")}
"""


@pytest.fixture(scope="module", autouse=True)
def closed_loops() -> Iterator[None]:
    """Close the event loops that Gradio makes for its locks and leaves open."""
    made: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop
    server.isolate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", lambda: made.append(make()) or made[-1])
        yield
    for loop in made:
        loop.close()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_plugins: None) -> None:
    """A plugin with a sampler, a good tab and a broken one."""
    (tmp_path / "gpt2demo_whim.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "installed", lambda: [EntryPoint("whim", "gpt2demo_whim", "gpt2demo")])


def by_id(page: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in page.blocks.values() if block.elem_id}


# -------------------------------------------------------------------------------------------- controls


def test_every_setting_has_a_control_with_its_default_and_help() -> None:
    page = by_id(create_app())
    nano = PRESETS["nano"].model.model_dump() | PRESETS["nano"].train.model_dump()
    for name, field in (ModelConfig.model_fields | TrainConfig.model_fields).items():
        control = page[f"train-{name}"]
        assert control.info == field.description
        assert control.value in (nano[name], shown(nano[name])), name
    assert (page["train-n_layer"].step, page["train-learning_rate"].step) == (1, 0.0001)
    assert isinstance(page["train-schedule"], gr.Dropdown)
    assert isinstance(page["train-min_learning_rate"], gr.Slider)
    assert page["train-epochs"].value == ""  # a gr.Number would show 0
    for name in DataConfig.model_fields.keys() - {"sha256"}:  # that one is for URLs
        assert page[f"text-{name}"].info == DataConfig.model_fields[name].description


def test_a_number_is_judged_by_the_settings_alone() -> None:
    """Gradio would refuse the whole form for a hidden one, and not say which."""
    number = by_id(create_app())["train-n_layer"]
    assert [number.preprocess(value) for value in (0, 3, 2.7, 1e9)] == [0, 3, 2.7, 1e9]


def test_an_installed_sampler_appears_with_its_controls(plugin: None) -> None:
    page = by_id(create_app())
    assert (page["use-whim"].value, page["use-whim"].info) == (False, "Follow a whim.")
    assert [type(page[f"sampler-whim-{name}"]) for name in ("strength", "tokens", "often")] == [gr.Slider, gr.Number, gr.Checkbox]
    assert page["sampler-whim-tokens"].info == "how many"


def test_the_default_chain_is_ticked_and_another_one_can_be(plugin: None) -> None:
    with gr.Blocks():
        panel = SamplerControls(plugins.samplers())
    values: dict[Any, Any] = {component: component.value for component in panel.components}
    assert panel.chain(values) == DEFAULT_CHAIN
    ticked = {component.elem_id: component for component in panel.components}
    for name in ("temperature", "top-p", "whim"):
        values[ticked[f"use-{name}"]] = name == "whim"
    assert panel.chain(values) == ("whim:strength=0.25,tokens=7,often=True",)
    assert plugins.create_sampler(panel.chain(values)[0])
    values[ticked["use-whim"]] = False
    assert panel.chain(values) == (NO_SAMPLER,)  # an empty chain would mean the default one


def test_a_broken_tab_says_so_and_the_others_are_whole(plugin: None) -> None:
    page = create_app()
    texts = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML) and isinstance(block.value, str)]
    assert any("unknown 0 could not fill this tab: ValueError: no &lt;b&gt;luck&lt;/b&gt;" in text for text in texts)
    assert by_id(page)["whole"]
    assert plugins.registry().owner("tabs", "Broken").status == "failed"


# -------------------------------------------------------------------------------------------- the form


@pytest.fixture
def form(monkeypatch: pytest.MonkeyPatch) -> tuple[TrainingForm, dict[str, Any], dict[Any, Any]]:
    """The form, what it would start, and the values of its controls."""
    started: dict[str, Any] = {}
    monkeypatch.setattr(jobs, "start_training", lambda data, **rest: started.update(rest, data=data))
    with gr.Blocks():
        built = TrainingForm()
    return built, started, {component: component.value for component in built.inputs}


def given(started: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in started["settings"].items() if value not in (None, [])}


def test_start_alone_trains_the_example_stories_with_the_preset_nano(form: Any) -> None:
    built, started, values = form
    built.start(values)
    assert (started["data"], started["run"], started["stem"]) == ([], None, "tales-nano")
    assert given(started) == {"preset": "nano", "dataset": "tales"}


def test_only_what_differs_from_the_preset_is_passed_on(form: Any) -> None:
    built, started, values = form
    ids = {component.elem_id: component for component in built.inputs}
    values |= {ids["train-steps"]: "30", ids["train-n_layer"]: 3, ids["dataset-tales-stories"]: 50, ids["tokenizer"]: "char"}
    values |= {ids["run-name"]: " mine ", ids["train-learning_rate"]: 0.003}
    built.start(values)
    assert started["run"] == "mine"
    expected = {"preset": "nano", "dataset": "tales:stories=50", "tokenizer": "char", "n_layer": 3, "steps": "30"}
    assert given(started) == expected
    assert "--steps=30" in jobs.options(started["settings"])


@pytest.mark.parametrize("name", PRESETS)
def test_choosing_a_preset_fills_in_its_values(form: Any, name: str) -> None:
    built, started, values = form
    _, tokenizer, *filled = built._choose_preset(name)
    values |= dict(zip(built.fields.values(), filled, strict=True)) | {built.preset: name}
    values[built.tokenizer] = tokenizer if tokenizer in plugins.tokenizers() else "byte"
    built.start(values)
    assert set(given(started)) <= {"preset", "dataset", "tokenizer"}


def test_own_text_is_pasted_or_uploaded(form: Any, tmp_path: Path) -> None:
    built, started, values = form
    values |= {built.dataset: "my own text", built.pasted: "", built.files: None}
    with pytest.raises(Error, match="there is none yet"):
        built.start(values)
    built.start(values | {built.pasted: "Grüße\r\n"})
    assert started["data"][0].read_bytes() == "Grüße\r\n".encode()
    built.start(values | {built.files: [str(tmp_path / "poems.txt")]})
    assert (started["data"], started["stem"]) == ([tmp_path / "poems.txt"], "poems-nano")
    assert "dataset" not in given(started)
    with pytest.raises(Error, match="there are files and pasted text"):
        built.start(values | {built.files: [str(tmp_path / "poems.txt")], built.pasted: "more"})


def test_how_the_text_is_read_is_passed_on(form: Any) -> None:
    built, started, values = form
    ids = {component.elem_id: component for component in built.inputs}
    built.start(values | {ids["text-unique"]: "lines", ids["text-field"]: "body"})
    assert given(started) == {"preset": "nano", "dataset": "tales", "unique": "lines", "field": "body"}


@pytest.mark.parametrize(
    ("preset", "tokenizer", "words"),
    [
        ("nano", "bpe", "1.11 million parameters ·"),
        ("nano", "byte", "915 thousand parameters and 192 for each token of the vocabulary ·"),
        ("seed", "byte", "3.25 million parameters ·"),
    ],
)
def test_the_size_does_not_guess_a_vocabulary(preset: str, tokenizer: str, words: str) -> None:
    assert words in size_line(PRESETS[preset], {}, tokenizer)


@pytest.mark.parametrize(("control", "value", "message"), [
    ("train-n_embd", 130, "n_embd=130 is not divisible by n_head=6"),
    ("train-steps", "many", "steps='many'"),
    ("train-learning_rate", float("nan"), "learning_rate='nan'"),
    ("train-n_layer", 2.7, "n_layer='2.7'"),
    ("train-optimizer", "foo", "unknown optimizer 'foo'"),
    ("dataset-tales-stories", 0, "dataset 'tales': stories='0'"),
])  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_before_anything_starts(form: Any, control: str, value: Any, message: str) -> None:
    built, started, values = form
    ids = {component.elem_id: component for component in built.inputs}
    with pytest.raises(UserError, match=re.escape(message)):
        built.start(values | {ids[control]: value})
    assert not started


# -------------------------------------------------------------------------------------------- what is shown of a run


def test_a_curve_stays_small_and_keeps_its_mean() -> None:
    curve = Curve(limit=100)
    for step in range(1, 100_001):
        curve.add(step, 1 / step)
    assert 50 <= len(curve.points) <= 100
    assert curve.points == sorted(curve.points)
    assert curve.points[-1][0] > 99_000


def test_a_run_is_read_bit_by_bit_and_anew_when_somebody_resumes_it() -> None:
    run = Run(runs_dir() / "r")
    watch = Watch(run)
    assert watch.read() == (True, True)
    assert watch.progress(None).status == "failed"
    run.path.mkdir(parents=True)
    run.write_info({"model": ModelConfig().model_dump(), "train": TrainConfig(steps=9).model_dump()})
    run.write_state(State.own("running", 0, 9))
    for step in (1, 2):
        run.append(run.metrics, {"step": step, "split": "batch", "loss": 3.0 - step, "tokens_per_second": 4096.0})
    run.append(run.metrics, {"step": 2, "split": "validation", "loss": 2.5})
    assert watch.read() == (True, True)
    assert (watch.curve.points, watch.validation) == ([(1, 2.0), (2, 1.0)], [(2, 2.5)])
    progress = watch.progress(None)
    assert (progress.status, progress.step, progress.total, progress.left) == ("running", 2, 9, "7 s left")
    assert progress.facts == ("training loss 1.000", "validation loss 2.500", "4,096 tokens/s")
    assert watch.read() == (False, False)
    run.append(run.samples, {"step": 2, "text": "once"})
    assert watch.read() == (False, True)
    run.drop_records_after(1)
    run.write_state(State("interrupted", 1, 1.0, 1, 9))
    assert watch.read() == (True, True)
    assert (watch.curve.points, watch.validation, list(watch.samples)) == ([(1, 2.0)], [], [])


def test_the_validation_curve_begins_with_its_first_value() -> None:
    watch = Watch(Run(runs_dir() / "r"))
    assert list(frame(watch)["split"]) == ["validation"]  # the plot takes in no curve later
    watch.validation += [(0, 6.9), (10, 5.0)]
    assert frame(watch).values.tolist() == [[0, 6.9, "validation"], [10, 5.0, "validation"]]


def test_an_uploaded_file_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/tmp/up.1")
    shown_error = progress_html(Progress("r", "failed", error="/tmp/up.1/4ead85/my text.txt: is empty"))
    assert '<div class="wrong">my text.txt: is empty</div>' in shown_error


def test_a_new_model_is_chosen_unless_somebody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "choices", lambda: [("new", "new"), ("old", "old")])
    with gr.Blocks():
        tab, talk = ChatTab(), Conversation()
    assert tab.after_training(talk, "old").value == "new"
    tab._on_choice(talk)
    assert tab.after_training(talk, "old").value == "old"


def test_texts_names_and_errors_are_quoted() -> None:
    watch = Watch(Run(runs_dir() / "r"))
    watch.samples.append({"step": 1, "text": "<img src=x>\n&"})
    assert "<pre>&lt;img src=x&gt;\n&amp;</pre>" in samples_html(watch)
    assert "<img" not in progress_html(Progress("<img>", "failed", error="<img>", facts=("<img>",)))
    assert toast(RunError("run '<img>'")).message == "run '&lt;img&gt;'"


def test_errors_of_ours_become_toasts_and_others_stay_bugs() -> None:
    def fail(error: Exception) -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(gr.Error, match="busy"):
        list(toasting(fail)(RunError("busy")))
    with pytest.raises(ZeroDivisionError):
        list(toasting(fail)(ZeroDivisionError()))


def test_work_is_reported_as_it_comes() -> None:
    done = []
    assert list(reported(lambda report: report("one") or Path("there"), lambda: done.append(1))) == ["one", Path("there")]
    with pytest.raises(ExportError):
        list(reported(lambda report: (_ for _ in ()).throw(ExportError("no")), lambda: done.append(1)))
    assert done == [1, 1]


def test_a_loaded_model_serves_one_answer_at_a_time() -> None:
    loaded = Loaded(kept=1)
    list(gpt2demo.train(dataset="tales:stories=50", run="small", **SMALL))
    assert choices() == [("small", "small")]
    with loaded.borrow("small", "auto") as one, loaded.borrow("small", "auto") as other:
        assert one is not other
    with loaded.borrow("small", "auto") as again:
        assert again is one  # given back last, and only one is kept
    time.sleep(0.01)
    os.utime(next(runs_dir().glob("small/checkpoints/step-*/manifest.json")))
    with loaded.borrow("small", "auto") as newer:
        assert newer is not again


def test_a_checkpoint_may_vanish_while_models_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer prunes old checkpoints at any moment: between finding one and asking how old it is, too."""
    list(gpt2demo.train(dataset="tales:stories=50", run="small", **SMALL))
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([folder / "gone"]))
    assert choices() == []


def test_what_loading_warns_of_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, engine: str) -> object:
        warnings.warn_explicit("older than its run", UserWarning, "f.py", 1, module="gpt2demo.generation.generate")
        warnings.warn_explicit("not ours", UserWarning, "f.py", 1, module="torch.nn")
        return object()

    monkeypatch.setattr(models, "load", load)
    told: list[str] = []
    for _ in range(2):
        with Loaded().borrow("any", "onnx", told.append):
            pass
    assert told == ["older than its run"] * 2


# -------------------------------------------------------------------------------------------- the server


@pytest.mark.parametrize(("arguments", "message"), [
    ({"host": "0.0.0.0"}, "give --auth USER:PASSWORD"),
    ({"host": "::"}, "give --auth USER:PASSWORD"),
    ({"host": "192.168.1.5"}, "give --auth USER:PASSWORD"),
    ({"host": "example.org"}, "give --auth USER:PASSWORD"),
    ({"auth": "me"}, "expected USER:PASSWORD"),
    ({"auth": ":secret"}, "expected USER:PASSWORD"),
])  # fmt: skip
def test_a_door_to_other_machines_needs_a_login(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        launch(**arguments)


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RunError, match=r"--port \d+: cannot listen there"):
        launch(port=taken.getsockname()[1])


def test_no_environment_variable_opens_a_door(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHARE", "ALLOWED_PATHS", "VIBE_MODE", "MCP_SERVER", "ANALYTICS_ENABLED", "SERVER_NAME"):
        monkeypatch.setenv(f"GRADIO_{name}", "True")
    server.isolate()
    assert {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")} == {
        "GRADIO_ANALYTICS_ENABLED": "False"
    }
    assert "127.0.0.1" in os.environ["NO_PROXY"]


class Served:
    """The real program in a process of its own, with its own runs."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.exports = folder / "runs", folder / "exports"
        folders = {"GPT2DEMO_RUNS_DIR": str(self.runs), "GPT2DEMO_EXPORTS_DIR": str(self.exports)}
        hostile = {
            "GRADIO_SHARE": "True",
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_ALLOWED_PATHS": "/",
            "GRADIO_MCP_SERVER": "True",
        }
        hostile |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
        environment = {**os.environ, **folders, **hostile, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        command = [sys.executable, "-m", "gpt2demo", "ui", "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.said)
        assert found, self.said + self.process.stderr.read()
        self.url, self.port, self.folder = found[0], int(found[1]), folder

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
        """One request; a header's name is written with underscores."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running server."""
    running = Served(tmp_path_factory.mktemp("served"))
    with running.process:
        yield running
        running.process.send_signal(signal.SIGTERM)
        _, said = running.process.communicate(timeout=20)
    assert running.process.returncode == 143
    assert said == ""  # no warning and no traceback all the time
    assert not list(running.folder.glob("gpt2demo-*"))  # uploads are gone


def test_the_page_comes_with_a_policy(served: Served) -> None:
    response = served.ask("GET", "/")
    assert response.status == 200
    assert "default-src 'self'" in (response.getheader("content-security-policy") or "")


@pytest.mark.parametrize(("method", "path", "headers", "status"), [
    ("GET", "/", {"Host": "evil.com"}, 400),
    ("GET", "/", {"Host": "127.0.0.1.evil.com"}, 400),
    ("POST", "/gradio_api/queue/join", {"Host": "evil.com"}, 400),
    ("POST", "/gradio_api/queue/join", {"Origin": "http://evil.com"}, 403),
    ("POST", "/gradio_api/queue/join", {"Origin": "null"}, 403),
    ("POST", "/gradio_api/upload", {"Origin": "http://evil.com"}, 403),
    ("GET", "/config", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
    ("GET", "/gradio_api/file=http://example.org/", {}, 403),
    ("GET", "/gradio_api/file=http%3A//example.org/", {}, 403),
    ("GET", "/gradio_api/file=/etc/passwd", {}, 403),
    ("GET", "/docs", {}, 404),
    ("GET", "/openapi.json", {}, 404),
    ("GET", "/monitoring/summary", {}, 403),
])  # fmt: skip
def test_strangers_are_refused(served: Served, method: str, path: str, headers: dict[str, str], status: int) -> None:
    assert served.ask(method, path, **headers).status == status


def test_uploads_go_to_a_private_folder(served: Served) -> None:
    body = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--b--\r\n'
    response = served.ask("POST", "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=b")
    assert response.status == 200
    (folder,) = served.folder.glob("gpt2demo-*")
    assert [path.name for path in folder.rglob("*.txt")] == ["a.txt"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_nothing_can_be_called_beside_the_queue(served: Served) -> None:
    page = create_app()
    assert all(function.queue for function in page.fns.values())
    for name in {str(function.api_name) for function in page.fns.values()}:
        body = json.dumps({"data": [], "session_hash": "x"})
        assert served.ask("POST", f"/gradio_api/run/{name}", body).status in (404, 500), name
    for index in page.fns:
        body = json.dumps({"data": [], "fn_index": index, "session_hash": "x"})
        assert served.ask("POST", "/gradio_api/run/predict", body).status == 404
    assert not jobs.running()


# -------------------------------------------------------------------------------------------- the journey


def chromium_path() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser that can reach this machine alone."""
    path = chromium_path()
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no Chromium in PATH")
    arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


class Visitor:
    """Somebody with a browser of their own; every request of the page is written down."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(20_000)
        self.foreign: list[str] = []
        self.page.on("request", self._note)
        self.page.goto(url)
        expect(self.page.locator("#start")).to_be_visible()

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.foreign.append(request.url)

    def fill(self, **fields: object) -> None:
        for name, value in fields.items():
            self.page.locator(f"#train-{name}").locator("input, textarea").first.fill(str(value))

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def see(self, selector: str, text: str | re.Pattern[str], seconds: float = 20) -> None:
        expect(self.page.locator(selector)).to_contain_text(text, timeout=1000 * seconds)

    def ask(self, prompt: str) -> str:
        """Send a prompt; give the answer when it is complete."""
        self.page.locator("#prompt textarea").fill(prompt)
        self.page.locator("#send").click()
        expect(self.page.locator("#stats")).not_to_contain_text("seed")
        self.see("#stats", "seed")
        return self.page.locator("#chat .message").last.inner_text()


@pytest.mark.browser
def test_a_newcomer_trains_chats_and_exports(served: Served, browser: Browser) -> None:
    one = Visitor(browser, served.url)
    one.see("#progress", "Press Start")
    one.page.get_by_text("More settings").click()
    one.fill(
        steps=100_000, n_layer=1, n_head=2, n_embd=32, n_positions=32, batch_size=4, eval_every=50, eval_batches=1, threads=1
    )
    one.page.locator("#dataset-tales-stories input").fill("100")
    one.page.locator("#start").click()
    one.see("#progress", "running", 30)
    expect(one.page.locator("#plot canvas, #plot svg").first).to_be_visible()
    one.see("#samples", re.compile(r"step \d+"))

    one.page.reload()  # in the middle of it
    one.see("#progress", "running")
    expect(one.page.locator("#plot canvas, #plot svg").first).to_be_visible()

    two = Visitor(browser, served.url)
    two.see("#progress", "running")
    two.page.locator("#start").click()
    two.see("[data-testid=toast-body]", "run 'tales-nano' is being trained; stop it first")

    one.page.locator("#stop").click()
    one.see("#progress", "stopped")
    two.see("#progress", "stopped")
    one.page.locator("#resume").click()  # the process may be at its last breath
    one.see("#progress", "running", 30)
    one.page.locator("#stop").click()
    one.see("#progress", "stopped")
    assert len(list(served.runs.glob("tales-nano/checkpoints/step-*/manifest.json"))) >= 1
    assert [path.name for path in served.runs.iterdir() if path.name[0] != "."] == ["tales-nano"]

    one.tab("Chat")
    expect(one.page.locator("#model input")).to_have_value("tales-nano")
    one.page.locator("#chat-seed textarea").fill("7")
    by_torch = one.ask("Once upon a time")
    assert by_torch
    one.see("#stats", "torch on cpu")
    one.see("#stats", "seed 7")
    one.page.get_by_label("onnx", exact=True).check()
    one.page.locator("#prompt textarea").fill("Once")
    one.page.locator("#send").click()
    one.see("[data-testid=toast-body]", "holds no export of it")
    expect(one.page.locator("#prompt textarea")).to_have_value("Once")  # nothing is lost

    one.tab("Export")
    one.page.locator("#export-start").click()
    expect(one.page.locator("#export-folder textarea")).to_have_value(re.compile("tales-nano"), timeout=60_000)
    one.tab("Chat")
    assert one.ask("Once upon a time") == by_torch
    one.see("#stats", "onnx on CPU")
    assert one.foreign == two.foreign == []


@pytest.mark.browser
def test_what_is_hidden_is_not_asked_and_a_preparation_can_be_stopped(served: Served, browser: Browser) -> None:
    one = Visitor(browser, served.url)
    one.page.get_by_text("More settings").click()
    one.page.locator("#dataset-tales-stories input").fill("0")
    one.page.locator("#start").click()
    one.see("[data-testid=toast-body]", "dataset 'tales': stories='0'")
    one.page.locator("#dataset input").click()
    one.page.get_by_role("option", name="my own text").click()
    one.page.locator("#start").click()
    expect(one.page.locator("[data-testid=toast-body]").last).to_contain_text("there is none yet")

    one.page.locator("#dataset input").click()
    one.page.get_by_role("option", name="tales").click()
    one.page.locator("#dataset-tales-stories input").fill("1000000")
    one.page.locator("#run-name textarea").fill("large")
    one.page.locator("#start").click()
    one.see("#progress", "preparing")
    one.page.locator("#stop").click()
    one.see("#progress", "nothing is kept")
    assert not (served.runs / "large").exists()


@pytest.mark.browser
def test_text_is_shown_as_text_and_asks_nobody(served: Served, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '<img src="http://evil.example/a"> ![b](http://evil.example/b) <script>window.bad = 1</script> ${7*7}\n  two  spaces\n\n &'
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(served.runs))
    list(gpt2demo.train(dataset="tales:stories=50", run="hostile", **SMALL))
    run = Run(served.runs / "hostile")
    run.append(run.samples, {"step": 99, "text": text})
    visitor = Visitor(browser, served.url)
    expect(visitor.page.locator("#samples pre").first).to_have_text(text)
    visitor.tab("Chat")
    visitor.ask(f" {text}")
    assert visitor.page.locator("#chat .message").first.text_content() == f" {text}"
    assert visitor.page.evaluate("window.bad") is None
    assert visitor.foreign == []


@pytest.mark.browser
def test_the_page_fits_a_phone(served: Served, browser: Browser) -> None:
    visitor = Visitor(browser, served.url)
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    for tab in ("Train", "Chat", "Export"):
        visitor.tab(tab)
        visitor.page.wait_for_timeout(300)
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390, tab
