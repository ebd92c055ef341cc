from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from busi_monai.cli.console import leak_sentence, research_log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, names = logging.getLogger(), ("train", "validate", "ignite")
    handlers, level = root.handlers[:], root.level
    before = {n: (logging.getLogger(n).handlers[:], logging.getLogger(n).level) for n in names}
    yield
    root.handlers[:], root.level = handlers, level
    for name, (own, own_level) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.level, logger.disabled = own, own_level, False


def test_engines_figures_go_to_stderr_and_their_errors_nowhere(capsys: pytest.CaptureFixture):
    research_log()
    figures = logging.getLogger("train")
    figures.setLevel(logging.INFO)
    figures.propagate = False
    figures.info("Epoch[1]")
    figures.error("Exception: half.png")
    logging.getLogger("ignite.engine.engine.Trainer").error("Engine run is terminating: half.png")
    logging.getLogger("busi_monai").error("ours")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("Epoch[1]") == 1 and "ours" in shown.err
    assert "half.png" not in shown.err


def test_a_closed_pipe_ends_no_training(monkeypatch: pytest.MonkeyPatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    research_log()
    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("busi_monai").info("an epoch")


def test_one_image_has_and_several_have():
    assert leak_sentence(1, 12).startswith("1 of 12 evaluation images has a")
    assert leak_sentence(2, 12).startswith("2 of 12 evaluation images have a")
