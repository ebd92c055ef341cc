from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from busi_monai.curation import Audit
from busi_monai.curation.audit import examine_case
from busi_monai.curation.candidates import close_hashes
from busi_monai.curation.near_duplicates import (
    NearDuplicates,
    find_near_duplicates,
    group_fingerprints,
)
from busi_monai.datasets import read_dataset
from busi_monai.datasets.listing import natural_key
from busi_monai.errors import InputError


def scan(seed: int, size: tuple[int, int] = (360, 480)) -> NDArray[np.float32]:
    """Texture at several scales under a depth gain that all images share."""
    rng = np.random.default_rng(seed)
    image = np.zeros(size, dtype=np.float32)
    for sigma in (2, 8, 24):
        noise = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), sigma)
        image += noise / noise.std()
    gain = np.linspace(0.7, 0.2, size[0], dtype=np.float32)[:, None]
    return np.clip(gain + 0.1 * image, 0, 1).astype(np.float32)


def annotated(image: NDArray[np.float32]) -> NDArray[np.float32]:
    grey = np.round(image * 255).astype(np.uint8)
    cv2.putText(grey, "RT AXILLA", (20, 330), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
    for x, y in ((120, 150), (260, 180)):
        cv2.drawMarker(grey, (x, y), 255, cv2.MARKER_CROSS, 14, 2)
    return grey.astype(np.float32) / 255


def resized(image: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def others() -> dict[str, NDArray[np.float32]]:
    return {f"other ({seed})": scan(seed) for seed in range(1, 9)}


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda p: p, id="same_pixels"),
        pytest.param(annotated, id="annotated"),
        pytest.param(lambda p: np.clip(0.1 + 0.7 * p, 0, 1), id="other_brightness"),
        pytest.param(lambda p: resized(p, 360, 270), id="rescaled"),
        pytest.param(lambda p: resized(p, 480, 300), id="squeezed"),
        pytest.param(lambda p: p[:, 140:], id="cropped_left"),
        pytest.param(lambda p: p[60:, :360], id="cropped_top_and_right"),
    ],
)
def test_copy_is_found_among_unrelated_images(copy, others):
    image = scan(100)
    found = find_near_duplicates({"first": image, "second": copy(image), **others})
    assert found.groups == [["first", "second"]]


def test_unrelated_images_make_no_group(others):
    assert find_near_duplicates(others) == NearDuplicates()


def test_chain_of_crops_is_one_group(others):
    wide = scan(200, (240, 640))
    parts = {"a": wide[:, :360], "b": wide[:, 140:500], "c": wide[:, 280:]}
    found = find_near_duplicates({**parts, **others})
    assert found.groups == [["a", "b", "c"]]


def test_equal_pixels_are_exact_and_near(others):
    found = find_near_duplicates({**others, "copy": others["other (3)"].copy()})
    assert found.exact == [["copy", "other (3)"]]
    assert found.groups == found.exact
    assert found.pairs[0].distance == 0
    assert found.pairs[0].correlation == pytest.approx(1)


def test_blank_images_match_only_each_other(others):
    blank = np.zeros((90, 120), dtype=np.float32)
    found = find_near_duplicates({"blank (2)": blank, "blank (10)": blank, **others})
    assert found.groups == [["blank (2)", "blank (10)"]]


def test_order_of_images_does_not_matter(others):
    images = {**others, "x (10)": scan(5), "x (2)": annotated(scan(5))}
    forward = find_near_duplicates(images)
    backward = find_near_duplicates(reversed(list(images.items())))
    assert forward == backward
    assert forward.groups == [["other (5)", "x (2)", "x (10)"]]


def test_repeated_id_is_refused():
    with pytest.raises(InputError, match="'a'"):
        find_near_duplicates([("a", scan(1)), ("a", scan(2))])


@pytest.fixture
def as_large_set(monkeypatch):
    """Search as in a set too large for all pairs to be compared in full."""
    monkeypatch.setattr("busi_monai.curation.near_duplicates.COMPARED_WHOLLY", 0)


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(annotated, id="annotated"),
        pytest.param(lambda p: np.clip(0.1 + 0.7 * p, 0, 1), id="other_brightness"),
        pytest.param(lambda p: resized(p, 360, 270), id="rescaled"),
        pytest.param(lambda p: p[:, 140:], id="cropped_left"),
        pytest.param(lambda p: p[36:], id="cropped_top"),
        pytest.param(lambda p: p[:-60, :360], id="cropped_bottom_and_right"),
    ],
)
def test_copy_is_found_in_a_large_set(copy, others, as_large_set):
    image = scan(100)
    found = find_near_duplicates({"first": image, "second": copy(image), **others})
    assert found.groups == [["first", "second"]]


def test_unrelated_and_blank_images_of_a_large_set(others, as_large_set):
    blank = np.zeros((90, 120), dtype=np.float32)
    assert find_near_duplicates(others) == NearDuplicates()
    assert find_near_duplicates({"a": blank, "b": blank, **others}).groups == [["a", "b"]]


def test_phantoms_group_alike_whatever_the_search(defective, monkeypatch):
    listing = read_dataset(defective)
    prints = {
        e.case.id: e.fingerprint
        for e in (examine_case(case, listing.root) for case in listing.cases)
        if e.fingerprint is not None
    }
    wholly = group_fingerprints(prints)
    monkeypatch.setattr("busi_monai.curation.near_duplicates.COMPARED_WHOLLY", 0)
    assert group_fingerprints(prints) == wholly
    assert wholly.groups


def test_close_hashes_are_all_pairs_within_the_bound():
    hashes = np.random.default_rng(0).random((1200, 16)) < 0.5
    distances = (hashes[:, None] != hashes[None]).sum(axis=2)
    expected = np.argwhere(np.triu(distances <= 2, 1))
    assert sorted(map(tuple, close_hashes(hashes, 2))) == sorted(map(tuple, expected))


@pytest.mark.realdata
@pytest.mark.parametrize("dataset", ["real_busi", "real_bus_uclm", "real_bus_bra", "real_breast"])
def test_a_large_set_s_search_finds_the_same_in_real_datasets(
    dataset, request, audit_of, monkeypatch
):
    audit = audit_of(request.getfixturevalue(dataset))
    prints = {e.case.id: e.fingerprint for e in audit.examinations if e.fingerprint is not None}
    monkeypatch.setattr("busi_monai.curation.near_duplicates.COMPARED_WHOLLY", 10_000)
    wholly = group_fingerprints(prints)
    monkeypatch.setattr("busi_monai.curation.near_duplicates.COMPARED_WHOLLY", 0)
    assert group_fingerprints(prints) == wholly


@pytest.fixture(scope="module")
def found_in_busi(real_busi: Path, audit_of: Callable[[Path], Audit]) -> NearDuplicates:
    return audit_of(real_busi).duplicates


@pytest.mark.realdata
def test_published_duplicates_of_busi_are_found(found_in_busi, reference):
    known = json.loads((reference / "busi_known_defects.json").read_text())
    hashed = {case_id for group in known["phash_le4_groups"] for case_id in group}
    curated = set(known["curated_busi_removed_330"])
    members = {name for group in found_in_busi.groups for name in group}
    assert len(hashed & members) >= 0.98 * len(hashed)
    assert len(curated & members) >= 0.95 * len(curated)
    for conflict in known["cross_label_groups"]:
        assert any(set(conflict) <= set(group) for group in found_in_busi.groups)


@pytest.mark.realdata
def test_busi_has_153_groups_of_which_8_conflict(real_busi, audit_of):
    audit = audit_of(real_busi)
    assert (len(audit.duplicates.groups), len(audit.class_conflicts)) == (153, 8)


@pytest.mark.realdata
def test_groups_of_busi_stay_small_and_sorted(found_in_busi):
    groups = found_in_busi.groups
    assert max(map(len, groups)) <= 8
    assert groups == sorted(
        (sorted(group, key=natural_key) for group in groups), key=lambda g: natural_key(g[0])
    )
    assert len({name for group in found_in_busi.groups for name in group}) <= 360
