"""Suppress the output of torch's ONNX exporter, which reports its internals in several ways."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("torch", "torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress everything the exporter prints, logs or warns about. Exceptions are raised as usual."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
