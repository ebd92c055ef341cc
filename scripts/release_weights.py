"""Put a calibrated run's weights into a bundle of this checkout, in half precision.

    python scripts/release_weights.py RUN

The figures in the model card are written by ``scripts/result_tables.py``, from an evaluation of the
bundle as it then is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle
from busi_monai.errors import BusiMonaiError
from busi_monai.training.release import release_weights


def main(arguments: list[str] | None = None) -> int:
    """Release the weights; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run", type=Path, help="a finished, calibrated training")
    parser.add_argument("--bundle", default=DEFAULT_BUNDLE, help="name or folder of the bundle")
    options = parser.parse_args(arguments)
    try:
        bundle = find_bundle(options.bundle)
        record = release_weights(options.run, bundle)
    except BusiMonaiError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    size = (bundle / "models" / "model.pt").stat().st_size
    print(f"{bundle / 'models' / 'model.pt'}: {size / 1e6:.1f} MB, {record['weights_sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
