"""Seconds of a training step and of a prediction by precision, threads and company.

Each row is a process of its own: fp32 and bf16, one thread and all, alone and beside a busy
process, with waiting threads that spin (as libgomp has it) and that sleep (as this package sets
it). Prints a Markdown table of milliseconds an image: medians, and the CPU's abilities above it.

    python scripts/benchmark_arithmetic.py [--encoder resnet18] [--size 160] [--batch 16] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from busi_monai.threads import WAITING, usable_cores


def main() -> None:
    """Run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=160, help="side of the input, pixels")
    parser.add_argument("--batch", type=int, default=16, help="images of a training step")
    parser.add_argument("--quick", action="store_true", help="all threads only")
    parser.add_argument("--row", choices=("fp32", "bf16"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(options)))
        return
    print_abilities()
    cores = usable_cores()
    threads = [cores] if options.quick else sorted({1, cores})
    print("\n| threads | beside | precision | waiting threads | step, ms/image | predict, ms |")
    print("|---|---|---|---|---:|---:|")
    for number, busy in itertools.product(threads, (False, True)):
        for precision, spin in itertools.product(("fp32", "bf16"), (True, False)):
            if number == 1 and spin:  # a single thread never waits
                continue
            with busy_process() if busy else contextlib.nullcontext():
                step, predict = run_row(number, precision, spin)
            beside = "a busy process" if busy else "nothing"
            waiting = "spin" if spin else "sleep"
            row = f"{number} | {beside} | {precision} | {waiting} | {step:.1f} | {predict:.1f}"
            print(f"| {row} |", flush=True)


def print_abilities() -> None:
    """Print what decides about the figures."""
    from busi_monai.devices import choose_precision, cpu_instructions

    choice = choose_precision("auto", "cpu")
    print(f"CPU: {', '.join(cpu_instructions())}; {usable_cores()} cores")
    print(f"precision auto: {choice.name} ({choice.reason})")


def run_row(threads: int, precision: str, spin: bool) -> tuple[float, float]:
    """Return milliseconds an image of a step and of a prediction, from a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name not in WAITING}
    environ |= {"OMP_NUM_THREADS": str(threads), **({} if spin else WAITING)}
    words = [sys.executable, *sys.argv, "--row", precision]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    step, predict = json.loads(done.stdout.splitlines()[-1])
    return step, predict


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(options: argparse.Namespace) -> tuple[float, float]:
    """Time training steps, and predictions of one image with its mirror image."""
    import torch

    from busi_monai.networks import MultiTaskUNet
    from busi_monai.training import MultiTaskLoss

    decoder = {"upsample": "nearest", "convolutions": 1}  # as configs/cpu.yaml
    network = MultiTaskUNet(options.encoder, decoder_options=decoder)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    loss = MultiTaskLoss()
    images = torch.rand(options.batch, 1, options.size, options.size)
    targets = {
        "seg": (torch.rand_like(images) > 0.9).float(),
        "cls": torch.arange(options.batch) % 3,
    }
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=options.row == "bf16")

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            output = network(images)
        loss({name: value.float() for name, value in output.items()}, targets).backward()
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode(), autocast:
            network(images[:1])
            network(images[:1].flip(-1))

    step_seconds = median_seconds(step) / options.batch
    network.eval()
    return 1000 * step_seconds, 1000 * median_seconds(predict)


def median_seconds(call: object, *, least: int = 5, seconds: float = 4.0) -> float:
    """Return the median of at least some calls, after two that are not counted."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < least + 2 or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        call()  # type: ignore[operator]
        found.append(time.perf_counter() - started)
        if len(found) >= 3 and time.perf_counter() - began > 60:
            break
    return statistics.median(found[2:])


if __name__ == "__main__":
    main()
