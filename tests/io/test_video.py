from __future__ import annotations

import builtins
import io
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate

from busi_monai.errors import ImageReadError
from busi_monai.io import video
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile, frames_of, read_image

Save = Callable[..., Path]

H264, HEVC, MPEG2 = (f"1.2.840.10008.1.2.4.{number}" for number in (102, 107, 100))


def drawn(frames: int = 12) -> np.ndarray:
    """(N, 64, 96) uint8, asymmetric, brighter from frame to frame, with a bar that moves."""
    rows, columns = np.mgrid[:64, :96]
    drawings = np.stack([rows + columns // 2 + 5 * number for number in range(frames)])
    for number in range(frames):
        drawings[number, 8:24, 6 * number : 6 * number + 12] = 250
    return drawings.astype(np.uint8)


def write(
    target: Path | io.BytesIO,
    drawings: np.ndarray,
    codec: str = "mpeg4",
    form: str | None = None,
    pixels: str = "yuv420p",
) -> None:
    av = pytest.importorskip("av")
    with av.open(target, "w", format=form) as container:
        try:
            stream = container.add_stream(codec, rate=Fraction(25))
        except Exception:
            pytest.skip(f"this PyAV does not write {codec}")
        stream.height, stream.width = drawings.shape[1:]
        stream.pix_fmt = pixels
        stream.bit_rate = 4_000_000
        for image in drawings:
            frame = av.VideoFrame.from_ndarray(np.stack([image] * 3, axis=-1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def assert_close(found: np.ndarray, image: np.ndarray, most: float = 0.02) -> None:
    assert found.shape == image.shape
    assert np.abs(found - image / np.float32(255)).mean() < most


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    write(tmp_path / "scan.mp4", drawn())
    return tmp_path / "scan.mp4"


def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list that gets each path that decoding begins with."""
    paths: list[Path] = []
    original = video._Reader.__init__

    def noted(self: video._Reader, path: Path, stream: Callable[[], io.BytesIO]) -> None:
        paths.append(path)
        original(self, path, stream)

    monkeypatch.setattr(video._Reader, "__init__", noted)
    return paths


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("x.mp4", "libx264", "yuv420p"),
        ("x.MP4", "mpeg4", "yuv420p"),
        ("x.mov", "mjpeg", "yuvj422p"),
        ("x.avi", "mpeg4", "yuv420p"),
        ("x.mkv", "ffv1", "yuv420p"),
        ("x.mkv", "ffv1", "gray"),
        ("x.mkv", "ffv1", "gray10le"),
        ("x.mkv", "ffv1", "bgr0"),
        ("x.mkv", "libx265", "yuv420p10le"),
    ],
)
def test_every_frame_is_the_drawn_one(name: str, codec: str, pixels: str, tmp_path: Path) -> None:
    drawings = drawn()
    write(tmp_path / name, drawings, codec, pixels=pixels)
    found = frames_of(tmp_path / name)
    assert found.frames_per_second == 25
    assert [image.frame for image in found.images] == list(range(12))
    for image, expected in zip(found.images, drawings, strict=True):
        assert_close(read_image(image).pixels, expected)


def test_frames_in_order_are_decoded_once_and_again_for_their_overlays(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = opened(monkeypatch)
    drawings = frames_of(scan).images
    for first in range(0, 12, 4):  # as in batches of four
        for _ in range(2):
            for image in drawings[first : first + 4]:
                assert_close(read_image(image).pixels, drawn()[image.frame])
    assert paths == [scan]


def test_few_frames_are_kept_and_one_that_is_gone_is_read_again(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "MAX_KEPT_BYTES", 2 * 64 * 96)
    paths = opened(monkeypatch)
    for frame in (11, 10, 0, 1, 11):
        assert_close(read_image(ImageFile(scan, frame)).pixels, drawn()[frame])
        assert all(len(reader._kept) <= 2 for reader in video._open.values())
    assert paths == [scan, scan]


def test_two_videos_in_turn_and_one_that_changes(scan: Path, tmp_path: Path) -> None:
    write(tmp_path / "other.avi", drawn(6)[:, ::-1])
    for frame in (3, 4):
        assert_close(read_image(ImageFile(scan, frame)).pixels, drawn()[frame])
        other = read_image(ImageFile(tmp_path / "other.avi", frame))
        assert_close(other.pixels, drawn()[frame, ::-1])
    write(scan, drawn(5)[:, :, ::-1])
    assert len(frames_of(scan).images) == 5
    assert_close(read_image(ImageFile(scan, 4)).pixels, drawn()[4, :, ::-1])


def test_a_turned_video_is_turned(scan: Path) -> None:
    content = bytearray(scan.read_bytes())
    matrix = content.index(b"tkhd") + 44
    for place, value in ((0, 0), (4, 1 << 16), (12, (-1 << 16) & 0xFFFFFFFF), (16, 0)):
        content[matrix + place : matrix + place + 4] = value.to_bytes(4, "big")
    scan.write_bytes(content)
    found = read_image(ImageFile(scan, 3)).pixels
    assert_close(found, np.rot90(drawn()[3], -1))


def test_what_is_no_frame_is_said(scan: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="found 12 frames; say which"):
        read_image(scan)
    with pytest.raises(ImageReadError, match="no frame 13; 12 are stated, 12 are there"):
        read_image(ImageFile(scan, 12))
    with pytest.raises(ImageReadError, match="no such file"):
        frames_of(tmp_path / "no.mp4")
    (tmp_path / "empty.avi").touch()
    with pytest.raises(ImageReadError, match="empty"):
        frames_of(tmp_path / "empty.avi")
    write(tmp_path / "one.avi", drawn(1))
    assert_close(read_image(tmp_path / "one.avi").pixels, drawn()[0])


@pytest.mark.parametrize(
    "content", [b"no video", b"#EXTM3U\n#EXTINF:1,\nscan.mp4\n", b"ffconcat version 1.0\nfile x\n"]
)
def test_other_contents_and_playlists_are_not_opened(content: bytes, scan: Path) -> None:
    scan.with_name("list.mkv").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"list\.mkv: not a video that can be read"):
        frames_of(scan.with_name("list.mkv"))


def test_too_many_frames_or_pixels(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_FRAMES", 11)
    with pytest.raises(ImageReadError, match="more than 11 frames"):
        frames_of(scan)
    monkeypatch.setattr(video, "MAX_PIXELS", 100)
    with pytest.raises(ImageReadError, match="more than 100 pixels"):
        frames_of(scan)


def test_bytes_are_no_video(scan: Path) -> None:
    with pytest.raises(ImageReadError, match="not an image that can be read"):
        read_image(ImageBytes(scan.read_bytes(), "scan.mp4"))


def without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refused(name: str, *args: object, **options: object) -> object:
        if name == "av":
            raise ImportError
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refused)


def test_without_pyav_a_file_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my scan.mkv").write_bytes(b"x")
    without_av(monkeypatch)
    with pytest.raises(ImageReadError) as caught:
        frames_of(tmp_path / "my scan.mkv")
    assert str(caught.value) == (
        f"{tmp_path}/my scan.mkv: a video (mkv), which PyAV reads; it is not installed: run "
        "pip install 'busi-monai[video]', or make images of it: "
        "ffmpeg -i 'my scan.mkv' -fps_mode passthrough frame_%05d.png"
    )


@pytest.fixture
def save_video(save_ultrasound: Save, tmp_path: Path) -> Callable[..., Path]:
    """Writes a DICOM file with a bit stream in several fragments."""

    def save(stream: bytes, syntax: str, frames: int = 12, **tags: object) -> Path:
        half = len(stream) // 4 * 2
        path = save_ultrasound(
            tmp_path / "video.dcm", drawn(1)[0], NumberOfFrames=frames, FrameTime=50, **tags
        )
        import pydicom

        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PhotometricInterpretation = "YBR_PARTIAL_420"
        dataset.PixelData = encapsulate([stream[:half], stream[half:]], has_bot=False)
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path, implicit_vr=False, little_endian=True, force_encoding=True)
        return path

    return save


@pytest.mark.parametrize(
    ("codec", "form", "syntax"),
    [
        ("libx264", "h264", H264),
        ("libx264", "mp4", H264),
        ("libx264", "mpegts", H264 + ".1"),
        ("libx265", "hevc", HEVC),
        ("mpeg2video", "mpeg2video", MPEG2),
        ("mpeg2video", "mpegts", MPEG2),
        ("mpeg2video", "mpeg", MPEG2 + ".1"),
    ],
)
def test_dicom_video(
    codec: str,
    form: str,
    syntax: str,
    save_video: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.BytesIO()
    write(stream, drawn(), codec, form)
    path = save_video(stream.getvalue(), syntax, PixelSpacing=[0.1, 0.2])
    paths = opened(monkeypatch)
    found = frames_of(path)
    assert found.frames_per_second == 20 and len(found.images) == 12
    for image, expected in zip(found.images, drawn(), strict=True):
        read = read_image(image)
        assert_close(read.pixels, expected)
        assert read.spacing_mm == (0.1, 0.2)
    assert paths == [path]


def test_a_dicom_video_that_is_none_is_one_message(save_video: Callable[..., Path]) -> None:
    pytest.importorskip("av")
    with pytest.raises(ImageReadError, match="not a video that can be read"):
        frames_of(save_video(b"\0\0\0\1" * 5000, H264, 25))


def test_a_dicom_video_of_other_frames_than_stated(save_video: Callable[..., Path]) -> None:
    stream = io.BytesIO()
    write(stream, drawn(), "mpeg2video", "mpegts")
    path = save_video(stream.getvalue(), MPEG2, 14)
    with pytest.raises(ImageReadError, match="no frame 14; 14 are stated, 12 are there"):
        read_image(frames_of(path).images[13])
    path = save_video(stream.getvalue(), MPEG2, Rows=32)
    with pytest.raises(ImageReadError, match="96×32 pixels, as it states, found 96×64"):
        read_image(frames_of(path).images[0])


@pytest.mark.parametrize(
    ("syntax", "named"),
    [
        (H264, "MPEG-4 AVC/H.264 High Profile / Level 4.1"),
        (HEVC, "HEVC/H.265 Main Profile / Level 5.1"),
        (MPEG2, "MPEG2 Main Profile / Main Level"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.113619.5.2", "a private one"),
    ],
)
def test_a_syntax_without_decoder_is_named_when_the_header_is_read(
    syntax: str, named: str, save_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_video(b"\0\0\0\1" * 5000, syntax)
    without_av(monkeypatch)
    with pytest.raises(ImageReadError) as caught:
        frames_of(path)
    message = str(caught.value)
    assert named in message and "\n" not in message
    remedy = "busi-monai[video]" if video.is_video_syntax(syntax) else "without compression"
    assert remedy in message
    with pytest.raises(ImageReadError, match=r"send single images|no decoder"):
        frames_of(ImageBytes(path.read_bytes()))


def test_a_decoder_that_is_not_installed_is_told_with_its_extra(
    save_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom.pixels import get_decoder

    syntax = "1.2.840.10008.1.2.4.90"
    monkeypatch.setattr(type(get_decoder(syntax)), "is_available", property(lambda self: False))
    with pytest.raises(ImageReadError, match=r"JPEG 2000 .*busi-monai\[dicom\]"):
        frames_of(save_video(b"\0\0\0\1" * 5000, syntax))


def test_a_folder_and_an_archive_give_their_videos(
    scan: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    from busi_monai.inference import predict

    (tmp_path / "in").mkdir()
    shutil.copy(scan, tmp_path / "in" / "clip.mp4")
    archive = shutil.make_archive(str(tmp_path / "clips"), "zip", tmp_path / "in")
    inputs = [tmp_path / "in", archive]
    summary = predict(inputs, tmp_path / "out", model=tiny_bundle, device="cpu")
    assert summary.predicted == 24 and summary.failures == []
    assert [cine["frames_per_second"] for cine in summary.cines] == [25, 25]
    assert summary.cines[1]["file"] == f"{archive}/clip.mp4"
    assert summary.cines[1]["summary_id"].startswith("clips.zip__clip_frame_0")
    assert (tmp_path / "out" / "overlays" / "in__clip_frame_001.png").is_file()
