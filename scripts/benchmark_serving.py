"""Measure the web service on this machine: latency, throughput, errors, memory over time.

Starts a server of its own on loopback, sends it synthetic images from some clients for a time,
and ends it:

    python scripts/benchmark_serving.py --clients 8 --seconds 60
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from busi_monai.cases import CLASSES
from busi_monai.phantoms import draw_phantom
from busi_monai.serving.answers import png_bytes

MAX_REQUESTS = 50_000
STARTING_SECONDS = 180


def main() -> None:
    """Start a server, measure it, print what came of it, and end it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="at most 600")
    parser.add_argument("--model", help="shipped bundle by name, or a bundle's or run's folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--per-minute", type=int, default=0, help="0 for any number")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    words = ["serve", "--port", "0", "--no-page", "--device", options.device]
    words += ["--queue", str(options.queue), "--per-minute", str(options.per_minute)]
    words += ["--model", options.model] if options.model else []
    code = "from busi_monai.cli.main import main; main()"
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(STARTING_SECONDS + min(options.seconds, 600) + 60, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[2]
            measured = measure(address, process.pid, options.clients, min(options.seconds, 600))
        finally:
            limit.cancel()
            process.terminate()
            process.wait(90)
    measured["settings"] = {name: str(value) for name, value in vars(options).items()}
    measured["environment"] = {
        name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX")
    }
    print(json.dumps(measured, indent=2))
    if options.out:
        options.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def measure(address: str, process: int, clients: int, seconds: float) -> dict[str, object]:
    """Return what came of some clients' requests, each sending the next when one is answered."""
    images = [
        png_bytes(draw_phantom(name, np.random.default_rng(seed)).pixels)
        for seed in range(3)
        for name in CLASSES
    ]
    for image in images:
        httpx.post(f"{address}v1/predict", files={"file": image}, timeout=60).raise_for_status()
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    lock = threading.Lock()
    started = time.monotonic()
    ends = started + seconds

    def client(number: int) -> None:
        with httpx.Client(timeout=60) as session:
            while time.monotonic() < ends and sum(statuses.values()) < MAX_REQUESTS:
                image = images[number % len(images)]
                number += 1
                sent = time.monotonic()
                try:
                    response = session.post(f"{address}v1/predict", files={"file": image})
                    status = str(response.status_code)
                    if "Retry-After" in response.headers:
                        status += " with Retry-After"
                except httpx.HTTPError as error:
                    status = type(error).__name__
                with lock:
                    statuses[status] += 1
                    if status == "200":
                        latencies.append(time.monotonic() - sent)
                if status.startswith(("429", "503")):
                    time.sleep(0.5)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append({"seconds": round(time.monotonic() - started), "MiB": resident(process)})
        time.sleep(min(5, seconds / 10))
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    percentiles = np.percentile(latencies, [50, 90, 95, 99, 100]) if latencies else []
    return {
        "seconds": round(took, 1),
        "clients": clients,
        "statuses": dict(statuses),
        "images_per_second": round(len(latencies) / took, 2),
        "latency_seconds": {
            name: round(float(value), 4)
            for name, value in zip(("p50", "p90", "p95", "p99", "max"), percentiles, strict=False)
        },
        "resident_memory": memory,
    }


def resident(process: int) -> int | None:
    """Return the resident memory in MiB of a process and its children; ``None`` if not told."""
    children = Path(f"/proc/{process}/task/{process}/children")
    if not children.exists():
        return None
    kibibytes = 0
    for each in (str(process), *children.read_text().split()):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{each}/status").read_text())
        kibibytes += 0 if found is None else int(found[1])
    return kibibytes // 1024


if __name__ == "__main__":
    main()
