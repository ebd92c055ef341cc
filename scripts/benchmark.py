"""How fast the program is, side by side with a plain PyTorch loop, in one run, as ratios.

    python scripts/benchmark.py [--quick] [--data PREPARED] [--json FILE]

Each measurement is a process of its own, alone on the machine. Rivals are written here as one would
write them by hand. ``--quick`` takes fewer images and leaves out the training and the audit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from busi_monai.threads import prepare_threads

prepare_threads()  # before torch is imported

Figures = dict[str, Any]


def plain_loop(images: list[Path], out: Path) -> Figures:
    """Predict as a script would: read, resize, network and mirror image, resize back, write."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.nn.functional import interpolate

    from busi_monai.bundle import Bundle

    bundle = Bundle.open()
    network, settings = bundle.network(), bundle.settings

    def predict(path: Path) -> None:
        grey = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
        image = torch.from_numpy(grey)[None, None]
        small = interpolate(image, size=settings.image_size, mode="bicubic", antialias=True)
        heads, mirrored = network(small), network(small.flip(-1))
        seg = (heads["seg"] + mirrored["seg"].flip(-1)) / 2
        torch.softmax((heads["cls"] + mirrored["cls"]) / 2 / settings.temperature, 1).tolist()
        whole = interpolate(seg.sigmoid(), size=grey.shape, mode="bilinear")[0, 0]
        mask = (whole >= settings.mask_threshold).to(torch.uint8).numpy() * 255
        Image.fromarray(mask).save(out / f"{path.stem}.png")

    out.mkdir()
    with torch.no_grad():
        for path in images[:4]:
            predict(path)
        return timed(lambda: [predict(path) for path in images], len(images))


def command(
    images: list[Path], out: Path, *, engine: str, precision: str, overlays: bool
) -> Figures:
    """Predict by the function that ``busi-monai predict`` calls, warmed up."""
    from busi_monai import predict

    options: Any = {"engine": engine, "precision": precision, "overlays": overlays, "device": "cpu"}
    predict(images[:4], out / "warm", **options)
    found = timed(lambda: predict(images, out / "timed", **options), len(images))
    written = sum(path.stat().st_size for path in (out / "timed").rglob("*") if path.is_file())
    return {**found, "bytes": written / len(images)}


def timed(work: Callable[[], object], images: int) -> Figures:
    """Return wall and core milliseconds an image."""
    wall, core = time.perf_counter(), time.process_time()
    work()
    return {
        "wall": 1000 * (time.perf_counter() - wall) / images,
        "core": 1000 * (time.process_time() - core) / images,
    }


def network_alone(images: list[Path], out: Path, *, engine: str) -> Figures:
    """Time the network with one thread against what its arithmetic takes in matrix products."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from busi_monai.bundle import Bundle
    from busi_monai.inference.engines import GraphEngine, image_planes
    from busi_monai.io.images import read_image

    torch.set_num_threads(1)
    bundle = Bundle.open()
    network, settings = bundle.network(), bundle.settings
    height, width = settings.image_size
    batch = torch.rand(2, 1, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(batch)
    flops = counter.get_total_flops()
    planes = image_planes(read_image(images[0]).pixels)
    rows, columns = planes.shape[-2:]
    if engine == "torch":

        def run() -> object:
            with torch.no_grad():
                return network(batch)
    else:
        session = GraphEngine(bundle, settings, engine)._single
        # both resizes are matrix products within the graph
        flops += 4 * (height * rows * columns + height * columns * width)

        def run() -> object:
            return session(planes)

    square = torch.rand(1024, 1024)
    rates, times = [], []
    for _ in range(15):
        started = time.perf_counter()
        torch.mm(square, square)
        rates.append(2 * 1024**3 / (time.perf_counter() - started))
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    seconds, rate = statistics.median(times), float(np.median(rates))
    return {
        "ms": 1000 * seconds,
        "gflop": flops / 1e9,
        "gemm_gflops": rate / 1e9,
        "times_roofline": seconds * rate / flops,
    }


def agreement(images: list[Path], out: Path, *, engine: str, precision: str) -> Figures:
    """Compare an engine with torch in fp32."""
    import numpy as np

    from busi_monai import Predictor
    from busi_monai.metrics import dice

    fp32 = Predictor.load(device="cpu", engine="torch", consistency=False)
    other = Predictor.load(device="cpu", engine=engine, precision=precision, consistency=False)
    probabilities, pixels, dices = [0.0], [0.0], []
    pairs = zip(fp32.predict_many(images), other.predict_many(images), strict=True)
    for (_, wanted), (_, found) in pairs:
        if isinstance(wanted, Exception) or isinstance(found, Exception):
            raise SystemExit(f"cannot compare: {wanted}, {found}")
        given = found.probabilities
        probabilities += [abs(value - given[name]) for name, value in wanted.probabilities.items()]
        pixels.append(float(np.mean(wanted.mask != found.mask)))
        dices.append(dice(wanted.mask, found.mask))
    return {
        "images": len(images),
        "probability": max(probabilities),
        "mask_pixels": max(pixels),
        "mask_dice": float(np.mean(dices)),
    }


def training(images: list[Path], out: Path, *, config: str) -> Figures:
    """Compare the training engine with the bare network step; see ``benchmark_training.py``."""
    import benchmark_training

    return dict(benchmark_training.measure(images[0].parents[1], config, epochs=4))


MEASUREMENTS: dict[str, Callable[..., Figures]] = {
    "plain_loop": plain_loop,
    "command": command,
    "network": network_alone,
    "agreement": agreement,
    "training": training,
}


def measured(name: str, images: list[Path], runs: int = 1, **options: Any) -> Figures:
    """Return the medians of a measurement's figures over several processes."""
    found = []
    for _ in range(runs):
        words = [sys.executable, __file__, "--measure", json.dumps([name, options])]
        names = "\n".join(str(path) for path in images)
        done = subprocess.run(words, input=names, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} {options} failed:\n{done.stderr[-2000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {key: statistics.median(each[key] for each in found) for key in found[0]}
    print(name, options, {key: round(value, 4) for key, value in middle.items()}, flush=True)
    return middle


def cold_start(image: Path, engine: str, runs: int) -> Figures:
    """Return the seconds that ``busi-monai predict`` of one image takes, and its peak memory."""
    seconds, peaks = [], []
    program = Path(sys.executable).parent / "busi-monai"
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            words = [program, "predict", image, "--out", f"{folder}/out", "--engine", engine, "-q"]
            started = time.perf_counter()
            subprocess.run([*map(str, words), "--device", "cpu"], check=True)
            seconds.append(time.perf_counter() - started)
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    print("cold start", engine, seconds, flush=True)
    return {"seconds": statistics.median(seconds), "peak_mb": peaks[0]}


def audit_seconds(dataset: Path) -> float:
    """Return the seconds of ``busi-monai audit``."""
    program = Path(sys.executable).parent / "busi-monai"
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        words = [program, "audit", dataset, "--out", f"{folder}/audit", "-q"]
        subprocess.run([str(word) for word in words], check=False, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def processor() -> str:
    """Return the processor's name and its instructions that matter here."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(encoding="utf-8") if cpu.is_file() else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    told = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(told.get("flags", "").split())
    widest = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    limited = [f"{key}={os.environ[key]}" for key in ("ATEN_CPU_CAPABILITY",) if key in os.environ]
    name = told.get("model name", platform.machine())
    return f"{name}, {', '.join([*widest, *limited])}"


def table(found: Figures) -> str:
    """Return the ratios as Markdown."""
    plain = found["plain_loop"]["wall"]
    rows = [
        f"| plain PyTorch loop, fp32 | {plain:.1f} ms | {found['plain_loop']['core']:.1f} | 1 |"
    ]
    for name, each in found["command"].items():
        ratio = plain / each["wall"]
        rows.append(f"| {name} | {each['wall']:.1f} ms | {each['core']:.1f} | {ratio:.2f} |")
    text = [
        f"{found['processor']}; {found['threads']} threads; {found['images']} images; medians.",
        "",
        "| end to end, start-up not counted | an image | core ms | times as fast |",
        "|---|---:|---:|---:|",
        *rows,
        "",
        "| network alone, one thread | ms | GFLOP | GEMM GFLOP/s | times the roofline |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {each['ms']:.1f} | {each['gflop']:.2f} | {each['gemm_gflops']:.0f} "
            f"| {each['times_roofline']:.2f} |"
            for name, each in found["network"].items()
        ),
        "",
        "| one image from a cold start | s |",
        "|---|---:|",
        *(f"| {name} | {each['seconds']:.2f} |" for name, each in found["cold_start"].items()),
        "",
        "| against torch in fp32 | images | greatest difference of a probability | of mask pixels "
        "| mean mask Dice |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {each['images']:.0f} | {each['probability']:.1e} "
            f"| {100 * each['mask_pixels']:.3f} % | {each['mask_dice']:.4f} |"
            for name, each in found["agreement"].items()
        ),
    ]
    return "\n".join([*text, "", *cost_model(found)])


def cost_model(found: Figures) -> list[str]:
    """Return what many images take: core hours and what is written, from this run's slopes."""
    rows = ["| images | engine | core hours | written |", "|---:|---|---:|---:|"]
    for count in (10**6, 10**9):
        for name, each in found["command"].items():
            hours, size = each["core"] * count / 3.6e6, each["bytes"] * count / 1e9
            rows.append(f"| {count:,} | {name} | {hours:,.0f} | {size:,.0f} GB |")
    return rows


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images and runs")
    parser.add_argument("--data", type=Path, help="a prepared dataset; by default phantoms")
    parser.add_argument("--audit", type=Path, help="a dataset to audit as well")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        name, options = json.loads(given.measure)
        images = [Path(line) for line in sys.stdin.read().splitlines()]
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASUREMENTS[name](images, Path(folder) / "out", **options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = given.data
        if data is None:
            from busi_monai.phantoms import write_phantom_dataset

            data = write_phantom_dataset(f"{folder}/data", cases=60, size=(500, 600))
        pattern = "images/*.png" if (data / "images").is_dir() else "*/*[0-9)].png"
        images = sorted(data.glob(pattern))[: 60 if given.quick else 500]
        found = measure_all(images, quick=given.quick)
        if given.audit is not None:
            found["audit_seconds"] = audit_seconds(given.audit)
            print("audit", found["audit_seconds"], flush=True)
        if not given.quick and given.data is not None:
            found["training"] = measured("training", images, config="cpu")
    print(f"\n{table(found)}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure_all(images: list[Path], *, quick: bool) -> Figures:
    """Return all figures of prediction."""
    import importlib.util

    from busi_monai.threads import computing_threads

    runs = 1 if quick else 3
    engines = [("onnx", "fp32"), ("torch", "fp32")]
    if importlib.util.find_spec("openvino"):
        engines[1:1] = [("openvino", "fp32")]
    found: Figures = {
        "processor": processor(),
        "threads": computing_threads(),
        "images": len(images),
        "plain_loop": measured("plain_loop", images, runs),
        "command": {},
        "network": {},
        "cold_start": {},
        "agreement": {},
    }
    for engine, precision in engines:
        options = {"engine": engine, "precision": precision}
        name = f"{engine}, {precision}"
        found["command"][name] = measured("command", images, runs, overlays=False, **options)
        if name != "torch, fp32":
            found["agreement"][name] = measured("agreement", images[:200], **options)
        if precision == "fp32":
            found["network"][engine] = measured("network", images, runs, engine=engine)
            found["cold_start"][engine] = cold_start(images[0], engine, runs)
    found["command"]["onnx, fp32, with overlays"] = measured(
        "command", images, runs, overlays=True, engine="onnx", precision="fp32"
    )
    return found


if __name__ == "__main__":
    main()
