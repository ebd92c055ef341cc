"""A server process and requests to it, none of which waits for ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATIENCE = 300
"""Seconds after which a server or a task counts as hanging, on a busy machine as well."""


class Server:
    """A process that is stopped with all its children, and what it answers."""

    def __init__(
        self, words: list[str], url: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.url = url
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                words,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=None if environment is None else {**os.environ, **environment},
            )

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/info/", timeout=60).close()
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"no server:\n{self.log.read_text('utf-8', errors='replace')[-3000:]}")

    def stop(self) -> None:
        for sign in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
                self.process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return status and content."""
        request = urllib.request.Request(
            f"{self.url}{urllib.parse.quote(path, safe='/?&=')}", method=method
        )
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        status, content = self.ask(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def finished(self, path: str) -> dict[str, Any]:
        """Wait for a background task and return what is known of it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            task: dict[str, Any] = self.json("GET", path)
            if task["status"] not in {"SUBMITTED", "RUNNING"}:
                return task
            time.sleep(1)
        raise AssertionError(f"{path} did not end: {task}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
