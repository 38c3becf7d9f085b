"""The ONNX export and the engine that runs it: the same model, proven, and nothing but the certified file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from samples import BYTES, save_checkpoint, some_ids

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.engines import session as onnx_session
from gpt2demo.engines.exported import cache_names, export_of, is_export
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import CheckpointError, ExportError, RunError, SettingError
from gpt2demo.export.export import export_model
from gpt2demo.export.onnx import certificate, continuations
from gpt2demo.export.onnx import write as exporter
from gpt2demo.generation.generate import Generation
from gpt2demo.generation.load import load
from gpt2demo.interfaces import Engine
from gpt2demo.model import GPT2
from gpt2demo.runs import weights
from gpt2demo.runs.folder import Run
from gpt2demo.storage import sha256
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.ui import models

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The checkpoint that is exported; its run has validation text."""
    path = save_checkpoint(tmp_path_factory.mktemp("runs") / "tiny")
    run = path.parent.parent
    (run / "run.json").write_text("{}")
    data = run / "data"
    data.mkdir()
    np.save(data / "validation.npy", np.random.default_rng(0).integers(0, 256, 500).astype(np.uint16))
    return path


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> Path:
    """The one real export of this module: torch's exporter takes seconds."""
    return export_model(source, output=tmp_path_factory.mktemp("exports") / "tiny", report=lambda line: None)


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    """A copy of the export that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.fixture(params=["torch", "onnx"])
def engine(request, source, exported) -> Engine:
    return TorchEngine(weights.load_model(source)) if request.param == "torch" else OnnxEngine(exported, "cpu")


def forge(folder: Path, change) -> None:
    """Change the model in a folder, and the checksum in its certificate with it."""
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    listed = json.loads((folder / "gpt2demo.json").read_text())
    listed["files"]["model.onnx"]["sha256"] = sha256(folder / "model.onnx")
    (folder / "gpt2demo.json").write_text(json.dumps(listed))


def perturb(model: onnx.ModelProto, by: float = 0.1) -> None:
    """Make one number of one matrix wrong."""
    weight = next(w for w in model.graph.initializer if w.name == "h.1.mlp.c_fc.weight")
    values = numpy_helper.to_array(weight).copy()
    values[3, 5] += by
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


# ---------------------------------------------------------------------------------------------- what is written


def axes(values) -> dict[str, list[str | int]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_the_graph_has_the_names_and_axes_that_other_runtimes_look_for(exported):
    graph = onnx.load(exported / "model.onnx").graph
    total = "past_sequence_length + sequence_length"
    assert axes(graph.input) == {
        "num_logits_to_keep": [1],  # has a value of its own, so that runtimes do not list it: it may be left out
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", total],
        "position_ids": ["batch_size", "sequence_length"],
        **{name: ["batch_size", 4, "past_sequence_length", 8] for name in cache_names("past_key_values", 2)},
    }
    assert axes(graph.output) == {
        "logits": ["batch_size", "sequence_length", 256],
        **{name: ["batch_size", 4, total, 8] for name in cache_names("present", 2)},
    }


def test_the_model_is_valid_and_says_nothing_of_the_machine_it_was_made_on(exported):
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model)
    content = (exported / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path.home()).encode() not in content


def test_weights_keep_their_names_and_the_tied_head_is_stored_once(exported):
    weights = {weight.name: list(weight.dims) for weight in onnx.load(exported / "model.onnx").graph.initializer}
    assert weights["wte.weight"] == [256, 32]
    assert weights["h.1.attn.c_attn.weight"] == [32, 96]  # laid out as it is multiplied
    assert sum(256 in dims for dims in weights.values()) == 1
    assert (exported / "model.onnx").stat().st_size < 4 * BYTES.n_parameters + 40_000


def test_the_folder_is_complete(exported):
    names = {path.name for path in exported.iterdir()}
    configs = {"config.json", "generation_config.json", "genai_config.json", "gpt2demo.json"}
    assert names == {"model.onnx", "generate.onnx", "run.py", "tokenizer", "tokenizer.json", "tokenizer_config.json"} | configs
    assert is_export(exported)


def test_the_certificate_says_what_was_compared(exported, source):
    written = json.loads((exported / "gpt2demo.json").read_text())
    ways = {row["way"]: row for row in written["comparisons"]}
    assert {"prefill", "chunked prefill", "single steps", "3 padded rows, single steps"} <= ways.keys()
    assert ways["single steps"]["positions"] == BYTES.n_positions
    assert all(row["largest_difference"] < 1e-4 and row["argmax_agreement"] == 1.0 for row in ways.values())
    assert all(row["kl_divergence"] < 1e-8 for row in ways.values())
    assert written["greedy"]["equal_tokens"] == 200
    assert written["perplexity"]["text"] == "the run's validation text"
    assert written["perplexity"]["onnx"] == pytest.approx(written["perplexity"]["torch"], rel=1e-5)
    assert written["files"]["model.onnx"]["sha256"] == sha256(exported / "model.onnx")
    assert written["source"]["step"] == 1
    assert written["source"]["sha256"] == sha256(source / "model.safetensors")


def test_genai_config_avoids_the_traps(exported):
    config = json.loads((exported / "genai_config.json").read_text())
    assert config["model"]["type"] == "decoder"  # its "gpt2" wants another cache
    assert config["model"]["pad_token_id"] == -1  # a real id at a prompt's end would be taken for padding
    assert config["model"]["eos_token_id"] == 0xFF  # must be in the vocabulary; UTF-8 never has this byte
    assert config["model"]["context_length"] == BYTES.n_positions
    assert config["search"]["past_present_share_buffer"] is True  # else the cache is copied for each token
    assert config["search"]["top_k"] == 0  # left out, it would be 50


def test_browsers_are_led_to_the_model(exported, source):
    """By itself transformers.js would look for model_quantized.onnx. The rest is the checkpoint's own config."""
    config = json.loads((exported / "config.json").read_text())
    assert config.pop("transformers.js_config") == {"dtype": "fp32"}
    assert config == json.loads((source / "config.json").read_text())


def test_the_exporter_is_registered():
    assert plugins.exporters()["onnx"].summary


# ---------------------------------------------------------------------------------------------- the same model


@pytest.mark.parametrize("prompt_length", [1, 40, 47, 48, 60])
def test_greedy_tokens_are_equal_past_the_end_of_the_context(source, exported, prompt_length):
    prompt = some_ids(prompt_length).tolist()
    config = GenerateConfig(max_new_tokens=200, temperature=0)
    written = []
    for engine in (TorchEngine(weights.load_model(source)), OnnxEngine(exported, "cpu")):
        generation = Generation(engine, ByteTokenizer(), prompt, config)
        list(generation)
        written.append(generation.ids)
    assert written[0] == written[1]
    assert len(set(written[0])) > 1


def test_the_same_seed_draws_the_same_text_on_both_engines(source, exported):
    texts = ["".join(load(path, device="cpu").generate("Once", max_new_tokens=100, seed=3)) for path in (source, exported)]
    assert texts[0] == texts[1]


def test_reading_several_ids_behind_a_batch_is_reading_them_singly(exported):
    """onnxruntime's attention takes several ids behind a cache of one row only."""
    engine = OnnxEngine(exported, "cpu")
    ids = some_ids(3, 9)
    whole = engine.logits(ids)
    engine.feed(ids[:, :4])
    np.testing.assert_allclose(engine.read(ids[:, 4:7]), whole[:, 4:7], atol=1e-5)
    np.testing.assert_allclose(engine.feed(ids[:, 7:]), whole[:, -1], atol=1e-5)


def test_padding_on_the_left_changes_nothing(exported):
    engine = OnnxEngine(exported, "cpu")
    rows = [some_ids(20), some_ids(7, seed=1), some_ids(1, seed=2)]
    together = certificate.replay(engine, rows, [5, 19])
    for row, logits in zip(rows, together, strict=True):
        np.testing.assert_allclose(logits, certificate.replay(engine, [row])[0], atol=1e-4)
        assert np.isfinite(logits).all()


# ---------------------------------------------------------------------------------------------- the engines' contract


def test_feeding_in_pieces_gives_what_feeding_at_once_gives(engine):
    ids = some_ids(1, BYTES.n_positions)
    whole = engine.feed(ids).copy()
    assert whole.shape == (1, BYTES.vocab_size)
    assert whole.dtype == np.float32
    engine.reset()
    for start, end in [(0, 1), (1, 20), (20, 47), (47, 48)]:
        last = engine.feed(ids[:, start:end])
        assert engine.length == end
    np.testing.assert_allclose(last, whole, atol=1e-4)


def test_logits_are_the_models(engine, source):
    ids = some_ids(1, 30)
    with torch.inference_mode():
        expected = weights.load_model(source)(torch.from_numpy(ids))[:, -1].numpy()
    np.testing.assert_allclose(engine.feed(ids), expected, atol=1e-3)


def test_reset_forgets_everything(engine):
    first = engine.feed(some_ids(1, 10)).copy()
    engine.feed(some_ids(1, 3, seed=1))
    engine.reset()
    assert engine.length == 0
    np.testing.assert_array_equal(engine.feed(some_ids(1, 10)), first)


def test_rows_of_a_batch_do_not_see_each_other(engine):
    ids = some_ids(3, 12)
    engine.feed(ids[:, :11])
    together = engine.feed(ids[:, 11:]).copy()
    for row in range(3):
        engine.reset()
        np.testing.assert_allclose(together[row], engine.feed(ids[row : row + 1])[0], atol=1e-4)


@pytest.mark.parametrize("bad", [-1, 256, 2**40])
def test_ids_outside_the_vocabulary_are_refused(engine, bad):
    with pytest.raises(SettingError, match=str(bad)):
        engine.feed(np.array([[1, bad]]))
    assert engine.length == 0


def test_more_positions_than_the_context_has_are_refused(engine):
    engine.feed(some_ids(1, 40))
    with pytest.raises(SettingError, match="49 positions"):
        engine.feed(some_ids(1, 9))
    engine.feed(some_ids(1, 8))
    assert engine.length == BYTES.n_positions


def test_an_engine_tells_what_it_is(engine):
    assert (engine.name, engine.provider) in {("torch", "cpu"), ("onnx", "CPUExecutionProvider")}
    assert (engine.n_positions, engine.vocab_size) == (48, 256)


def test_a_small_model_takes_the_number_of_threads_that_is_fastest(exported, monkeypatch):
    seconds = {8: 3.0, 4: 1.0, 2: 2.0, 1: 4.0}
    tried = []

    def measured(engine):
        engine.feed(some_ids(1, 3))
        tried.append(engine.threads)
        return seconds[8 // 2 ** (len(tried) - 1)]

    monkeypatch.setattr(OnnxEngine, "_seconds_per_step", measured)
    monkeypatch.setattr("gpt2demo.engines.onnx.cpu_threads", lambda: 8)
    engine = OnnxEngine(exported, "cpu")
    assert (engine.threads, len(tried), engine.length) == (4, 4, 0)
    assert engine.feed(some_ids(1, 9)).shape == (1, 256)


def test_a_batch_of_another_size_needs_a_reset(exported):
    engine = OnnxEngine(exported, "cpu")
    engine.feed(some_ids(2, 4))
    with pytest.raises(SettingError, match="3 rows: the cache holds 2"):
        engine.feed(some_ids(3, 1))


# ---------------------------------------------------------------------------------------------- what is refused


def refused(folder: Path) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(CheckpointError) as caught:
        OnnxEngine(folder, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_changed_model_is_refused(copy):
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(content)
    assert "is not the file that gpt2demo.json certifies" in refused(copy)


def test_weights_in_other_files_are_refused(copy):
    def move_out(model: onnx.ModelProto) -> None:
        onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)

    forge(copy, move_out)
    assert (copy / "weights.bin").exists()
    assert "keeps weights in other files" in refused(copy)


def test_a_foreign_graph_is_refused(copy):
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        model.graph.output[0].name = "scores"

    forge(copy, rename)
    assert "inputs and outputs" in refused(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "format 99"),
        ({"files": []}, "is not the file"),
        ({"files": {"model.onnx": "x"}}, "is not the file"),
        ({"shape": None}, "no usable model"),
        ({"shape": {"n_head": 0}}, "no usable model"),
        ({"format": 1}, "export the model again"),
        ({"dtype": "fp8"}, "no usable model"),
        ({"samplers": [{"name": 3}]}, "no usable model"),
        ({"samplers": None}, "no usable model"),
        ({"shape": {**BYTES.model_dump(), "vocab_size": 300}}, "inputs and outputs"),
    ],
)
def test_a_damaged_certificate_is_refused(copy, change, reason):
    written = json.loads((copy / "gpt2demo.json").read_text())
    (copy / "gpt2demo.json").write_text(json.dumps({**written, **change}))
    assert reason in refused(copy)


def test_what_is_no_model_is_refused(copy):
    (copy / "model.onnx").write_bytes(b"not a model")
    written = json.loads((copy / "gpt2demo.json").read_text())
    written["files"]["model.onnx"]["sha256"] = sha256(copy / "model.onnx")
    (copy / "gpt2demo.json").write_text(json.dumps(written))
    assert "onnxruntime cannot load it" in refused(copy)


# ---------------------------------------------------------------------------------------------- the proof can fail


def test_one_wrong_weight_makes_the_certificate_fail(copy, source):
    forge(copy, perturb)
    model, tokenizer = weights.load_model(source), ByteTokenizer()
    with pytest.raises(ExportError, match=r"a logit differs by .* the limit is 0\.001"):
        certificate.prove(model, copy, source, tokenizer)


def test_greedy_tokens_that_differ_are_named(copy, source):
    forge(copy, lambda model: perturb(model, by=30.0))
    with pytest.raises(ExportError, match=r"greedy token \d+ is \d+ instead of \d+"):
        continuations.compare_greedy(weights.load_model(source), OnnxEngine(copy, "cpu"), some_ids(20), near_tie=1e-3)


def test_a_nan_is_beyond_every_limit():
    comparison = certificate.Comparison("prefill")
    comparison.add(np.ones((2, 3), np.float32), np.array([[1, np.nan, 1], [1, 1, 1]], np.float32))
    comparison.add(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert "differs by nan" in (comparison.complaint or "")


def test_an_export_that_fails_its_proof_leaves_nothing_behind(copy, source, tmp_path, monkeypatch):
    forge(copy, perturb)
    monkeypatch.setattr(exporter, "write_model", lambda *given: shutil.copyfile(copy / "model.onnx", given[2]))
    with pytest.raises(ExportError):
        export_model(source, output=tmp_path / "exports" / "wrong", report=lambda line: None)
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_new_export_replaces_an_old_one_but_no_other_folder(exported, copy, source, tmp_path):
    stamp = (copy / "model.onnx").stat().st_mtime_ns
    lines: list[str] = []
    assert export_model(source, output=copy, report=lines.append) == copy
    assert (copy / "model.onnx").stat().st_mtime_ns != stamp
    assert lines[:3] == [
        f"writing model.onnx ({BYTES.n_parameters:,} parameters, fp32)",
        lines[1],
        "comparing it with the PyTorch model",
    ]
    assert any(line.startswith("prefill") and "100.00%" in line for line in lines)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RunError, match="is no export"):
        export_model(source, output=tmp_path / "mine")


def test_names_lead_to_folders(source, exported, tmp_path, monkeypatch):
    """A run is exported under its name, a checkpoint of it with its step; other formats do not take ONNX's place."""

    class Empty:
        summary = "nothing"
        dtypes = ("fp32",)

        def export(self, checkpoint, folder, *, dtype, report):
            report(checkpoint.name)

    monkeypatch.setattr(plugins.registry(), "part", lambda kind, name: Empty)
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(tmp_path))
    lines: list[str] = []
    assert export_model(source.parent.parent, report=lines.append) == tmp_path / "tiny"
    assert export_model(source, report=lines.append) == tmp_path / "tiny-step-00000001"
    assert export_model(source, "gguf", report=lines.append) == tmp_path / "tiny-step-00000001-gguf"
    folder = export_model(source, "gguf", report=lines.append)  # again: an export may be replaced
    assert lines == [*[source.name] * 4, f"replacing the export that is in {folder}"]
    with pytest.raises(RunError, match="is an export already"):
        export_model(exported)


def test_a_model_too_large_for_one_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "FILE_LIMIT", 1000)
    with pytest.raises(ExportError, match="more than one ONNX file can hold"):
        exporter.write_model(BYTES, exporter.convert_weights(GPT2(BYTES), "fp32"), tmp_path / "model.onnx", "fp32")


# ---------------------------------------------------------------------------------------------- finding and starting it


def test_the_export_of_a_run_is_found_by_name(source, exported, monkeypatch):
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(exported.parent))
    assert export_of(Run(source.parent.parent)) == exported
    with pytest.raises(RunError, match="gpt2demo export other --onnx"):
        export_of(Run(source.parent.parent.with_name("other")))


def test_an_export_older_than_its_run_is_used_with_a_warning(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(exported.parent))
    save_checkpoint(tmp_path / "tiny", step=2)
    with pytest.warns(UserWarning, match="not made from the run's newest checkpoint, step-00000002"):
        export_of(Run(tmp_path / "tiny"))


def test_a_gpu_that_is_not_there_is_an_error_not_a_silent_fallback(exported, monkeypatch):
    with pytest.raises(SettingError, match="device='cuda': this export is fp32.*--dtype fp16"):
        OnnxEngine(exported, "cuda")
    monkeypatch.setattr(onnx_session, "_missing_for_cuda", lambda dtype: "there is no NVIDIA driver")
    with pytest.raises(SettingError, match="device='cuda': there is no NVIDIA driver"):
        OnnxEngine(exported, "cuda")
    assert OnnxEngine(exported, "auto").provider == "CPUExecutionProvider"
    with pytest.raises(SettingError, match="mps"):
        OnnxEngine(exported, "mps")


def test_the_engine_runs_without_torch(exported):
    program = f"""
import sys
from pathlib import Path
import numpy as np
from gpt2demo.engines.exported import is_export
from gpt2demo.engines.onnx import OnnxEngine
assert is_export(Path({str(exported)!r}))
print(OnnxEngine(Path({str(exported)!r})).feed(np.array([[1, 2, 3]])).shape)
assert "torch" not in sys.modules and "onnx" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 256)\n", "")


def test_listing_exporters_imports_nothing_heavy():
    program = """
import sys
import gpt2demo.export
assert gpt2demo.export.gpt2demo_exporters()["onnx"].summary
assert not {"torch", "onnx", "onnxscript", "onnxruntime"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---------------------------------------------------------------------------------------------- what is there already


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such refusal")
def test_an_old_export_is_whole_when_the_new_one_cannot_take_its_place(copy, source, monkeypatch):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    rename = os.rename

    def refuse(old, new):
        if Path(new) == copy and not str(old).endswith("-old"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError, match="could not be written"):
        export_model(source, output=copy, report=lambda line: None)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_what_a_killed_export_left_is_removed_and_never_offered(copy, source, monkeypatch):
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(copy.parent))
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = [copy.with_name(f".tmp-{copy.name}-{process.pid}-1a2b3c4d{end}") for end in ("", "-old")]
    other = copy.with_name(f".tmp-{copy.name}-{os.getpid()}-1a2b3c4d")
    for folder in (*left, other):
        shutil.copytree(copy, folder)
    assert [model for _, model in models.choices()] == [str(copy)]
    export_model(source, output=copy, report=lambda line: None)
    assert {path.name for path in copy.parent.iterdir()} == {copy.name, other.name}


def test_an_export_is_written_behind_a_link_but_not_over_the_current_folder(copy, source, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(copy, target_is_directory=True)
    stamp = (copy / "gpt2demo.json").stat().st_mtime_ns
    assert export_model(source, output=link, report=lambda line: None) == link
    assert link.is_symlink()
    assert (copy / "gpt2demo.json").stat().st_mtime_ns != stamp
    monkeypatch.chdir(copy)
    with pytest.raises(RunError, match="is the current folder"):
        export_model(source, output=Path(), report=lambda line: None)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("samplers",), ["a"], "describes no usable model .samplers"),
        (("samplers", 0, "inputs"), {"value": 7}, "describes no usable model .samplers"),
        (("samplers", 0, "limits"), {"value": [1, 2, 3]}, "describes no usable model .samplers"),
        (("samplers", 0, "inputs"), {"value": "nope"}, "its inputs are not those of the samplers"),
        (("samplers", 0, "inputs"), {}, "its inputs are not those of the samplers"),
        (("samplers", 0, "values"), {}, "its inputs are not those of the samplers"),
    ],
)
def test_a_certificate_that_does_not_describe_the_samplers_is_refused(copy, place, value, complaint):
    stored = json.loads((copy / "gpt2demo.json").read_text())
    *way, last = place
    part = stored
    for step in way:
        part = part[step]
    part[last] = value
    (copy / "gpt2demo.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=complaint):
        OnnxEngine(copy, "cpu").set_options([("temperature", {"value": 1.0}), ("top-k", {"k": 3}), ("top-p", {"p": 0.5})])


def test_a_graph_that_is_not_what_its_certificate_says_is_one_line(copy):
    stored = json.loads((copy / "gpt2demo.json").read_text())
    stored["shape"]["n_positions"] *= 4
    (copy / "gpt2demo.json").write_text(json.dumps(stored))
    engine = OnnxEngine(copy, "cpu")
    with pytest.raises(CheckpointError, match="the exported graph is not what its certificate says"):
        for _ in range(engine.n_positions):
            engine.feed(np.zeros((1, 1), np.int64))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer/plugin.json"])
def test_another_tokenizer_is_not_the_certified_one(copy, name):
    (copy / name).write_text((copy / name).read_text() + " ", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"is not the file that gpt2demo\.json certifies"):
        OnnxEngine(copy, "cpu")


def test_rounded_weights_do_not_hide_a_mistake_in_the_graph(source, tmp_path):
    """Here: the padding of shorter rows is looked at."""
    folder = export_model(source, output=tmp_path / "int4", dtype="int4", report=lambda line: None)
    engine = OnnxEngine(folder, "cpu")
    ids = np.arange(engine.n_positions) % engine.vocab_size
    certificate.check_itself(engine, ids)
    begin = engine._begin

    def begin_without_padding(rows, padding):
        begin(rows, None)

    engine._begin = begin_without_padding
    with pytest.raises(ExportError, match="does not read alike in all ways: 3 padded rows"):
        certificate.check_itself(engine, ids)
