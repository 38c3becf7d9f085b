"""Tokenizers and optimizers of plugins, wrapped: every call is guarded and its result is checked.

These two are used in many places. Other parts are called in one place, inside a `Guard`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gpt2demo.interfaces import HasCut, HasEncodeArray, HasTokenizerJson, Tokenizer
from gpt2demo.plugins.guard import Guard, WrongResultError, check_result, type_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

METHODS = ("encode", "decode", "save")


class GuardedTokenizer:
    """A plugin's tokenizer with guarded calls. Other attributes are those of the tokenizer.

    Args:
        name: the tokenizer's registered name.
        tokenizer: the plugin's object.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self.vocab_size: int = self._attribute("vocab_size", lambda size: type(size) is int and size > 0, "a positive int")
        in_range = range(self.vocab_size)
        self.eos_id: int | None = self._attribute(
            "eos_id", lambda end: end is None or (type(end) is int and end in in_range), f"None or an id below {self.vocab_size}"
        )
        self.lossless: bool = self._attribute("lossless", lambda value: type(value) is bool, "a bool")
        self._decoding = self._guard("decode")

    def _guard(self, call: str) -> Guard:
        return Guard("tokenizers", self._name, call)

    def _attribute(self, attribute: str, valid: Callable[[Any], bool], promised: str) -> Any:
        with self._guard(attribute):
            value = getattr(self._tokenizer, attribute)
            if not valid(value):
                raise WrongResultError(f"is {value!r} ({type_name(value)}), not {promised}")
        return value

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the tokenizer."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        with self._guard("encode"):
            ids: list[int] = self._tokenizer.encode(text)
            check_result(type(ids) is list, ids, "a list of int")
            for cls in set(map(type, ids)) - {int}:
                raise WrongResultError(f"returned a list with {cls.__module__}.{cls.__name__}, not a list of int")
            if ids:
                self._check_range(min(ids), max(ids))
        return ids

    def _check_range(self, low: int, high: int) -> None:
        if low < 0 or high >= self.vocab_size:
            raise WrongResultError(f"returned the id {low if low < 0 else high}, but vocab_size is {self.vocab_size}")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        with self._decoding:
            text: str = self._tokenizer.decode(ids)
            check_result(type(text) is str, text, "a str")
        return text

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into an existing folder."""
        with self._guard("save"):
            self._tokenizer.save(folder)


class _WithArray(GuardedTokenizer):
    def encode_array(self, text: str) -> npt.NDArray[np.integer[Any]]:
        """Return the ids of `encode` as an integer array (n,)."""
        import numpy as np

        with self._guard("encode_array"):
            ids: npt.NDArray[np.integer[Any]] = self._tokenizer.encode_array(text)
            check_result(isinstance(ids, np.ndarray), ids, "a numpy array")
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise WrongResultError(f"returned an array of {ids.dtype} with {ids.ndim} dimensions, not of integers with one")
            if ids.size:
                self._check_range(int(ids.min()), int(ids.max()))
        return ids


class _WithJson(GuardedTokenizer):
    def tokenizer_json(self) -> str:
        """Return the content of a `tokenizer.json` that encodes to the same ids."""
        with self._guard("tokenizer_json"):
            content: str = self._tokenizer.tokenizer_json()
            check_result(type(content) is str, content, "a str")
        return content


class _WithCut(GuardedTokenizer):
    def cut(self, text: str, start: int) -> int | None:
        """Return the first index from `start` on where the text can be cut, or None."""
        with self._guard("cut"):
            end: int | None = self._tokenizer.cut(text, start)
            if end is not None and not (type(end) is int and start <= end <= len(text)):
                raise WrongResultError(f"returned {end!r}, not None or an index from {start} to {len(text)}")
        return end


MIXINS: dict[type, type[GuardedTokenizer]] = {HasEncodeArray: _WithArray, HasTokenizerJson: _WithJson, HasCut: _WithCut}


def guarded_tokenizer(name: str, call: str, tokenizer: Any) -> Tokenizer:
    """Wrap the tokenizer that a plugin's `train` or `load` returned.

    Args:
        name: the tokenizer's registered name.
        call: `train` or `load`.
        tokenizer: the result.

    Raises:
        PluginFailure: the object is not a tokenizer.
    """
    with Guard("tokenizers", name, call):
        check_result(all(callable(getattr(tokenizer, method, None)) for method in METHODS), tokenizer, "a tokenizer")
        mixins = tuple(mixin for protocol, mixin in MIXINS.items() if isinstance(tokenizer, protocol))
    cls = type(GuardedTokenizer.__name__, (*mixins, GuardedTokenizer), {})
    return cast("Tokenizer", cls(name, tokenizer))


class GuardedOptimizer:
    """A plugin's optimizer with guarded calls: what the training loop and checkpoints use.

    Args:
        name: the optimizer's registered name.
        optimizer: the plugin's object.
    """

    def __init__(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self._name = name
        self._optimizer = optimizer

    def _guard(self, call: str) -> Guard:
        return Guard("optimizers", self._name, call)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of parameters with their settings."""
        with self._guard("param_groups"):
            return self._optimizer.param_groups

    def step(self) -> None:
        """Update the parameters from their gradients."""
        with self._guard("step"):
            self._optimizer.step()

    def zero_grad(self) -> None:
        """Remove the gradients."""
        with self._guard("zero_grad"):
            self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, which consists of tensors and JSON values."""
        with self._guard("state_dict"):
            state: dict[str, Any] = self._optimizer.state_dict()
            check_result(isinstance(state, dict) and state.keys() >= {"state", "param_groups"}, state, "a state with its groups")
            _check_storable(state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        with self._guard("load_state_dict"):
            self._optimizer.load_state_dict(state)


def _check_storable(state: dict[str, Any]) -> None:
    """Check that a checkpoint can store the state of an optimizer: by parameter, tensors and JSON values by name.

    Raises:
        WrongResultError: it cannot.
    """
    import torch

    values = [
        {key: value for key, value in one.items() if not isinstance(value, torch.Tensor)} for one in state["state"].values()
    ]
    try:
        json.dumps([state["param_groups"], values])
    except (TypeError, ValueError) as error:
        raise WrongResultError(f"returned a state that is not made of tensors and JSON values by parameter ({error})") from None


def guarded_optimizer(name: str, optimizer: Any) -> torch.optim.Optimizer:
    """Wrap the optimizer that a plugin's function returned.

    Raises:
        PluginFailure: the object is not an optimizer.
    """
    import torch

    with Guard("optimizers", name, "the factory"):
        check_result(isinstance(optimizer, torch.optim.Optimizer), optimizer, "a torch.optim.Optimizer")
    return cast("torch.optim.Optimizer", GuardedOptimizer(name, optimizer))
