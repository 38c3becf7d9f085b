"""Settings as command-line options: a pydantic field becomes an option with its name, type, range and help. One list, no copies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gpt2demo.hookspecs import PROJECT
from gpt2demo.plugins import installed
from gpt2demo.samplers import gpt2demo_samplers

Command = TypeVar("Command", bound=Callable[..., Any])

ALIASES = {  # what the original program called it
    "n_embd": "--embed-dim",
    "n_head": "--num-heads",
    "n_layer": "--num-layers",
    "n_positions": "--max-seq-len",
    "epochs": "--num-epochs",
}
SINGULAR = {"samplers": "--sampler"}


def with_settings(*models: type[BaseModel], leave_out: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command an option for every field of some settings; the values arrive in its `**settings`.

    An option that was not given arrives as None: the preset or the settings class then decides.
    """

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = {name: field for model in models for name, field in model.model_fields.items() if name not in leave_out}
        made = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, field))
                for name, field in fields.items()]
        command.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]  # Typer reads it
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *made]}
        return command

    return decorate


def _annotation(name: str, field: FieldInfo) -> Any:
    """A field's type with its option: `Annotated[int | None, typer.Option("--n-layer", min=1, …)]`."""
    limits = {key: value for part in field.metadata for key in ("ge", "le") if (value := getattr(part, key, None)) is not None}
    kind, repeated = _plain(field.annotation)
    ranged = {"min": limits.get("ge"), "max": limits.get("le")} if kind in (int, float) and not repeated else {}
    names = [SINGULAR.get(name, f"--{name.replace('_', '-')}"), *([ALIASES[name]] if name in ALIASES else [])]
    option = typer.Option(*names, help=_help(name, field), show_default=False, **ranged)
    return Annotated[(list[kind] if repeated else kind) | None, option]  # type: ignore[valid-type]


def _plain(annotation: Any) -> tuple[Any, bool]:
    """The type inside `X | None` or `tuple[X, ...]`, and whether it is the latter."""
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0], True
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return (inner[0], False) if type(None) in get_args(annotation) else (annotation, False)


def _help(name: str, field: FieldInfo) -> str:
    """A field's description; for samplers also which there are."""
    return f"{field.description}; {sampler_names()}" if name == "samplers" else field.description or ""


def sampler_names() -> str:
    """The samplers that come along, and the entry points of installed plugins, read without importing any plugin."""
    built_in = ", ".join(sorted(gpt2demo_samplers()))
    plugins = sorted({point.name for point in installed()})
    return f"built in: {built_in}" + (f"; plugins: {', '.join(plugins)}" if plugins else "")


class AnywhereGroup(typer.core.TyperGroup):
    """A program whose own options may also stand behind a command: `gpt2demo runs --debug` is `gpt2demo --debug runs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move our own options to the front, up to a `--`."""
        end = args.index("--") if "--" in args else len(args)
        front, rest, words = [], [], iter(args[:end])
        values = {name: not parameter.is_flag for parameter in self.params for name in parameter.opts if name != "--version"}
        for word in words:
            name = word.partition("=")[0]
            if name not in values or name == "--help":
                rest.append(word)
                continue
            front.append(word)
            if values[name] and "=" not in word:
                front += [value] if (value := next(words, None)) is not None else []
        parsed: list[str] = super().parse_args(ctx, [*front, *rest, *args[end:]])
        return parsed


__all__ = ["ALIASES", "PROJECT", "AnywhereGroup", "sampler_names", "with_settings"]
