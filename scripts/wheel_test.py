"""Install wheel and sdist alone, each in a fresh environment outside the checkout, and use them."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def call(*words: str | Path, cwd: Path) -> None:
    """Run a command, which has to succeed; it finds no module of the checkout."""
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], cwd=cwd, check=True)


def environment(folder: Path, package: str | Path) -> Path:
    """Return the programs of a fresh environment with a package and what it declares to need."""
    call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pins = REPOSITORY / "constraints.txt"
    programs = folder / "venv" / "bin"
    call(programs / "python", "-m", "pip", "install", "-q", "-c", pins, package, cwd=folder)
    return programs


def use(package: Path, folder: Path) -> None:
    """Install a package alone, and predict, list and train with it."""
    programs = environment(folder, package)
    python, busi_monai = programs / "python", programs / "busi-monai"
    call(python, "-c", "import busi_monai; assert 'venv' in busi_monai.__file__", cwd=folder)
    call(busi_monai, "info", cwd=folder)
    call(busi_monai, "phantom", "data", "--cases", "24", "--size", "96x128", cwd=folder)
    call(busi_monai, "predict", "data/benign", "--out", "predictions", cwd=folder)
    call(busi_monai, "prepare", "data", "--out", "prepared", cwd=folder)
    smoke = ("train", "prepared", "--out", "run", "--config", "smoke", "--quiet")
    call(busi_monai, *smoke, cwd=folder)


def main() -> None:
    """Build both packages and use each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["wheel", "sdist"], help="use this one alone")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        python = environment(root, "build") / "python"
        call(python, "-m", "build", "-q", "--outdir", root / "dist", REPOSITORY, cwd=root)
        for kind, pattern in {"wheel": "*.whl", "sdist": "*.tar.gz"}.items():
            if only in (None, kind):
                (root / kind).mkdir()
                (package,) = (root / "dist").glob(pattern)
                use(package, root / kind)
                print(f"The {kind} works alone.", flush=True)


if __name__ == "__main__":
    main()
