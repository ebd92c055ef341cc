from __future__ import annotations

import io
import logging
import sys

import pytest
import torch
from ignite.engine import Engine, Events

from busi_monai.training import TerminalProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "level", "shown"),
    [
        (Terminal, logging.INFO, True),
        (Terminal, logging.WARNING, False),
        (io.StringIO, logging.INFO, False),
    ],
)
def test_a_bar_for_the_whole_training_on_a_terminal_that_is_not_quiet(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stream: type[io.StringIO],
    level: int,
    shown: bool,
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    caplog.set_level(level)
    engine = Engine(lambda _engine, batch: {"loss": batch})
    TerminalProgress().attach(engine)
    engine.run(torch.tensor([0.5, 0.25]), max_epochs=3)
    written = sys.stderr.getvalue()
    if shown:
        assert "epoch 3/3 100%" in written
        assert "0:00 left, loss=0.25" in written.replace("00:00", "0:00")
    else:
        assert written == ""


def test_the_bar_of_a_resumed_training_begins_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    caplog.set_level(logging.INFO)
    engine = Engine(lambda _engine, batch: {"loss": batch})
    TerminalProgress().attach(engine)
    state = {"iteration": 4, "epoch_length": 2, "max_epochs": 3}
    engine.load_state_dict(state)
    engine.run(torch.tensor([0.5, 0.25]))
    assert " 67%|" in sys.stderr.getvalue()
    assert "epoch 3/3 100%" in sys.stderr.getvalue()


def test_a_training_with_nothing_left_shows_no_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    caplog.set_level(logging.INFO)
    engine = Engine(lambda _engine, batch: {"loss": batch})
    TerminalProgress().attach(engine)
    engine.fire_event(Events.COMPLETED)
    assert sys.stderr.getvalue() == ""
