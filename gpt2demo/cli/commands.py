"""The commands: each reads its options, calls the package and prints the result.

Results go to stdout, messages to stderr. Slow imports are inside the commands, so that `--help` is fast.
"""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpt2demo import __version__
from gpt2demo.cli.arguments import (
    TEXT,
    DatasetOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    ModelArgument,
    PresetOption,
    RunArgument,
    TextArgument,
    TokenizerOption,
    TokenizerOptions,
)
from gpt2demo.cli.bench import app as bench
from gpt2demo.cli.chat import chat as chat_in_terminal
from gpt2demo.cli.display import show_progress, show_training
from gpt2demo.cli.estimates import print_estimate
from gpt2demo.cli.failures import check_current_folder, exit_code
from gpt2demo.cli.options import AnywhereGroup, ResultsCommand, given, with_settings
from gpt2demo.cli.printing import print_list, print_result
from gpt2demo.cli.signals import Signals, catch_signals
from gpt2demo.config import DataConfig, EvalConfig, GenerateConfig, ModelConfig, TrainConfig
from gpt2demo.errors import Error, SettingError
from gpt2demo.hookspecs import PROJECT
from gpt2demo.plugins import NO_PLUGINS
from gpt2demo.runs.folder import EXPORTS_DIR, RUNS_DIR
from gpt2demo.terminal import console, exit_on_signal, one_line, open_streams, print_message, print_warning
from gpt2demo.training.launch import is_first, launched_here, leave

if TYPE_CHECKING:
    from gpt2demo.events import Event
    from gpt2demo.runs.folder import Run
    from gpt2demo.training.processes import Group

app = typer.Typer(
    name=PROJECT,
    cls=AnywhereGroup,
    help="Train a small GPT-2 on your own text, chat with it, extend it with plugins and export it.",
    epilog="Without a command, the web page opens.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bench, name="bench")
command = partial(app.command, cls=ResultsCommand)

RESUME_SETTINGS = ("steps", "epochs", "batch_size", "grad_accumulation", "nproc", "shard", "checkpoint_activations")
CHAT_SETTINGS = GenerateConfig.model_fields.keys() - {"samples", "logprobs", "explain"}


@app.callback(invoke_without_command=True)
def program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    runs_dir: Annotated[Path | None, typer.Option(help=f"folder of the runs [env: {RUNS_DIR}; default: ./runs]")] = None,
    exports_dir: Annotated[
        Path | None, typer.Option(help=f"folder of the exports [env: {EXPORTS_DIR}; default: ./exports]")
    ] = None,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help=f"use built-in parts only [env: {NO_PLUGINS}]")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Apply the options of all commands. Child processes inherit them through environment variables."""
    if version:
        print_result(f"{PROJECT} {__version__}")
        raise typer.Exit
    for name, value in ((RUNS_DIR, runs_dir), (EXPORTS_DIR, exports_dir)):
        if value is not None:
            os.environ[name] = str(value.absolute())
    if no_plugins:
        os.environ[NO_PLUGINS] = "1"
    if context.invoked_subcommand is None:
        ui()


@command()
def ui(
    host: Annotated[str, typer.Option(help="address to listen on; --auth is required unless it is local")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0 selects a free one")] = 7860,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="do not open the browser")] = False,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASSWORD", help="require a login")] = None,
) -> None:
    """Open the web page to train, chat and export."""
    from gpt2demo.ui import launch

    launch(host=host, port=port, browser=not no_browser, auth=auth)


@command()
@with_settings(ModelConfig, TrainConfig, DataConfig)
def train(
    data: TextArgument = None,
    run: Annotated[str | None, typer.Option(help="run name; default: derived from the data and the preset")] = None,
    dataset: DatasetOption = None,
    preset: PresetOption = "nano",
    tokenizer: TokenizerOption = None,
    tokenizer_option: TokenizerOptions = None,
    init_from: Annotated[
        str | None, typer.Option(metavar="MODEL", help="start from the weights of a run, checkpoint or Hugging Face folder")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="chat with the model after training")] = False,
    verify_resume: Annotated[
        bool, typer.Option("--verify-resume", help="first check that an interrupted training resumes exactly")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only print the memory, time and disk that the training would need")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the dry run as one JSON value")] = False,
    **settings: Any,
) -> None:
    """Train a new model on your text or an example dataset. Prints the run's folder."""
    from gpt2demo.runs.folder import INTERRUPTS
    from gpt2demo.training.processes import join
    from gpt2demo.training.train import prepare
    from gpt2demo.training.verify_resume import check_resume

    arguments = {
        "preset": preset,
        "run": run,
        "dataset": dataset,
        "tokenizer": tokenizer,
        "tokenizer_options": dict(_pair(option) for option in tokenizer_option or []),
        "init_from": init_from,
        **given(settings),
    }
    if as_json and not dry_run:
        raise SettingError("--json: prints a dry run; add --dry-run")
    if dry_run:
        _dry_run(data or [], arguments, as_json=as_json)
        return
    with catch_signals() as signals, join() as group:
        if verify_resume and (group.size > 1 or str(settings["nproc"] or 1) != "1"):
            raise SettingError("--verify-resume: checks a training in one process; omit one of --verify-resume and --nproc")
        with show_progress():
            made = prepare(group, data or [], **arguments)
            if verify_resume:
                with made.deleted_on(*INTERRUPTS):
                    check_resume(made, print_message)
        _train(made, group, signals)
    _finish(made.path, signals.exit_code, chat=chat)


def _dry_run(data: list[str], arguments: dict[str, Any], *, as_json: bool) -> None:
    """Print what a training would need."""
    from gpt2demo.training.dry_run import dry_run

    with show_progress():
        estimate = dry_run(data, **arguments)
    print_estimate(estimate, as_json=as_json)


@command()
@with_settings(TrainConfig, only=RESUME_SETTINGS)
def resume(
    run: RunArgument,
    chat: Annotated[bool, typer.Option("--chat", help="chat with the model after training")] = False,
    **settings: Any,
) -> None:
    """Continue a run from its newest checkpoint. Prints the run's folder."""
    from gpt2demo.runs.find import find_run
    from gpt2demo.training.processes import join

    found = find_run(run)
    with catch_signals() as signals, join() as group:
        _train(found, group, signals, **given(settings))
    _finish(found.path, signals.exit_code, chat=chat)


def _train(run: Run, group: Group, signals: Signals, **changes: Any) -> None:
    """Train a run in this process, or start the processes that its settings require."""
    from gpt2demo.training.launch import launch
    from gpt2demo.training.processes import launched
    from gpt2demo.training.train import settings_of, train_run

    processes = settings_of(run, **changes).nproc
    if processes > 1 and not launched():
        launch(run, processes, **changes)
    else:
        _follow(train_run(run, signals.stop, group, **changes), signals)


def _follow(events: Iterator[Event], signals: Signals) -> None:
    """Run a training and display it. From its first event on, a signal ends it with a checkpoint."""
    with show_progress():
        first = next(events)
    signals.training = True
    show_training(itertools.chain([first], events))


def _finish(path: Path, exit_code: int, *, chat: bool) -> None:
    """Print the run's folder; then exit with a signal's code, or start a chat if requested.

    Of several processes the first one does this, or the one that launched them.
    """
    if is_first() and not launched_here():
        print_result(path)
    if exit_code:
        raise typer.Exit(exit_code)
    if launched_here() or not is_first():
        return
    _report(path)
    if chat:
        from gpt2demo.generation.load import load

        chat_in_terminal(load(path.absolute()), GenerateConfig(stop=("\n",)))


def _report(path: Path) -> None:
    """Evaluate a run that has finished, and print the result as messages."""
    from gpt2demo.cli.reports import lines
    from gpt2demo.evaluation.report import final_report
    from gpt2demo.runs.folder import Run

    run = Run(path)
    if run.read_state().status != "finished":
        return
    try:
        with show_progress():
            report = final_report(run)
    except Error as error:
        print_warning(f"the run is complete, but could not be evaluated: {error}")
        return
    for line in lines(report) if report else [f"`gpt2demo eval {run.name}` compares the model with simple baselines"]:
        print_message(line)


def _pair(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals or not key:
        raise SettingError(f"--tokenizer-option {option!r}: expected KEY=VALUE")
    return key, value


@command()
@with_settings(GenerateConfig, only=CHAT_SETTINGS)
def chat(
    model: ModelArgument = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    no_stop: Annotated[bool, typer.Option("--no-stop", help="do not stop at the end of a line")] = False,
    **settings: Any,
) -> None:
    """Chat with a model in the terminal until `quit`. An answer ends at a line break, at --stop or at the maximum length."""
    from gpt2demo.generation.load import load

    if not settings["stop"] and not no_stop:
        settings["stop"] = ["\n"]
    config = _generate_config(settings)
    chat_in_terminal(load(model, engine=engine, device=device), config)


@command()
@with_settings(GenerateConfig)
def generate(
    model: ModelArgument = None,
    prompt: Annotated[list[str] | None, typer.Option(help="text to continue; may be repeated")] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    save_chain: Annotated[str | None, typer.Option(metavar="NAME", help="save the samplers with the model as @NAME")] = None,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Continue prompts, with --samples texts each. With the same seed, a text is the same alone and in a batch."""
    from gpt2demo.cli.printing import print_texts
    from gpt2demo.generation.load import load
    from gpt2demo.sampling import chains

    config = _generate_config(settings)
    loaded = load(model, engine=engine, device=device)
    if save_chain:
        chains.save_chain(loaded.path, save_chain, config)
    print_texts(loaded, prompt or [""], config, as_json=as_json)


def _generate_config(settings: dict[str, Any]) -> GenerateConfig:
    r"""Return the settings for the options; \\n and \\t in stop texts and stop tokens are unescaped."""
    chosen = given(settings)
    for name in chosen.keys() & {"stop", "stop_tokens"}:
        chosen[name] = [text.replace("\\n", "\n").replace("\\t", "\t") for text in chosen[name]]
    return GenerateConfig.create(**chosen)


@command("eval")
@with_settings(EvalConfig, DataConfig)
def evaluate(
    model: ModelArgument = None,
    data: TextArgument = None,
    compare: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="evaluate another model on the same text; may be repeated")
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Measure how well a model predicts a text, beside simple baselines. The default is its run's validation split."""
    from gpt2demo.cli.reports import print_reports
    from gpt2demo.evaluation.report import evaluate_all
    from gpt2demo.generation.load import load

    used = given(settings)
    config = EvalConfig.create(**{name: used.pop(name) for name in EvalConfig.model_fields if name in used})
    models = [load(name, engine=engine, device=device) for name in (model, *(compare or []))]
    with show_progress():
        reports = evaluate_all(models, data or [], DataConfig.create(**used), config)
    print_reports(reports, as_json=as_json, several=bool(compare))


@command()
def inspect(
    model: ModelArgument = None,
    text: Annotated[str | None, typer.Option(help="text to read; default: standard input")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write all views to one HTML file")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Look inside a model that reads a text: surprise, attention, logit lens and anatomy."""
    from gpt2demo.cli.reports import print_inspection
    from gpt2demo.generation.load import load
    from gpt2demo.inspection.page import write_page
    from gpt2demo.inspection.report import inspect_text

    found = inspect_text(load(model, device=device), sys.stdin.read() if text is None else text)
    if html:
        write_page(found, html)
    print_inspection(found, html, as_json=as_json)


@command()
def export(
    model: ModelArgument = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="same as --format onnx")] = False,
    huggingface: Annotated[bool, typer.Option("--huggingface", help="same as --format huggingface")] = False,
    format: Annotated[str | None, typer.Option(help="export format")] = None,  # noqa: A002  # the option's name
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|fp16|bf16|int8|int4", help="dtype of the weights; default: fp32")
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:key=value,…]", help="for ONNX: sampler in the graph; may be repeated; default: as for generate"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="folder to write; default: exports/NAME, followed by format and dtype")
    ] = None,
) -> None:
    """Export a model to another format and verify it. Prints the folder."""
    from gpt2demo.export.export import export_model

    chosen = [name for name, given in (("onnx", onnx), ("huggingface", huggingface), (format, format)) if given]
    if len(chosen) != 1:
        raise SettingError("use --onnx, --huggingface, or one --format NAME")
    options = {"samplers": sampler} if sampler else {}
    print_result(export_model(model, str(chosen[0]), output, dtype=dtype, report=print_message, **options))


@command("import")
def import_(
    source: Annotated[str, typer.Argument(help="Hugging Face GPT-2 folder, or a hub name (needs a network)")],
    run: Annotated[str | None, typer.Option(help="run name; default: derived from the source")] = None,
) -> None:
    """Import a GPT-2 from Hugging Face as a run. Prints the run's folder."""
    from gpt2demo.runs.importing import import_model

    print_result(import_model(source, run=run, report=print_message).path)


@command()
def runs(as_json: JsonOption = False) -> None:
    """List the runs, newest first."""
    from gpt2demo.runs.find import list_runs, summary

    print_list([summary(run) for run in list_runs()], as_json)


@command()
def plugins(as_json: JsonOption = False) -> None:
    """List the plugins, their parts and any failures."""
    from dataclasses import asdict

    from gpt2demo.plugins import registry

    print_list([asdict(plugin) for plugin in registry().plugins], as_json)


@command()
@with_settings(DataConfig)
def data(
    text: Annotated[list[str] | None, typer.Argument(help=f"{TEXT}; or an example dataset, NAME or NAME:key=value,…")] = None,
    tokenizer: Annotated[
        list[str] | None, typer.Option(help="tokenizer to measure with, NAME or NAME:key=value,…; may be repeated; default: all")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="write the documents to a new .jsonl or .jsonl.gz file")] = None,
    clean_cache: Annotated[
        bool, typer.Option("--clean-cache", help="remove prepared texts that no run uses, see docs/data.md")
    ] = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """List the example datasets, print one, or prepare text. Text is read, cleaned, measured with tokenizers and written."""
    from gpt2demo.cli.printing import print_corpus, print_documents
    from gpt2demo.data import preparation
    from gpt2demo.plugins import documents

    prepare = tokenizer or output or given(settings)
    if clean_cache:
        from gpt2demo.training.stores import clean_stores

        cleaned = clean_stores()
        print_result(f"removed {cleaned.stores} stores, {cleaned.bytes:,} bytes")
    elif not text and not prepare:
        print_list(preparation.list_datasets(), as_json)
    elif not prepare and (dataset := preparation.dataset_spec(text or [])):
        print_documents(documents(dataset), as_json)
    else:
        with show_progress():
            made = preparation.prepare_corpus(text or [], tokenizer or [], output, **given(settings))
        print_corpus(made, as_json)


PIP_OPTIONS = {"ignore_unknown_options": True}


@command(context_settings=PIP_OPTIONS)
def install(packages: Annotated[list[str], typer.Argument(help="package names, paths or URLs, and options of pip")]) -> None:
    """Install plugins into this environment with pip. A folder is linked with `install -e FOLDER`."""
    raise typer.Exit(_pip("install", *packages))


@command(context_settings=PIP_OPTIONS)
def uninstall(packages: Annotated[list[str], typer.Argument(help="package names, and options of pip")]) -> None:
    """Remove plugins from this environment with pip."""
    raise typer.Exit(_pip("uninstall", "--yes", *packages))


def _pip(*arguments: str) -> int:
    import subprocess

    return subprocess.call([sys.executable, "-m", "pip", *arguments])


def main() -> None:
    """Run the command line. Report an exception as one line on stderr and exit with its code."""
    open_streams()
    debug = "--debug" in sys.argv
    console.quiet = not is_first()
    warnings.showwarning = lambda message, *rest: print_warning(one_line(str(message)))
    if isinstance(sys.stdout, io.TextIOWrapper):  # print "?" for characters that stdout cannot encode
        sys.stdout.reconfigure(errors="replace")
    for number in (signal.SIGINT, signal.SIGTERM):  # unfinished files are removed on the way out
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, exit_on_signal)
    try:
        check_current_folder()
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(code)
    except SystemExit:
        raise
    except BaseException as error:  # a panic of a Rust library is not an Exception
        if debug:
            raise
        leave(exit_code(error))
