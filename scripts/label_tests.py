"""Run the tests that need MONAI Label, in its environment, or say why they are skipped.

What ``make label-test`` calls. Nothing waits for ever: not the installation, not a test.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = ["tests/label_app", "tests/label_app/test_label_files.py"]
TESTS += ["--doctest-modules", "busi_monai/label_app"]
TESTS += ["--ignore", "tests/label_app/torchvision_shim"]
INSTALL_MINUTES = 20
TEST_MINUTES = 15


def run(words: Sequence[str], minutes: float) -> int | None:
    """Return a command's exit code, or ``None`` if it was stopped for taking too long."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=REPOSITORY, env=environment, start_new_session=True)
    try:
        return process.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    """Return the exit code: that of the tests, 0 where their environment cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", default=".venv-label", help="the environment's folder")
    parser.add_argument("--install-minutes", type=float, default=INSTALL_MINUTES)
    parser.add_argument("--test-minutes", type=float, default=TEST_MINUTES)
    chosen = parser.parse_args()
    make = ["make", "--no-print-directory", "label-env", f"LABEL_VENV={chosen.venv}"]
    installed = run(make, chosen.install_minutes)
    if installed != 0:
        reason = (
            f"took more than {chosen.install_minutes:g} minutes"
            if installed is None
            else "failed, see above"
        )
        print(f"label-test skipped: the installation of MONAI Label's environment {reason}")
        return 0
    python = str(REPOSITORY / chosen.venv / "bin" / "python")
    marks = "not realdata"
    tested = run([python, "-m", "pytest", "-m", marks, "-rs", *TESTS], chosen.test_minutes)
    if tested is None:
        print(f"label-test failed: not done after {chosen.test_minutes:g} minutes")
        return 1
    return tested


if __name__ == "__main__":
    sys.exit(main())
