"""A real server process: when it refuses to start, when it is full, how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from busi_monai.cli.main import main
from busi_monai.io.image_files import ImageBytes
from busi_monai.serving import server as serving
from busi_monai.serving.credentials import new_token_entry

from .conftest import png_of, running_server, serve_command, serve_environment


def refused(*words: object) -> str:
    result = CliRunner().invoke(main, ["serve", *map(str, words)])
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def large() -> bytes:
    """An image that takes some tenths of a second."""
    return png_of(np.random.default_rng(0).integers(0, 255, (1300, 1300), dtype=np.uint8))


def test_other_machines_are_let_in_only_if_someone_meant_it(tiny_bundle):
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        told = refused("--model", tiny_bundle, "--host", host)
        assert "--auth-file" in told and "--insecure" in told


def test_the_missing_extra_is_named(tiny_bundle, monkeypatch):
    monkeypatch.setattr(serving, "NEEDED", ("fastapi", "no_such_module"))
    told = refused("--model", tiny_bundle)
    assert "busi-monai[web]" in told and "no_such_module" in told


def test_wrong_options_are_told_before_the_model_is_loaded(tiny_bundle, tmp_path):
    assert "no bundle or run" in refused("--model", tmp_path / "none")
    assert "cannot be read" in refused("--model", tiny_bundle, "--auth-file", tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("x")
    told = refused("--model", tiny_bundle, "--port", 0, "--keep", tmp_path / "full")
    assert "holds no predictions.csv" in told
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "choose another --port" in refused("--model", tiny_bundle, "--port", port)


def test_an_entry_is_made_without_starting_anything(tmp_path):
    result = CliRunner().invoke(main, ["serve", "--new-token", "robot"])
    assert result.exit_code == 0
    assert result.stdout.startswith("robot:token$")


@pytest.mark.slow
def test_running_requests_are_finished_after_sigterm(tiny_bundle, large):
    with running_server(tiny_bundle) as server, ThreadPoolExecutor(3) as pool:
        running = [pool.submit(server.post, *[large] * 8) for _ in range(3)]
        ends = time.monotonic() + 20
        while httpx.get(f"{server.address}/v1/health").json()["requests"] < 3:
            assert time.monotonic() < ends
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        answers = [future.result() for future in running]
        assert [response.status_code for response in answers] == [200] * 3
        assert all(len(response.json()) == 8 for response in answers)
        server.process.wait(20)
        with pytest.raises(httpx.ConnectError):
            server.post(large)


@pytest.mark.slow
def test_a_full_queue_answers_503_with_a_time(tiny_bundle, large):
    with (
        running_server(tiny_bundle, "--queue", 2, "--per-minute", 0) as server,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = list(pool.map(lambda _: server.post(*[large] * 6), range(12)))
        statuses = [response.status_code for response in answers]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 3
        for response in answers:
            if response.status_code == 503:
                assert int(response.headers["retry-after"]) > 0
                assert response.json()["error"]["code"] == "busy"
        assert httpx.get(f"{server.address}/v1/health").json()["requests"] == 0


@pytest.fixture(scope="module")
def guarded(tiny_bundle, tmp_path_factory):
    """A server on every address with one token, and the headers that carry it."""
    token, line = new_token_entry("robot")
    path = tmp_path_factory.mktemp("auth") / "users"
    path.write_text(line)
    with running_server(tiny_bundle, "--host", "0.0.0.0", "--auth-file", path) as server:
        yield server, {"Authorization": f"Bearer {token}"}


def test_another_address_with_users_is_open_to_them_alone(guarded, png):
    server, headers = guarded
    assert server.post(png).status_code == 401
    assert server.post(png, headers=headers).status_code == 200


def test_the_answer_on_the_wire_is_the_predictors(guarded, predictor, png):
    server, headers = guarded
    (entry,) = json.loads(server.post(png, headers=headers).content)
    expected = predictor.predict(ImageBytes(png))
    assert entry["lesion"]["pixels"] == expected.lesion_pixels
    for name, probability in expected.probabilities.items():
        assert entry["probabilities"][name] == pytest.approx(probability, abs=1e-5)


@pytest.mark.slow
def test_half_a_request_does_not_keep_a_connection(tiny_bundle):
    with running_server(tiny_bundle) as server:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.settimeout(30)
            assert b"200" in connection.recv(10_000)
            connection.sendall(b"GET /v1/health HTTP/1.1\r\n")
            while connection.recv(10_000):
                pass


@pytest.mark.slow
def test_slow_uploads_are_cut_off(tiny_bundle):
    with running_server(tiny_bundle, "--seconds", 1) as server:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            connection.settimeout(20)
            told = connection.recv(10_000)
            while not told.endswith(b"}}"):
                told += connection.recv(10_000)
        assert b" 408 " in told.split(b"\r\n")[0] and b"upload_too_slow" in told


@pytest.mark.slow
def test_nothing_is_left_on_the_disk(tiny_bundle, large, tmp_path):
    """Neither while uploads of several megabytes are read nor afterwards."""
    command = serve_command("--model", tiny_bundle, "--device", "cpu", "--port", 0, "--no-page")
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir(), home.mkdir()
    seen: set[str] = set()
    environment = {**serve_environment(), "TMPDIR": str(scratch), "HOME": str(home)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=home
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[2]
            httpx.get(f"{address}v1/health", timeout=60)
            before = {str(path) for path in tmp_path.rglob("*")}
            ended = threading.Event()

            def watch() -> None:
                while not ended.is_set():
                    seen.update(str(path) for path in tmp_path.rglob("*"))
                    seen.update(_open_files(process.pid, str(tmp_path)))

            watcher = threading.Thread(target=watch)
            watcher.start()
            files = [("file", ("../../a.png", large))] * 3
            response = httpx.post(f"{address}v1/predict", files=files, timeout=60)
            ended.set()
            watcher.join()
            assert response.status_code == 200
        finally:
            process.terminate()
            process.wait(20)
    assert seen | {str(path) for path in tmp_path.rglob("*")} == before


def _open_files(process: int, below: str) -> list[str]:
    found = []
    for link in Path(f"/proc/{process}/fd").glob("*"):  # Linux only; elsewhere there are none
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [target for target in found if target.startswith(below) and "matplotlib" not in target]
