"""Time the search for near-duplicates among many made fingerprints, and count what it finds.

    python scripts/benchmark_duplicates.py --count 100000
    python scripts/benchmark_duplicates.py --count 20000 --seed 1 --json

Images are random layered textures. To every hundredth belongs a copy: rescaled, squeezed, cropped,
of other brightness, or annotated. Shown are seconds, the memory at its highest, and how many of the
planted pairs came into one group.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from busi_monai.threads import computing_threads, in_order, prepare_threads

prepare_threads()

import cv2
import numpy as np
from numpy.typing import NDArray

from busi_monai.curation.candidates import close_hashes
from busi_monai.curation.near_duplicates import (
    PHASH_CANDIDATE_BITS,
    Fingerprint,
    common_scale,
    fingerprint,
    group_fingerprints,
    texture_candidates,
)

Image = NDArray[np.float32]
_SIZE = (120, 160)
_COPIED = 100  # one image in so many has a copy


def texture(rng: np.random.Generator) -> Image:
    """Return an image (120, 160) in [0, 1] of layers and grain under a depth gain."""
    image = np.linspace(0.6, 0.3, _SIZE[0], dtype=np.float32)[:, None].repeat(_SIZE[1], 1)
    for rows, columns, strength in ((12, 5, 0.1), (24, 10, 0.1), (40, 40, 0.06)):
        grain = rng.standard_normal((rows, columns), dtype=np.float32)
        image += strength * cv2.resize(grain, _SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 1)


def _resized(image: Image, width: int, height: int) -> Image:
    return np.clip(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), 0, 1)


def _annotated(image: Image) -> Image:
    marked = np.round(image * 255).astype(np.uint8)
    cv2.putText(marked, "RT AXILLA", (8, 112), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
    for x, y in ((50, 50), (90, 64)):
        cv2.drawMarker(marked, (x, y), 255, cv2.MARKER_CROSS, 7, 1)
    return marked.astype(np.float32) / 255


COPIES: dict[str, Callable[[Image], Image]] = {
    "other_brightness": lambda image: np.clip(0.1 + 0.7 * image, 0, 1),
    "annotated": _annotated,
    "rescaled": lambda image: _resized(image, 120, 90),
    "squeezed": lambda image: _resized(image, 160, 100),
    "cropped_side": lambda image: image[:, 40:],
    "cropped_top": lambda image: image[12:],
    "cropped_corner": lambda image: image[:-10, :130],
}


def made_fingerprints(count: int, seed: int) -> tuple[dict[str, Fingerprint], dict[str, list[str]]]:
    """Return fingerprints by id, and the ids of the copies by kind; a copy of "7" is "7 copy"."""
    originals = count - count // _COPIED
    kinds = list(COPIES)

    def make(number: int) -> list[tuple[str, Fingerprint]]:
        image = texture(np.random.default_rng((seed, number)))
        made = [(str(number), fingerprint(image))]
        if number % _COPIED == 0 and number // _COPIED < count // _COPIED:
            copy = COPIES[kinds[number // _COPIED % len(kinds)]]
            made.append((f"{number} copy", fingerprint(copy(image))))
        return made

    prints = dict(
        pair for made in in_order(make, range(originals), computing_threads()) for pair in made
    )
    planted: dict[str, list[str]] = {kind: [] for kind in kinds}
    for name in prints:
        if name.endswith(" copy"):
            planted[kinds[int(name.split()[0]) // _COPIED % len(kinds)]].append(name)
    return prints, planted


def benchmark(count: int, seed: int) -> dict[str, Any]:
    """Return seconds, memory in GB, candidates, and recall by kind of copy."""
    seconds: dict[str, dict[str, float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        result = work()
        seconds[name] = {
            "wall": round(time.perf_counter() - wall, 1),
            "processor": round(time.process_time() - processor, 1),
        }
        return result

    prints, planted = timed("make_fingerprints", lambda: made_fingerprints(count, seed))
    known = list(prints.values())
    hashes = np.stack([one.phash for one in known])
    close = timed("hash_candidates", lambda: close_hashes(hashes, PHASH_CANDIDATE_BITS))
    scale = common_scale(known)
    similar = timed("texture_candidates", lambda: texture_candidates(known, scale))
    found = timed("whole_search", lambda: group_fingerprints(prints))
    group_of = {name: number for number, group in enumerate(found.groups) for name in group}
    hits = {
        kind: sum(
            name in group_of and group_of[name] == group_of.get(name.split()[0]) for name in names
        )
        for kind, names in planted.items()
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "fingerprints": len(prints),
        "seed": seed,
        "threads": computing_threads(),
        "seconds": seconds,
        "peak_memory_gb": round(peak / (1024**3 if sys.platform == "darwin" else 1024**2), 2),
        "candidates": {"hash": len(close), "texture": len(similar)},
        "groups": len(found.groups),
        "planted": {kind: [hits[kind], len(names)] for kind, names in planted.items()},
        "recall": round(sum(hits.values()) / max(1, sum(map(len, planted.values()))), 4),
        "unplanted_pairs": sum(p.a.split()[0] != p.b.split()[0] for p in found.pairs),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="number of fingerprints")
    parser.add_argument("--seed", type=int, default=0, help="of the made images")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args(arguments)
    result = benchmark(options.count, options.seed)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
