"""Install wheel and sdist alone, each in a fresh environment outside the checkout, and use them.

Used are the commands and Python lines of README.md, on phantoms. A command that names an extra asks
for it as long as it is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

REPOSITORY = Path(__file__).resolve().parent.parent
PINS = REPOSITORY / "constraints.txt"
PORT = 8765
CHECKOUT = ("make ", "pip ")
"""Beginnings of README's lines that need a checkout."""
PHANTOMS_TAKE = {"--from-datalist busi-leakfree-v1": "--folds 3", "--config cpu": "--config smoke"}
"""What of README's commands needs the real BUSI, or long, with what stands in for it."""
MATERIAL = """
busi-monai phantom Dataset_BUSI_with_GT --cases 24 --size 96x128
mkdir photos study
cp Dataset_BUSI_with_GT/benign/*').png' photos
cp 'photos/benign (1).png' image.png
cp "$(python -c 'from pydicom.examples import get_path as p; print(p("palette_color"))')" scan.dcm
cp scan.dcm study
"""
"""Commands that make what README's commands read."""


class Environment:
    """A fresh environment with a package and what it declares to need, in a folder of its own."""

    def __init__(self, folder: Path, package: str | Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.package = folder, package
        programs = folder / "venv" / "bin"
        self.variables = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        self.variables.pop("PYTHONPATH", None)  # no module of the checkout
        self.run(f"{sys.executable} -m venv venv")
        self.install()

    def install(self, extras: str = "") -> None:
        """Install the package, with extras such as ``[web]``."""
        self.run(f"python -m pip install -q -c '{PINS}' '{self.package}{extras}'")

    def run(self, command: str, *, fails_with: str | None = None) -> None:
        """Run a command, which has to succeed, or to fail and say something."""
        print("$", command, flush=True)
        start, kept = time.monotonic(), None if fails_with is None else subprocess.PIPE
        done = subprocess.run(
            ["bash", "-c", command],
            check=False,
            cwd=self.folder,
            env=self.variables,
            stderr=kept,
            text=True,
        )
        if (done.returncode == 0) != (fails_with is None):
            sys.exit(f"It ended with {done.returncode}: {done.stderr or ''}")
        if fails_with is not None and fails_with not in done.stderr:
            sys.exit(f"Expected {fails_with} in the message, found: {done.stderr}")
        print(f"  {time.monotonic() - start:.0f} s", flush=True)

    def serve(self, command: str) -> None:
        """Run a server until it answers."""
        print("$", command, flush=True)
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command} --port {PORT}"], cwd=self.folder, env=self.variables
        )
        try:
            for _ in range(120):
                try:
                    urlopen(f"http://127.0.0.1:{PORT}/v1/health").close()
                    return
                except OSError:
                    time.sleep(1)
            sys.exit("It did not answer within two minutes.")
        finally:
            server.terminate()
            server.wait()


def readme_commands() -> list[tuple[str, str]]:
    """Return README.md's commands for a shell, each with the extra that it names or nothing."""
    text = (REPOSITORY / "README.md").read_text("utf-8")
    found = re.findall(r"```(bash|python)\n(.*?)```|`(python -m [^`]+)`", text, re.DOTALL)
    commands = []
    for language, block, inline in found:
        if language == "python":
            commands.append((f"python - <<'END'\n{block}END", ""))
            continue
        for line in [inline] if inline else block.splitlines():
            command, _, comment = line.partition("#")
            for real, phantoms in PHANTOMS_TAKE.items():
                if real in command:
                    command, comment = command.replace(real, phantoms), ""
            extra = re.search(r"extra '(\w+)'", comment)
            if command.strip() and not command.startswith(CHECKOUT):
                commands.append((command.strip(), extra[1] if extra else ""))
    return commands


def use(environment: Environment) -> None:
    """Do what README.md says, without extras and then with them."""
    environment.run("python -c \"import busi_monai; assert 'venv' in busi_monai.__file__\"")
    for command in ["busi-monai info", *MATERIAL.strip().splitlines()]:
        environment.run(command)
    commands = readme_commands()
    for command, extra in commands:
        environment.run(command, fails_with=f"busi-monai[{extra}]" if extra else None)
    extras = sorted({extra for _, extra in commands} - {""})
    environment.install(f"[{','.join(extras)}]")
    for command, extra in commands:
        if extra:
            (environment.serve if command == "busi-monai serve" else environment.run)(command)


def main() -> None:
    """Build both packages and use each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["wheel", "sdist"], help="use this one alone")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        Environment(root, "build").run(f"python -m build -q --outdir dist '{REPOSITORY}'")
        for kind, pattern in {"wheel": "*.whl", "sdist": "*.tar.gz"}.items():
            if only in (None, kind):
                start = time.monotonic()
                (package,) = (root / "dist").glob(pattern)
                use(Environment(root / kind, package))
                minutes = (time.monotonic() - start) / 60
                print(f"The {kind} works alone ({minutes:.1f} minutes).", flush=True)


if __name__ == "__main__":
    main()
