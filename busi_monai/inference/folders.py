"""From files, folders and patterns to a predictions folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from busi_monai.bundle.shipped import find_bundle
from busi_monai.errors import BusiMonaiError, ImageReadError, InputError
from busi_monai.files import leaving_by_sigterm, named, read_json
from busi_monai.inference.formats import FurtherFormats
from busi_monai.inference.inputs import FoundImages, frame_id, images_of
from busi_monai.inference.prediction import Prediction
from busi_monai.inference.predictor import Predictor
from busi_monai.inference.progress import ProgressFile
from busi_monai.inference.writers import PredictionsFolder
from busi_monai.io.decoding import FileDecoder
from busi_monai.io.image_files import image_stem
from busi_monai.io.images import ImageFile, LoadedImage
from busi_monai.outputs import is_finished, output_folder
from busi_monai.records import RunRecord, installed_versions

__all__ = ["PredictSummary", "predict"]

SUMMARY_ROWS = 20
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass
class PredictSummary:
    """What ``predict`` did.

    Attributes:
        out: the folder written, or ``None`` if no image could be predicted.
        predicted: number of images predicted.
        classes: number of images by predicted class.
        with_lesion: number of images with a predicted lesion.
        failures: one ``{"file", "message"}`` for each input that could not be used.
        warnings: what to know of predictions, as in ``run.json``.
        skipped_masks: number of mask files left out.
        skipped_objects: number of DICOM files left out that are no images.
        left_out: number of other files by kind; see ``FoundImages``.
        cines: for each multi-frame file its ``frames``, ``frames_per_second`` (``None`` where it is
            not stated), how many were ``predicted`` and ``with_lesion``, and ``summary_id`` and
            ``summary_frame`` (from 1) of the row that stands for it, by ``Prediction.rank``.
        device: device and why it was taken.
        precision: arithmetic and why it was taken.
        unwritten: number of files predicted without the DICOM objects that were asked for.
        engine: what computed and why it was taken.
        rows: the first rows of ``predictions.csv`` that were predicted, at most ``SUMMARY_ROWS``.
        complete_before: whether nothing was done, as ``out`` held the complete result that was to
            be resumed; its counts alone are told.
    """

    out: str | None
    predicted: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    with_lesion: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    skipped_masks: int = 0
    skipped_objects: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    cines: list[dict[str, Any]] = field(default_factory=list)
    device: str = ""
    precision: str = ""
    unwritten: int = 0
    engine: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    complete_before: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class _NothingPredictedError(BusiMonaiError):
    """Leaves the block that makes the folder, so that an earlier result stays."""


def predict(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "fp32",
    batch_size: int = 1,
    tta_flip: bool | None = None,
    operating_point: str | None = None,
    consistency: bool | None = None,
    overlays: bool = True,
    formats: Sequence[str] = (),
    fractional: bool = False,
    crop_region: bool = False,
    keep_ids: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> PredictSummary:
    """Outline and classify lesions in images, into a folder of masks, overlays and a table.

    What fails is listed in the summary's ``failures``; the others are done. ``Predictor`` does the
    same for one image in memory. What is done stays on the disk when the process is interrupted
    (Ctrl-C, SIGTERM, a full disk, a power cut), hidden in ``out``, for ``resume``.

    Args:
        inputs: files, folders, archives or glob patterns.
        out: folder to make; not made if no image could be predicted.
        model: folder of a run or bundle, or a shipped bundle's name; by default the released
            weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        engine: ``auto``, ``torch``, ``onnx`` or ``openvino``; see ``Predictor.load``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
        batch_size: images for one call of the network.
        tta_flip: predict the mirror image too and average; by default as the bundle says.
        operating_point: decide malignancy at this threshold of ``settings.json``.
        consistency: make mask and class agree; by default as the bundle says.
        overlays: write images with outlines.
        formats: of ``PREDICTION_FORMATS``, written beside the PNG masks.
        fractional: DICOM segmentations hold probabilities, not masks.
        crop_region: look at the ultrasound region alone that a DICOM file states.
        keep_ids: DICOM objects name patient and examination as their source does.
        overwrite: replace an earlier result in ``out``.
        resume: go on with what an interrupted process of the same inputs, model and options has
            done in ``out``. Where there is nothing to go on with, it begins; a complete result
            stays as it is.
        shard: (I, N) for every N-th image from the I-th on, I from 1; ids are those of all images.
        progress: wraps the iteration to show a bar; called with the iterable and its length.

    Raises:
        InputError: if ``out`` is refused, there is no such model, device or format, what writes
            the format is not installed, or what is to be resumed was asked for otherwise.
        WeightsError: if the weights are missing or do not fit.
        OSError: if the result cannot be written; an earlier result is intact.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from busi_monai.phantoms import write_phantom_dataset
        >>> with TemporaryDirectory() as folder:
        ...     dataset = write_phantom_dataset(folder + "/data", cases=1, size=(64, 80))
        ...     predict(dataset / "normal", folder + "/out", device="cpu").predicted
        1
    """
    inputs = [inputs] if isinstance(inputs, (str, Path)) else inputs
    if not inputs:
        raise InputError("no input given; expected files, folders or patterns")
    record = RunRecord()
    with leaving_by_sigterm(), FileDecoder() as decoder, images_of(inputs) as all_found:
        found = all_found.shard(*shard)
        record.details["inputs_sha256"] = found.sha256
        if resume and is_finished(out, "predict"):
            return _finished(out, found)
        used = [] if model is None else [find_bundle(model)]
        summary = PredictSummary(
            out=str(out),
            skipped_masks=len(found.skipped_masks),
            skipped_objects=len(found.skipped_objects),
            left_out=found.left_out,
            failures=record.failures,
            warnings=record.warnings,
        )
        record.details |= {
            "shard": f"{shard[0]}/{shard[1]}",
            "skipped_masks": len(found.skipped_masks),
            "skipped_objects": [
                {"file": named(path), "holds": other} for path, other in found.skipped_objects
            ],
            "left_out": found.left_out,
            "crop_to_region": crop_region,
        }
        reads = chain(inputs, found.paths, used)
        try:
            with output_folder(
                out, "predict", reads=reads, overwrite=overwrite, resume=resume
            ) as stage:
                predictor = Predictor.load(
                    model,
                    device,
                    precision,
                    engine=engine,
                    tta_flip=tta_flip,
                    operating_point=operating_point,
                    consistency=consistency,
                )
                record.details = {**predictor.provenance(), **record.details}
                further = FurtherFormats(
                    formats, predictor.identity(), fractional=fractional, keep_ids=keep_ids
                )
                classes = predictor.settings.classes
                asked = {
                    "inputs": f"{len(found.paths)} images, {found.sha256}",
                    **_asked(predictor),
                    "batch_size": batch_size,
                    "overlays": overlays,
                    "formats": sorted({*formats, "png"}),
                    "fractional": fractional,
                    "crop_region": crop_region,
                    "keep_ids": keep_ids,
                }
                done = ProgressFile(stage, asked)
                folder = PredictionsFolder(
                    stage,
                    classes,
                    overlays=overlays,
                    record=record,
                    formats=further,
                    taken=all_found.ids,
                    read=decoder.load,
                    progress=done,
                )
                summary.engine = f"{predictor.engine.name} ({predictor.engine.reason})"
                summary.device = f"{predictor.device.name} ({predictor.device.reason})"
                summary.precision = f"{predictor.precision.name} ({predictor.precision.reason})"
                job = _Job(found, decoder, crop_region, folder, summary, progress)
                with folder:
                    job.run(predictor, batch_size)
                    summary.predicted = folder.counts["predicted"]
                    summary.with_lesion = folder.counts["with_lesion"]
                    summary.classes = {name: folder.counts[name] for name in classes}
                    if not summary.predicted:
                        folder.forget()
                        raise _NothingPredictedError
                summary.unwritten = folder.counts["unwritten"]
        except _NothingPredictedError:
            summary.out = None
    return summary


def _asked(predictor: Predictor) -> dict[str, Any]:
    """Return what must be the same of a predictor where another one has begun, without reasons."""
    settings = predictor.settings.as_dict()
    versions = installed_versions(["busi-monai"])
    told = {**settings, **predictor.provenance(), "versions": versions}
    return {
        name: value["name"] if isinstance(value, dict) and "reason" in value else value
        for name, value in told.items()
    }


def _finished(out: str | Path, found: FoundImages) -> PredictSummary:
    """Return what is told of a complete result that was to be resumed.

    Raises:
        InputError: if it is that of other images.
    """
    record = read_json(Path(out) / "run.json")
    if record.get("inputs_sha256") != found.sha256:
        raise InputError(
            f"{out} holds a complete result of other inputs, or of files that have changed since; "
            "choose another folder, or pass --overwrite without --resume"
        )
    counts = record["counts"]
    return PredictSummary(
        out=str(out),
        predicted=counts["predicted"],
        classes={name: counts[name] for name in record["classes"]},
        complete_before=True,
    )


@dataclass
class _Job:
    """Images on their way from files to rows: what is known of them in between, and of loops."""

    found: FoundImages
    decoder: FileDecoder
    crop_to_region: bool
    folder: PredictionsFolder
    summary: PredictSummary
    progress: Progress | None
    _ids: dict[ImageFile, str] = field(default_factory=dict)
    _cines: dict[str, dict[str, Any]] = field(default_factory=dict)
    _ranks: dict[str, tuple[bool, float, int]] = field(default_factory=dict)
    _failures: list[tuple[str, str, str]] = field(default_factory=list)

    def run(self, predictor: Predictor, batch_size: int) -> None:
        """Write every prediction and every failure."""
        folder, summary = self.folder, self.summary
        predictions = predictor.predict_many(
            self._images(),
            batch_size=batch_size,
            then=self._write_images,
            load=self.decoder.load,
        )
        for source, result in predictions:
            image = cast("ImageFile", source)
            id = self._ids.pop(image)
            if not isinstance(result, Prediction):
                folder.fail(id, image, result, reserved=True)
                continue
            whole = replace(image, source=Path(str(image.source)).absolute())
            self._account(image, folder.add_row(id, whole, result), result.rank)
        folder.record.details["cines"] = summary.cines = list(self._cines.values())
        for id, given, reason in self._failures:
            folder.fail(id, given, reason, reserved=True)
        for given, reason in self.found.failures:
            folder.fail(image_stem(given), given, reason)

    def _images(self) -> Iterator[ImageFile]:
        """Yield the images of all files, whose headers are read as they are needed."""
        files: Iterable[Any] = zip(self.found.paths, self.found.ids, strict=True)
        if self.progress is not None:
            files = self.progress(files, len(self.found.paths))
        for path, name in files:
            try:
                frames = self.decoder.frames_of(path, crop_to_region=self.crop_to_region)
            except ImageReadError as error:
                self._failures.append((name, str(path), str(error)))
                continue
            if frames.images[0].frame is not None:
                self._cines[str(path)] = {
                    "file": str(Path(named(path)).absolute()),
                    "frames": len(frames.images),
                    "frames_per_second": frames.frames_per_second,
                    "predicted": 0,
                    "with_lesion": 0,
                    "summary_id": None,
                    "summary_frame": None,
                }
            for image in frames.images:
                id = name if image.frame is None else self.folder.reserve(frame_id(name, image))
                kept = self.folder.kept(id)
                if kept is None:
                    self._ids[image] = id
                    yield image
                elif "rank" in kept:
                    self._account(image, kept["row"], tuple(kept["rank"]))

    def _write_images(self, image: Any, loaded: LoadedImage, prediction: Prediction) -> None:
        self.folder.write_images(self._ids[image], image, prediction, loaded=loaded)

    def _account(
        self, image: ImageFile, row: dict[str, Any], rank: tuple[bool, float, int]
    ) -> None:
        """Take a prediction into account in the summary, and in what is told of its loop."""
        if len(self.summary.rows) < SUMMARY_ROWS:
            self.summary.rows.append(row)
        if image.frame is None:
            return
        file = str(image.source)
        cine = self._cines[file]
        cine["predicted"] += 1
        cine["with_lesion"] += row["lesion_pixels"] > 0
        if file not in self._ranks or rank > self._ranks[file]:
            self._ranks[file] = rank
            cine |= {"summary_id": row["id"], "summary_frame": row["frame"]}
