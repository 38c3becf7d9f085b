"""One folder, many runtimes: what `gpt2demo export --onnx` writes, loaded as it is by programs that know nothing of us.

Bare onnxruntime is asked in every run of the tests. The others (`pytest -m interop`) are installed in environments of their own, which
are kept in pytest's cache or in GPT2DEMO_INTEROP_DIR; a runtime that cannot be installed is skipped, with the installer's last word.
Each is asked by a script in `interop/` that runs there, imports nothing of ours, and answers with what it wrote.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx
import pytest
import torch
from playwright.sync_api import Page, Route, sync_playwright

import gpt2demo
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.export.export import export_model
from gpt2demo.runs.checkpoint import load_tokenizer
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer

PEERS = {
    "plain": ["onnxruntime>=1.31,<2", "numpy>=2,<3", "tokenizers>=0.22,<1"],
    "genai": ["onnxruntime-genai>=0.18,<0.19"],
    "optimum": [f"torch=={torch.__version__.partition('+')[0]}", "optimum-onnx[onnxruntime]>=0.1,<0.2"],
}
"""What pip installs into the environment of each peer."""
TRANSFORMERS_JS = "@huggingface/transformers@~4.3.1"

SCRIPTS = Path(__file__).parents[1] / "interop"
PROMPTS = [[5], [40, 41, 255], np.random.default_rng(3).integers(0, 255, 17).tolist()]
"""Of unequal lengths; one is a single id, one ends with the highest, which is what genai is told to be the end of a text."""
COUNT = 24
TEXTS = ["Line 12: the quick Zoë 🦊\n\tsaid", "the quick", "  two  <b> spaces'll "]

Rows = list[list[int]]

interop = [pytest.mark.interop, pytest.mark.timeout(1800)]  # the time that installing takes
all_dtypes = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=interop) for dtype in ("fp32", "int8", "int4", "fp16")])
without_fp16 = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=interop) for dtype in ("fp32", "int8", "int4")])
text_tokenizers = pytest.mark.parametrize("tokenizer", [pytest.param(name, marks=interop) for name in ("byte", "bpe")])


class Question(TypedDict):
    """What a script gets as JSON. It answers with ids behind each prompt, a list for each way of asking."""

    folder: str
    prompts: Rows
    count: int
    texts: list[str]  # to be encoded by the runtime's own tokenizer
    search: dict[str, Any]  # settings of genai's besides those of genai_config.json


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Callable[[str], Path]:
    """A model with a tokenizer, trained until what it writes is a text that varies: `runs("byte")`."""
    folder = tmp_path_factory.mktemp("interop")
    lines = (f"Line {n}: the quick brown fox jumps over {n % 7} lazy dogs, said Zoë.\n" for n in range(300))
    (folder / "text.txt").write_text("".join(lines), encoding="utf-8")
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 48, "batch_size": 8}

    @functools.cache
    def run(tokenizer: str) -> Path:
        settings = {**shape, "steps": 200, "learning_rate": 5e-3, "eval_batches": 1, "threads": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GPT2DEMO_RUNS_DIR", str(folder))
            list(gpt2demo.train(folder / "text.txt", run=tokenizer, tokenizer=tokenizer, **settings))
        return folder / tokenizer

    return run


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory) -> Callable[..., Path]:
    """An export of it: `exports("int8")`."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def export(dtype: str, tokenizer: str = "byte") -> Path:
        return export_model(runs(tokenizer), dtype=dtype, output=folder / f"{tokenizer}-{dtype}", report=lambda line: None)

    return export


def greedy(folder: Path, count: int | None = COUNT) -> Rows:
    """What our own engine writes behind the prompts; without a count, up to the context's end."""
    engine, rows = OnnxEngine(folder, "cpu"), []
    for prompt in PROMPTS:
        engine.reset()
        written = [int(engine.feed(np.array([prompt])).argmax())]
        while len(written) < (count or engine.n_positions - len(prompt)):
            written.append(int(engine.feed(np.array([written[-1:]])).argmax()))
        rows.append(written)
    assert len(set(rows[0])) > 10  # a model that repeats itself would hide a wrong position or mask
    assert rows[0] != rows[1] != rows[2]
    return rows


def question(folder: Path, **search: Any) -> Question:
    return {"folder": str(folder), "prompts": PROMPTS, "count": COUNT, "texts": TEXTS, "search": search}


def ask(python: str | Path, script: str, asked: Question) -> dict[str, Any]:
    """Run a script in another environment."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PYTHONUTF8": "1"}
    command = [python, SCRIPTS / script]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, env=environment, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------- bare onnxruntime


@pytest.mark.parametrize("dtype", ["fp32", "int8", "fp16"])
def test_bare_onnxruntime_writes_the_same_tokens(exports, dtype):
    """With a cache that grows by concatenation as far as it can see; at once, in chunks, and in a batch padded on the left."""
    answer = ask(sys.executable, "bare.py", question(exports(dtype)))
    assert not answer.pop("modules")
    expected = greedy(exports(dtype))
    assert answer == {"alone": expected, "chunked": expected, "batch": expected}


def test_a_tokenizer_json_has_every_name_that_transformers_js_insists_on():
    names = {"normalizer", "pre_tokenizer", "post_processor", "decoder", "model"}
    for tokenizer in (ByteTokenizer(), BpeTokenizer.train(TEXTS, vocab_size=260)):
        assert names <= json.loads(tokenizer.tokenizer_json()).keys()


def test_browsers_find_every_operator_of_an_int8_model(exports):
    """The onnxruntime that transformers.js loads by itself has no `GatherBlockQuantized` for WebAssembly."""
    model = onnx.load(exports("int8") / "model.onnx")
    assert {node.op_type for node in model.graph.node if node.domain == "com.microsoft"} == {
        "GroupQueryAttention",
        "SkipLayerNormalization",
        "FastGelu",
        "MatMulNBits",
    }


# ---------------------------------------------------------------------------------------------- environments of the others


@pytest.fixture(scope="session")
def place(pytestconfig) -> Path:
    """Where peers are kept from one run of the tests to the next."""
    return Path(os.environ.get("GPT2DEMO_INTEROP_DIR") or pytestconfig.cache.mkdir("interop")).absolute()


@pytest.fixture(scope="session")
def peer(place) -> Callable[[str], Path]:
    """The Python of a peer's environment, made when it is first asked for: `peer("genai")`."""
    return functools.cache(lambda name: environment(place / name, PEERS[name]))


def environment(folder: Path, requirements: list[str]) -> Path:
    """A virtual environment with some packages."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    finished = folder / "requirements.txt"  # written last
    if not finished.is_file() or finished.read_text() != "\n".join(requirements):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])
        finished.write_text("\n".join(requirements))
    return python


def install(command: list[str | Path]) -> str:
    """Run an installer, or skip the test with its last word. Gives what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot be installed: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


# ---------------------------------------------------------------------------------------------- run.py


@all_dtypes
def test_run_py_needs_only_onnxruntime_numpy_and_tokenizers(exports, peer, dtype):
    """Its default is the drawn text of the exported chain; a temperature of 0 makes it ours, greedy."""
    folder = exports(dtype)
    command = [peer("plain"), folder / "run.py", "Line 12", "--temperature.value", "0"]
    done = subprocess.run(command, capture_output=True, check=False)
    expected = "".join(gpt2demo.load(folder, device="cpu").generate("Line 12", max_new_tokens=200, temperature=0))
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().rstrip("\r\n") == f"Line 12{expected}".rstrip("\n")


# ---------------------------------------------------------------------------------------------- Optimum


@all_dtypes
def test_optimum_writes_the_same_tokens(exports, peer, dtype):
    """Alone, with its bound buffers, and in a batch padded on the left; its tokenizer gives our ids."""
    answer = ask(peer("optimum"), "with_optimum.py", question(exports(dtype)))
    encoded, expected = answer.pop("encoded"), greedy(exports(dtype))
    assert answer == {"alone": expected, "bound": expected, "batch": expected}
    assert encoded == ids_of(exports(dtype))


def ids_of(folder: Path) -> Rows:
    """The texts as our own tokenizer reads them."""
    tokenizer, _ = load_tokenizer(folder / "tokenizer")
    return [tokenizer.encode(text) for text in TEXTS]


# ---------------------------------------------------------------------------------------------- onnxruntime-genai


@all_dtypes
@pytest.mark.parametrize("shared", [None, False])
def test_genai_writes_the_same_tokens(exports, peer, dtype, shared):
    """With one buffer for past and present, as its file says, and with a past that grows.

    At once, in chunks, after going back, to the end of the context, and in a batch that is padded on the right.
    """
    search = {} if shared is None else {"past_present_share_buffer": shared}
    answer = ask(peer("genai"), "with_genai.py", question(exports(dtype), **search))
    expected = greedy(exports(dtype))
    ways = ("alone", "chunked", "rewound", "batch")
    assert {way: answer[way] for way in ways} == dict.fromkeys(ways, expected)
    assert answer["full"] == greedy(exports(dtype), count=None)


@text_tokenizers
def test_genai_reads_text_as_we_do(exports, peer, tokenizer):
    folder = exports("fp32", tokenizer)
    answer = ask(peer("genai"), "with_genai.py", question(folder))
    assert answer["encoded"] == ids_of(folder)
    assert answer["streamed"] == TEXTS


# ---------------------------------------------------------------------------------------------- transformers.js


@pytest.fixture(scope="session")
def packages(place) -> dict[str, Path]:
    """transformers.js and the onnxruntime for browsers that it asks for, unpacked; nothing in them is run outside the browser."""
    if not shutil.which("npm"):
        pytest.skip("cannot be installed: there is no npm in PATH")
    transformers = unpacked(TRANSFORMERS_JS, place / "transformers.js")
    wanted = json.loads((transformers / "package.json").read_text(encoding="utf-8"))["dependencies"]["onnxruntime-web"]
    return {
        "transformers": transformers / "dist",
        "ort": unpacked(f"onnxruntime-web@{wanted}", place / "onnxruntime-web") / "dist",
    }


def unpacked(package: str, folder: Path) -> Path:
    """A package of npm's as a folder."""
    finished = folder / "requirements.txt"  # written last
    if not finished.is_file() or finished.read_text() != package:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        archive = install([shutil.which("npm"), "pack", package, "--pack-destination", folder]).split()[-1]
        with tarfile.open(folder / archive) as opened:
            opened.extractall(folder, filter="data")
        finished.write_text(package)
    return folder / "package"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def page_of(site: str) -> Iterator[tuple[Page, list[str]]]:
    """A page in Chromium that can reach a site and nothing else, and the list of what it tried to reach elsewhere."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium in PATH")
    elsewhere: list[str] = []

    def guard(route: Route) -> None:
        if route.request.url.startswith((f"{site}/", "blob:", "data:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    arguments += ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]  # a GPU that the CPU plays
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=arguments) as browser:
        page = browser.new_page()
        page.route("**/*", guard)
        page.goto(f"{site}/index.html")
        page.wait_for_function("'ask' in window")
        yield page, elsewhere


def in_browser(folder: Path, packages: dict[str, Path], site: Path, device: str = "wasm") -> dict[str, Any]:
    """What transformers.js answers. The folder is served as it is."""
    site.mkdir()
    for name, target in {**packages, "models": folder.parent, "interop": SCRIPTS}.items():
        (site / name).symlink_to(target, target_is_directory=True)
    (site / "index.html").write_text('<script type="module" src="/interop/transformers.mjs"></script>')
    asked = {**question(folder), "folder": folder.name, "options": {"subfolder": "", "device": device}}
    with served(site) as address, page_of(address) as (page, elsewhere):
        if device == "webgpu" and not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium has no WebGPU")
        answer = page.evaluate("question => ask(question)", asked)
    assert not elsewhere
    return answer


@all_dtypes
def test_transformers_js_writes_the_same_tokens(exports, packages, tmp_path, dtype):
    """In a browser without a network, on WebAssembly; alone and in a batch padded on the left."""
    answer = in_browser(exports(dtype), packages, tmp_path / "site")
    expected = greedy(exports(dtype))
    assert {way: answer[way] for way in ("alone", "batch")} == {"alone": expected, "batch": expected}


@without_fp16
def test_transformers_js_writes_the_same_tokens_on_webgpu(exports, packages, tmp_path, dtype):
    """The GPU is one that the CPU plays; it has no float16."""
    answer = in_browser(exports(dtype), packages, tmp_path / "site", "webgpu")
    expected = greedy(exports(dtype))
    assert {way: answer[way] for way in ("alone", "batch")} == {"alone": expected, "batch": expected}


@text_tokenizers
def test_transformers_js_reads_text_as_we_do(exports, packages, tmp_path, tokenizer):
    folder = exports("fp32", tokenizer)
    answer = in_browser(folder, packages, tmp_path / "site")
    assert answer["encoded"] == ids_of(folder)
    assert answer["decoded"] == TEXTS
    text = "".join(gpt2demo.load(folder, device="cpu").generate(TEXTS[1], max_new_tokens=COUNT, temperature=0))
    assert answer["text"] == TEXTS[1] + text
