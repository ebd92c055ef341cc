"""Uploads that mean no good, drawn with a seed: each a request with what it is."""

from __future__ import annotations

import functools
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

Random = np.random.Generator

_CODED = (
    JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless,
    JPEG2000, JPEG2000Lossless,
)  # fmt: skip

NAMES = (
    "a.png", "../../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/shadow", "nul", "CON.png",
    ".", "..", "", "a\x00.png", "x" * 4000, "%2e%2e%2fa", "<img src=x onerror=alert(1)>.png",
    "=1+1.csv",
    "a;b|c&d$(e)`f`.png", "\u202egnp.exe", "a\u0000b", "~/.ssh/id", "file:///etc/passwd", "é😀.dcm",
)  # fmt: skip


@dataclass(frozen=True)
class HostileRequest:
    """A request and what it tries.

    Attributes:
        what: for messages of the test.
        body: of the request.
        headers: of the request.
    """

    what: str
    body: bytes = field(repr=False)
    headers: dict[str, str]


def hostile_requests(count: int, seed: int) -> list[HostileRequest]:
    """Draw requests, of every kind in turn."""
    rng = np.random.default_rng(seed)
    return [_KINDS[number % len(_KINDS)](rng) for number in range(count)]


def _image(rng: Random) -> np.ndarray:
    return rng.integers(0, 255, (int(rng.integers(8, 60)), int(rng.integers(8, 60))), np.uint8)


def _encoded(rng: Random) -> tuple[str, bytes]:
    """A valid file of any format."""
    format = str(rng.choice(["PNG", "JPEG", "BMP", "TIFF", "NIFTI", "NIFTI.GZ", "DICOM"]))
    if format == "DICOM":
        return format, _dicom(rng)
    if format.startswith("NIFTI"):
        image = nibabel.Nifti1Image(_image(rng).astype(np.float32), np.eye(4)).to_bytes()
        return format, gzip.compress(image) if format.endswith("GZ") else image
    stream = io.BytesIO()
    Image.fromarray(_image(rng)).save(stream, format)
    return format, stream.getvalue()


def _dicom(rng: Random, syntax: Any = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    pixels = _image(rng)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    dataset.PatientName, dataset.Modality = "Secret^Name", "US"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def _sent(rng: Random, what: str, *contents: bytes, name: str | None = None) -> HostileRequest:
    parts = []
    for content in contents:
        shown = (str(rng.choice(NAMES)) if name is None else name).replace('"', "%22")
        shown = shown.replace("\r", "").replace("\n", "")
        parts.append(
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
            + shown.encode()
            + b'"\r\n\r\n'
            + content
            + b"\r\n"
        )
    body = b"".join([*parts, b"--b--\r\n"])
    return HostileRequest(what, body, {"content-type": "multipart/form-data; boundary=b"})


def _truncated(rng: Random) -> HostileRequest:
    format, content = _encoded(rng)
    return _sent(rng, f"truncated {format}", content[: int(rng.integers(0, len(content)))])


def _flipped(rng: Random) -> HostileRequest:
    format, content = _encoded(rng)
    damaged = bytearray(content)
    head = min(len(damaged), 400 if rng.random() < 0.5 else len(damaged))
    for place in rng.integers(0, head, int(rng.integers(1, 30))):
        damaged[place] = int(rng.integers(0, 256))
    return _sent(rng, f"damaged {format}", bytes(damaged))


def _noise(rng: Random) -> HostileRequest:
    heads = (
        b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\0", b"MM\0*", b"\x1f\x8b\x08",
        b"\0" * 128 + b"DICM", b"\0" * 344 + b"n+1\0", b"\x1c\x02\0\0n+2\0", b"\x5c\x01\0\0", b"",
    )  # fmt: skip
    head = heads[int(rng.integers(len(heads)))]
    return _sent(rng, f"noise after {head[-4:]!r}", head + rng.bytes(int(rng.integers(0, 3000))))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checked = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checked


def _bomb(rng: Random) -> HostileRequest:
    kind = int(rng.integers(7))
    side = int(rng.integers(3000, 60_000))
    if kind == 0:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header)
        content += _png_chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + _png_chunk(b"IEND", b"")
    elif kind == 1:
        header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
        text = _png_chunk(b"zTXt", b"a\0\0" + _squeezed_zeros(zlib.MAX_WBITS, 80))
        content = b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + text
        content += _png_chunk(b"IDAT", zlib.compress(b"\0" * 72)) + _png_chunk(b"IEND", b"")
    elif kind == 2:
        image = nibabel.Nifti1Image(np.zeros((2, 2), np.uint8), np.eye(4))
        image.header["dim"][1:3] = 32_000, 32_000
        content = gzip.compress(bytes(image.header.binaryblock))  # more members may follow
        content += _squeezed_zeros(16 + zlib.MAX_WBITS, 100)
    elif kind == 3:
        content = _dicom(rng, Rows=65_535, Columns=65_535)
    elif kind == 4:
        content = _deflated(rng)
    elif kind == 5:
        content = b"BM" + struct.pack(
            "<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, side, side, 1, 24, *[0] * 6
        )
    else:
        entries = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (262, 3, 1, 1)]
        entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, 10)]
        ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
        content = b"II*\0" + struct.pack("<I", 8) + ifd + b"\0" * 4
    return _sent(rng, f"bomb {kind}", content)


def _deflated(rng: Random) -> bytes:
    """A DICOM file whose header, of a few kilobytes, is 200 megabytes when it is inflated."""
    plain = _dicom(rng, DeflatedExplicitVRLittleEndian)
    start = plain.index(b"1.2.840.10008.1.2.1.99") + 22
    start += start % 2
    return plain[:start] + _squeezed_zeros(-zlib.MAX_WBITS, 200)


@functools.cache
def _squeezed_zeros(wbits: int, megabytes: int) -> bytes:
    squeeze = zlib.compressobj(6, wbits=wbits)
    return b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(megabytes)) + squeeze.flush()


@functools.cache
def _wide_image(format: str) -> bytes:
    """An image of 36 megapixels in a few kilobytes."""
    stream = io.BytesIO()
    Image.new("L", (6000, 6000)).save(stream, format)
    return stream.getvalue()


def _other_type(rng: Random) -> HostileRequest:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("../../a.png", b"x")
    gif, webp = io.BytesIO(), io.BytesIO()
    Image.fromarray(_image(rng)).save(gif, "GIF")
    Image.fromarray(_image(rng)).convert("RGB").save(webp, "WEBP")
    contents = (
        b"hello", b"<html><script>alert(1)</script>", archive.getvalue(), b"\x80\x04cos\nsystem\n",
        b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x7fELF" + b"\0" * 100, gif.getvalue(), webp.getvalue(), b'{"a": 1}', b"", b"\0" * 5000,
    )  # fmt: skip
    which = int(rng.integers(len(contents)))
    return _sent(rng, f"other type {which}", contents[which])


def _odd_nifti(rng: Random) -> HostileRequest:
    values = _image(rng).astype(np.float32)
    kind = int(rng.integers(8))
    if kind == 0:
        values[0, 0] = np.nan
    elif kind == 1:
        values[:] = np.inf
    elif kind == 2:
        values = np.stack([values] * 5, axis=-1)
    elif kind == 3:
        values = values[:1]
    image = nibabel.Nifti1Image(values, np.eye(4))
    if kind == 4:
        image.header["dim"][1:3] = -5, int(rng.integers(-9, 9))
    elif kind == 5:
        image.header["datatype"] = int(rng.integers(0, 3000))
    elif kind == 6:
        image.header["scl_slope"], image.header["scl_inter"] = np.nan, np.inf
    elif kind == 7:
        image.header["vox_offset"] = float(rng.choice([-1e9, 1e12, np.nan, 3.5]))
        image.header["pixdim"][1:3] = np.nan, -1
    body = bytes(image.header.binaryblock) + b"\0" * 4 + values.tobytes()
    return _sent(rng, f"odd NIfTI {kind}", gzip.compress(body) if rng.random() < 0.3 else body)


def _odd_dicom(rng: Random) -> HostileRequest:
    changes: list[dict[str, Any]] = [
        {"Rows": 0}, {"Columns": None}, {"PixelData": None}, {"PixelData": b""},
        {"BitsStored": 0}, {"BitsAllocated": 64}, {"BitsAllocated": 13}, {"SamplesPerPixel": 7},
        {"PhotometricInterpretation": "NONSENSE"}, {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PhotometricInterpretation": None}, {"NumberOfFrames": 2_000_000}, {"NumberOfFrames": -3},
        {"NumberOfFrames": 5}, {"Rows": 65_535, "Columns": 1}, {"PixelSpacing": [0, 0]},
        {"PixelSpacing": ["1e400", "1"]}, {"FrameTimeVector": ["1"] * 3, "NumberOfFrames": 2},
        {"Modality": "SR"}, {"PixelRepresentation": 9}, {"HighBit": 200},
        {"PixelPaddingValue": 1}, {"SequenceOfUltrasoundRegions": [Dataset()]},
        {"SpecificCharacterSet": "NONSENSE"}, {"Rows": None, "Columns": None},
    ]  # fmt: skip
    which = int(rng.integers(len(changes) + 3))
    if which < len(changes):
        return _sent(rng, f"DICOM {changes[which]}", _dicom(rng, **changes[which]))
    syntax = (JPEG2000Lossless, JPEGBaseline8Bit, RLELossless)[which - len(changes)]
    format = "JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000"
    fragment = rng.bytes(500) if rng.random() < 0.5 else _wide_image(format)
    return _sent(
        rng, f"DICOM {syntax.name}", _dicom(rng, syntax, PixelData=encapsulate([fragment]))
    )


def _damaged_codestream(rng: Random) -> HostileRequest:
    """A coded frame with a few wrong bytes, which make some decoders abort or never end."""
    syntax = _CODED[int(rng.integers(len(_CODED)))]
    stream = io.BytesIO()
    loaded = Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8))
    if syntax in {JPEG2000, JPEG2000Lossless}:
        loaded.save(stream, "JPEG2000", no_jp2=bool(rng.random() < 0.7))
    else:
        loaded.save(stream, "JPEG", quality=int(rng.integers(30, 100)))
    coded = bytearray(stream.getvalue())
    for place in rng.integers(0, len(coded), int(rng.integers(1, 6))):
        coded[place] = int(rng.integers(0, 256))
    content = _dicom(rng, syntax, Rows=48, Columns=48, PixelData=encapsulate([bytes(coded)]))
    return _sent(rng, f"damaged codestream of {syntax.name}", content)


def _broken_form(rng: Random) -> HostileRequest:
    form = "multipart/form-data; boundary=b"
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    odd: list[tuple[str, bytes]] = [
        ("multipart/form-data", b"--b--"), ("multipart/form-data; boundary=", b"--b--"),
        (form, b""), (form, b"--b"), (form, file), (form, file + b"x\r\n--b\r\n"),
        (form, b"--b\r\n\r\nx\r\n--b--\r\n"), (form, b"--b\r\nContent-Disposition: x\r\n\r\n"),
        (form, b"--b\r\nX: " + b"a" * 100_000 + b"\r\n\r\n\r\n--b--\r\n"),
        (form, b"--b\r\n" + b"X: a\r\n" * 20_000 + b"\r\n\r\n--b--\r\n"),
        (form, (file + b"x\r\n") * 400 + b"--b--\r\n"),
        (form, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'),
        (form, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 9000),
        (form + "; charset=nonsense", file + b"x\r\n--b--\r\n"),
        (form + "; charset=utf-7", file.replace(b"a.png", b"+AC8-\xff\xfe") + b"x\r\n--b--\r\n"),
        ("application/json", b'{"file": 1}'), ("text/plain", b"x"), ("", b"x"),
        ("application/x-www-form-urlencoded", b"file=a&" * 5000),
        ("multipart/form-data; boundary=" + "b" * 5000, b"--b--"),
        ("multipart/mixed; boundary=b", file + b"x\r\n--b--\r\n"),
    ]  # fmt: skip
    which = int(rng.integers(len(odd)))
    content_type, body = odd[which]
    return HostileRequest(f"form {which}", body, {"content-type": content_type})


def _several(rng: Random) -> HostileRequest:
    contents = [_encoded(rng)[1], _encoded(rng)[1][:200], rng.bytes(50), b""]
    return _sent(rng, "several", *contents)


_KINDS: tuple[Callable[[Random], HostileRequest], ...] = (
    _truncated, _flipped, _noise, _bomb, _other_type, _odd_nifti, _odd_dicom, _broken_form,
    _several, _flipped, _truncated, _damaged_codestream,
)  # fmt: skip
