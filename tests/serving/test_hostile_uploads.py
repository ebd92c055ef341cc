"""Whatever is sent: an answer that says why, no failure of ours, no file, no path."""

from __future__ import annotations

import os
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from busi_monai.serving.limits import Limits

from .hostile import HostileRequest, hostile_requests

LIMITS = Limits(per_minute=0, max_pixels=4_000_000, max_frames=8)

# a path of this machine or a value of the header in an answer
_TOLD_TOO_MUCH = re.compile(r"(/tmp|/usr|/home|/work|site-packages|\.py\b|at 0x[0-9a-f]{6}|Secret)")


def messages_of(request: HostileRequest, response: object) -> list[str]:
    """The messages of an answer's errors; the answer's form is checked on the way."""
    told = response.json()
    assert response.status_code in {200, 413, 422}, (request, response.text)
    if response.status_code == 200:
        assert told and all(entry["id"] for entry in told), request
        errors = [entry["error"] for entry in told if "error" in entry]
        assert len(errors) < len(told), request
    else:
        errors = [told["error"], *(entry["error"] for entry in told.get("entries", []))]
    for error in errors:
        assert error["code"] not in {"internal", "timed_out"}, (request, error)
        assert len(error["message"]) > 10, (request, error)
    return [error["message"] for error in errors]


def check(client: TestClient, requests: list[HostileRequest], folder: Path) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for request in requests:
        started = time.monotonic()
        response = client.post("/v1/predict", content=request.body, headers=request.headers)
        assert time.monotonic() - started < 20, request
        statuses[response.status_code] += 1
        for message in messages_of(request, response):
            assert not _TOLD_TOO_MUCH.search(message), (request, message)
        assert not list(folder.rglob("*")), request
    assert client.get("/v1/health").json()["requests"] == 0
    return statuses


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that temporary files would come into, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert os.listdir() == []  # noqa: PTH208
    return tmp_path


def test_a_sample_of_hostile_uploads(rest: Callable[..., TestClient], empty: Path) -> None:
    statuses = check(rest(LIMITS), hostile_requests(108, seed=0), empty)
    assert statuses[422] > 50 and statuses[200] > 5


@pytest.mark.slow
def test_two_thousand_hostile_uploads(rest: Callable[..., TestClient], empty: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    statuses = check(rest(LIMITS), hostile_requests(2040, seed=1), empty)
    assert statuses[422] > 1000 and statuses[200] > 100
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 1500, f"{grown:.0f} MiB more at the peak"
