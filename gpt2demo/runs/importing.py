"""GPT-2 models from elsewhere: a Hugging Face folder or hub name -> weights, tokenizer, a run that can be used and fine-tuned.

    config.json                                       read; a variant that computes something else is refused by its name
    model.safetensors, or model.safetensors.index.json with its parts
    tokenizer.json, or vocab.json and merges.txt      byte-level BPE like GPT-2's; bytes; or ours in tokenizer/

Weights may have the prefix `transformer.` or not, mask buffers and a tied head stored along, more rows of vocabulary than the
tokenizer has ids, and float32, float16 or bfloat16. They arrive as float32 views into the mapped file where that is possible, so
that memory holds them once. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.config import ModelConfig
from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_model
from gpt2demo.runs.folder import Run, State, new_run, now
from gpt2demo.runs.weights import PREFIX, TRANSPOSED, from_hugging_face, load_model, model_config, save
from gpt2demo.storage import read_json, sha256
from gpt2demo.tokenization.huggingface import read_tokenizer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # the causal mask, which older files store
NUMBERS = ("F32", "F16", "BF16")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FETCHED = ["*.safetensors", "*.json", "*.txt"]
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

USUAL = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "resid_pdrop": 0.1}
"""What a config.json means that leaves a value out."""
OTHER_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


@dataclass(frozen=True)
class Start:
    """A model to start from.

    Attributes:
        name: short, for a run's name.
        model: the weights.
        tokenizer, kind: its tokenizer, and the name of that tokenizer's plugin.
        origin: for run.json: what somebody asked for, and the checksums of the files that were read.
    """

    name: str
    model: GPT2
    tokenizer: Tokenizer
    kind: str
    origin: dict[str, Any]


def import_model(source: str, *, run: str | None = None, report: Callable[[str], None] = print) -> Run:
    """Make a run of a GPT-2 from Hugging Face: usable and exportable as a trained one is, and a start for fine-tuning.

    Args:
        source: a folder, or a hub name where there is a network.
        run: the run's name; left out, a free one is made from the source's name.
        report: called with one line of text at each stage.

    Returns:
        The run, with the weights as `checkpoints/step-00000000`.

    Raises:
        RunError: there is no such source, it is a variant of GPT-2 that cannot be computed here, or the name cannot be used.
        TokenizerError: it has no tokenizer that can be used here.
        CheckpointError: its files are damaged, or the disk refused. Nothing is left behind.
    """
    folder = Path(source).expanduser()
    if not folder.exists():
        report(f"asking the Hugging Face hub for {source}")
        folder = download(source)
    found = read(folder, source)
    report(f"read {found.model.config.n_parameters:,} parameters and the tokenizer {found.kind!r}")
    made = new_run(run, found.name)
    try:
        checkpoint.save_tokenizer(found.tokenizer, found.kind, made.tokenizer)
        write_start(made, found.model)
        made.write_state(State.own("finished"))
        made.write_info(_info(found))
    except BaseException:
        shutil.rmtree(made.path, ignore_errors=True)
        raise
    return made


def write_start(run: Run, model: GPT2) -> None:
    """Write the weights that a run starts from as its checkpoint of step 0, which no optimizer has seen."""
    progress = {"step": 0, "validation_loss": None, "time": now()}
    save(run.checkpoints, model, run.tokenizer, None, progress)


def _info(found: Start) -> dict[str, Any]:
    """run.json of an imported run. There is no training in it, and so nothing that could be resumed."""
    owner = plugins.registry().owner("tokenizers", found.kind)
    return {
        "created": now(),
        "preset": None,
        "imported": found.origin,
        "model": found.model.config.model_dump(),
        "train": None,
        "parameters": found.model.config.n_parameters,
        "tokenizer": {"name": found.kind, "options": {}, "distribution": owner.distribution, "version": owner.version},
        "dataset": None,
        "data": [],
        "versions": {name: version(name) for name in ("gpt2demo", "torch", "safetensors")},
    }


# ---------------------------------------------------------------------------------------------- finding


def find_start(name: str) -> Start:
    """What `--init-from` means: a run's name, or the path of a run, checkpoint or Hugging Face folder.

    Raises:
        Error: as `import_model`.
    """
    found = find_model(name, checkpoint.is_checkpoint, lambda path: (path / "config.json").is_file())
    if not isinstance(found, Run):
        return read(found, name)
    return _read_checkpoint(checkpoint.newest(found.checkpoints).path, found.name, name)


def read(folder: Path, asked: str) -> Start:
    """Read a folder: a checkpoint of ours, verified, or one of Hugging Face's. `asked` is what the user called it."""
    if folder.is_file():
        refuse_pickle(folder)
        raise RunError(f"{folder}: is a file; name the folder with config.json, {WEIGHTS} and the tokenizer's files")
    if checkpoint.is_checkpoint(folder):
        return _read_checkpoint(checkpoint.verify(folder).path, folder.name, asked)
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder}: has no config.json; name a Hugging Face model folder")
    model = read_model(folder)
    own = folder / "tokenizer"
    tokenizer, kind = checkpoint.load_tokenizer(own) if (own / "plugin.json").is_file() else read_tokenizer(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        sizes = f"{tokenizer.vocab_size} ids, the model {model.config.vocab_size}"
        raise RunError(f"{folder}: the tokenizer has {sizes}; they do not belong together")
    name = re.split(r"[/\\]", asked.rstrip("/\\"))[-1]
    return Start(name if name.strip(".") else folder.resolve().name, model, tokenizer, kind, _origin(folder, asked))


def _read_checkpoint(path: Path, name: str, asked: str) -> Start:
    """A verified checkpoint of ours, which carries its tokenizer along."""
    return Start(name, load_model(path), *checkpoint.load_tokenizer(path / "tokenizer"), origin=_origin(path, asked))


def _origin(folder: Path, asked: str) -> dict[str, Any]:
    """Where a model came from: what was asked for, and the checksums of the files that were read."""
    names = ["config.json", "tokenizer.json", "vocab.json", "merges.txt"]
    files = [*weight_files(folder), *(folder / name for name in names if (folder / name).is_file())]
    return {"source": asked, "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}}


def download(name: str) -> Path:
    """The files of a model on the Hugging Face hub, in that library's own cache; no file that would have to be unpickled.

    Raises:
        RunError: the name cannot be one, there is no network, no such model, or no access.
    """
    if not HUB_NAME.fullmatch(name):
        raise RunError(f"source {name!r}: there is no such folder")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=FETCHED))
    except ImportError:
        raise RunError(f"source {name!r}: is no folder here, and huggingface_hub, which asks the hub, is not installed") from None
    except Exception as error:  # its many layers have no error in common
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise RunError(f"source {name!r}: is no folder here, and the Hugging Face hub does not give it ({reason})") from None


# ---------------------------------------------------------------------------------------------- model


def read_model(folder: Path) -> GPT2:
    """The model in a Hugging Face folder, in float32, ready for use (no dropout).

    Raises:
        RunError: it is a variant that cannot be computed here, or its weights are not in safetensors.
        CheckpointError: the files are damaged or do not fit together. Shapes are compared before memory is taken.
    """
    files = weight_files(folder)
    try:
        stored = read_json(folder / "config.json")
        with torch.device("meta"):
            model = GPT2(read_config(stored))
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        weights = read_weights(files, expected)
        tie_head(weights, stored)
    except RunError as error:
        raise RunError(f"{folder}: {error}") from None
    if missing := expected.keys() - weights.keys():
        raise CheckpointError(f"{folder}: {sorted(missing)[0]} is missing from the weights")
    model.load_state_dict(weights, assign=True)
    return model.eval()


def read_config(stored: dict[str, Any]) -> ModelConfig:
    """The shape in a config.json.

    Raises:
        RunError: it asks for something that this GPT-2 does not compute; names it and its value.
        CheckpointError: a size is impossible.
    """
    shape = USUAL | {OTHER_NAMES.get(name, name): value for name, value in stored.items()}
    width = shape["n_embd"]
    supported: dict[str, tuple[Any, ...]] = {  # the first is what a file means that leaves it out
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # three names of the tanh form
        "n_inner": (None, 4 * width if isinstance(width, int) else None),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
    }
    found = {"model_type": shape.get("model_type")} | {name: shape.get(name, values[0]) for name, values in supported.items()}
    for name, values in {"model_type": ("gpt2",), **supported}.items():
        if found[name] not in values:
            raise RunError(f"{name}={found[name]!r} in config.json is not supported; GPT-2 has {values[0]!r}")
    return model_config(shape)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises:
        RunError: there are none; says what to do about a pickle.
        CheckpointError: the list of parts is damaged, or a part is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        for name in names or [""]:
            if Path(name).name != name or not (folder / name).is_file():
                raise CheckpointError(f"{folder / INDEX}: names the part {name!r}, which is not there")
        return [folder / name for name in names]
    for file in sorted(folder.iterdir()):
        refuse_pickle(file)
    raise RunError(f"{folder}: has no weights in safetensors ({WEIGHTS}, or {INDEX} and its parts)")


def refuse_pickle(file: Path) -> None:
    """Raise a RunError if a file's name says that it is a pickle."""
    if file.suffix in PICKLES:
        raise RunError(
            f"{file}: is a pickle, which may run any program when it is opened, and is never opened here; where you trust it, "
            "convert it with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) writes safetensors"
        )


def read_weights(files: Sequence[Path], expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The stored weights under our names and in our layout, float32; a stored head too, mask buffers not.

    Matrices are transposed views, as contiguous as they are in the file: nothing is copied that need not be.

    Raises:
        RunError: one has numbers of a kind that is not supported.
        CheckpointError: a file is damaged, or a weight has no place, another shape, or comes twice.
    """
    expected = {**expected, HEAD: expected["wte.weight"]}
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118  # a safetensors handle is no dict
                    ours = name.removeprefix(PREFIX)
                    if BUFFER.fullmatch(ours):
                        continue
                    if ours in weights:
                        raise CheckpointError(f"{file}: {ours} is stored twice")
                    _check_weight(file, name, stored.get_slice(name), expected.get(ours))
                    weights[ours] = from_hugging_face(name, stored.get_tensor(name))[1].float()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error})") from None
    return weights


def _check_weight(file: Path, name: str, stored: Any, expected: tuple[int, ...] | None) -> None:
    """Compare a stored weight's name, shape and kind of numbers with what the model needs, before it is read."""
    shape, kind = tuple(stored.get_shape()), stored.get_dtype()
    wanted = expected[::-1] if expected and name.endswith(TRANSPOSED) else expected
    if wanted is None:
        raise CheckpointError(f"{file}: {name} is no weight of a GPT-2 that predicts text")
    if shape != wanted:
        raise CheckpointError(f"{file}: {name} has shape {shape}, config.json asks for {wanted}")
    if kind not in NUMBERS:
        raise RunError(f"{name} is stored as {kind}, which is not supported; GPT-2 has one of {', '.join(NUMBERS)}")


def tie_head(weights: dict[str, Tensor], stored: dict[str, Any]) -> None:
    """Take the stored head away: it must be the token embedding, which is what GPT-2 uses as its head.

    Raises:
        RunError: it is another matrix.
    """
    head = weights.pop(HEAD, None)
    tied = stored.get("tie_word_embeddings", True)
    if head is None and tied is False:
        raise RunError(f"tie_word_embeddings=False in config.json is not supported: {HEAD}, its own head, is not even stored")
    if head is not None and not torch.equal(head, weights.setdefault("wte.weight", head)):
        raise RunError(
            f"{HEAD} differs from wte.weight (tie_word_embeddings={tied}): a head of its own is not supported; "
            "GPT-2's is the token embedding"
        )
