"""Seconds of a training step and of a prediction by precision, threads and company.

Each row is a process of its own: fp32, and bf16 where it is native, one thread and all, alone and
beside a busy process, with waiting threads that spin on (as libgomp has it) and that soon sleep (as
this package sets it). Prints the abilities of the CPU and a table of median milliseconds.

    python scripts/benchmark_arithmetic.py [--config cpu] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from busi_monai.threads import WAIT_VARIABLES, WAITING, usable_cores


def main() -> None:
    """Run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="cpu", help="overlay that names network and sizes")
    parser.add_argument("--quick", action="store_true", help="all threads only")
    parser.add_argument("--row", choices=("fp32", "bf16"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(options)))
        return
    precisions = print_abilities()
    cores = usable_cores()
    threads = [cores] if options.quick else sorted({1, cores})
    print("\n| threads | beside | precision | waiting threads | step, ms/image | predict, ms |")
    print("|---|---|---|---|---:|---:|")
    for number, busy in itertools.product(threads, (False, True)):
        for precision, spin in itertools.product(precisions, (True, False)):
            if number == 1 and spin:  # a single thread never waits
                continue
            with busy_process() if busy else contextlib.nullcontext():
                step, predict = run_row(number, precision, spin)
            beside = "a busy process" if busy else "nothing"
            waiting = "spin" if spin else "soon sleep"
            row = f"{number} | {beside} | {precision} | {waiting} | {step:.1f} | {predict:.1f}"
            print(f"| {row} |", flush=True)


def print_abilities() -> tuple[str, ...]:
    """Print what decides about the figures, and return the precisions that are worth a row."""
    from busi_monai.devices import choose_precision, cpu_instructions

    choice = choose_precision("auto", "cpu")
    print(f"CPU: {', '.join(cpu_instructions())}; {usable_cores()} cores")
    print(f"precision auto: {choice.name} ({choice.reason})")
    return ("fp32", "bf16") if choice.name == "bf16" else ("fp32",)


def run_row(threads: int, precision: str, spin: bool) -> tuple[float, float]:
    """Return milliseconds an image of a step and of a prediction, from a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
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
    """Return milliseconds an image of a training step and of a prediction with mirror image."""
    from network_steps import configured, make_steps, median_seconds

    config = configured(options.config)
    step, predict = make_steps(config, options.row)
    seconds = median_seconds(step, calls=3) / config["batch_size"]
    return 1000 * seconds, 1000 * median_seconds(predict, seconds=4)


if __name__ == "__main__":
    main()
