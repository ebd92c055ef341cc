from __future__ import annotations

from pathlib import Path

from busi_monai.files import write_json
from busi_monai.training.resuming import Sessions, earlier_sessions


def write_history(run: Path, *seconds: int) -> None:
    rows = "".join(f"{epoch},{time}\n" for epoch, time in enumerate(seconds, start=1))
    (run / "history.csv").write_text(f"epoch,seconds\n{rows}", encoding="utf-8")


def test_sessions_are_those_recorded_and_what_was_killed(tmp_path: Path) -> None:
    assert earlier_sessions(tmp_path) == []
    finished = {"command": ["train"], "seconds": 7.5, "epochs": 1}
    write_json(tmp_path / "run.json", {"seconds": 7.5, "sessions": [finished]})
    write_history(tmp_path, 7, 3, 4)
    killed = {"interrupted": True, "epochs": 3, "seconds": 7.0}
    assert earlier_sessions(tmp_path) == [finished, killed]


def test_sessions_killed_in_turn_keep_their_own_settings(tmp_path: Path) -> None:
    """The third one trains nothing before it is killed, and leaves no session."""
    for epochs, precision in enumerate(("fp32", "bf16", "fp16"), start=1):
        Sessions(tmp_path).begin(tmp_path, {"precision": precision}, resumed=epochs > 1)
        write_history(tmp_path, *[5] * min(epochs, 2))
    killed = {"interrupted": True, "seconds": 5.0}
    assert earlier_sessions(tmp_path) == [
        {"precision": "fp32", "epochs": 1, **killed},
        {"precision": "bf16", "epochs": 2, **killed},
    ]


def test_a_session_without_an_epoch_is_idle(tmp_path: Path) -> None:
    write_history(tmp_path, 7)
    sessions = Sessions(tmp_path)
    sessions.begin(tmp_path, {}, resumed=True)
    assert sessions.idle
    write_history(tmp_path, 7, 8)
    assert not sessions.idle and sessions.all(epochs=2)[1:] == [{"epochs": 2}]
