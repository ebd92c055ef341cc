from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from busi_monai.inference import Predictor
from busi_monai.io.decoding import DecodingPool
from busi_monai.serving.application import application
from busi_monai.serving.limits import Limits
from busi_monai.serving.service import PredictionService

REPOSITORY = Path(__file__).resolve().parents[2]


def png_of(pixels: np.ndarray, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


@pytest.fixture(scope="session")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, device="cpu")


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """An asymmetric image of 70×110 pixels."""
    rows, columns = np.mgrid[:70, :110]
    values = np.clip(rows * 1.3 + columns * 0.9 + 60 * np.sin(columns / 5), 0, 255)
    return values.astype(np.uint8)


@pytest.fixture(scope="session")
def png(pixels: np.ndarray) -> bytes:
    return png_of(pixels)


@pytest.fixture(scope="session")
def decoding() -> Iterator[DecodingPool]:
    pool = DecodingPool()
    yield pool
    pool.close()


@pytest.fixture
def rest(predictor: Predictor, decoding: DecodingPool) -> Iterator[Callable[..., TestClient]]:
    """Makes a client of an application with some limits, within this process."""
    open_clients = []

    def made(limits: Limits | None = None, **options: object) -> TestClient:
        limits = limits or Limits(per_minute=0)
        keeper = options.pop("keeper", None)
        app = application(PredictionService(predictor, limits, keeper, decoding), **options)
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        client.__enter__()
        open_clients.append(client)
        return client

    yield made
    for client in open_clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(rest: Callable[..., TestClient]) -> TestClient:
    return rest()


@dataclass
class Server:
    """A server process.

    Attributes:
        address: its URL, without a slash at the end.
        process: of ``busi-monai serve``.
    """

    address: str
    process: subprocess.Popen[str]

    def post(self, *files: bytes, **options: object) -> httpx.Response:
        form = [("file", (f"{number}.png", content)) for number, content in enumerate(files)]
        options.setdefault("timeout", 60)
        return httpx.post(f"{self.address}/v1/predict", files=form, **options)


def serve_command(*words: object) -> list[str]:
    code = "from busi_monai.cli.main import main; main()"
    return [sys.executable, "-c", code, "serve", *map(str, words)]


def serve_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@contextmanager
def running_server(bundle: Path, *words: object) -> Iterator[Server]:
    """A real server on a free port, ended by SIGTERM."""
    command = serve_command("--model", bundle, "--device", "cpu", "--port", 0, *words)
    if "--page" in words:
        command.remove("--page")
    else:
        command.append("--no-page")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=serve_environment()
    ) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            assert told.startswith("Listening on http://"), told
            address = told.split()[2].rstrip("/").replace("0.0.0.0", "127.0.0.1")
            ends = time.monotonic() + 30
            while time.monotonic() < ends:
                try:
                    httpx.get(f"{address}/v1/health", timeout=30)
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            yield Server(address, process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
