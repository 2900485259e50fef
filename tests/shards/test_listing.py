"""From paths to keys, labels and order."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardsError
from shards.listing import MAX_KEY_BYTES, list_files, safe_name


def listed(*names, labels=None):
    return list_files(names, [], lambda name: json.dumps({"labels": labels}).encode())


def keys(*names):
    return [item.key for item in listed(*names).items]


def test_class_folders_become_labels():
    listing = listed("b/1.png", "a/2.png", "a/1.png")
    assert listing.classes == ["a", "b"]
    assert [(item.key, item.label) for item in listing.items] == [("a/1", 0), ("a/2", 0), ("b/1", 1)]


def test_folders_that_all_share_are_no_classes():
    wrapped = listed("photos/train/a/1.png", "photos/train/b/1.png")
    assert [(item.key, item.label) for item in wrapped.items] == [("a/1", 0), ("b/1", 1)]
    assert listed("photos/1.png", "photos/2.png").classes == []
    assert [item.label for item in listed("photos/1.png").items] == [-1]


def test_one_image_outside_of_the_folders_means_no_labels():
    assert listed("a/1.png", "b/1.png", "2.png").classes == []


def test_classes_that_are_numbers_are_ordered_by_value():
    assert listed("10/1.png", "9/1.png", "0/1.png").classes == ["0", "9", "10"]
    assert listed("10/1.png", "9/1.png", "x/1.png").classes == ["10", "9", "x"]


def test_order_is_folder_by_folder():
    assert keys("a-b/1.png", "a/2.png", "a/1.png") == ["a/1", "a/2", "a-b/1"]


def test_keys_hold_no_dots():
    assert keys("x.v1.png", "x.v2.png") == ["x_v1", "x_v2"]


@given(st.text("abc./é", min_size=1, max_size=300))
def test_keys_fit_a_tar_header(name):
    for key in keys(safe_name(f"x{name}.png") or "y.png", "z/other.png"):
        assert len(key.encode()) <= MAX_KEY_BYTES
        assert "." not in key


def test_long_names_stay_apart():
    assert len(set(keys("a" * 200 + "1.png", "a" * 200 + "2.png"))) == 2


def test_paths_that_would_share_a_key_get_one_each():
    """By their own digests; the one without dots keeps the key that reads like it, and then the first."""
    renamed, kept = keys("a_b.png", "a.b.png")
    assert kept == "a_b"
    assert renamed.startswith("a_b-")
    assert keys("x.jpg", "x.png", "y.png")[0] == "x"
    assert len(set(keys("x.jpg", "x.png", "x.gif"))) == 3
    listing = listed("a.b/1.png", "a_b/1.png")
    assert listing.classes == ["a.b", "a_b"]
    assert len({item.key for item in listing.items}) == 2


@given(st.lists(st.text("aAé\u0301b._/- \\x0鋼", min_size=1, max_size=8), max_size=12, unique=True), st.data())
def test_no_two_images_have_one_key(names, data):
    """Nor where a file is named by the key that another got; a path without dots is its own key."""
    plain = {name for name in (safe_name(f"{name}.{suffix}") for name in names for suffix in ("png", "jpg")) if name}
    items = listed("Z/0.png", "0.png", *plain).items
    copied = [item.key for item in data.draw(st.lists(st.sampled_from(items), max_size=4))]
    items = listed("Z/0.png", "0.png", *plain, *(f"{key}.png" for key in copied)).items
    found = [item.key for item in items]
    assert len(set(found)) == len(found)
    assert all("." not in key and 0 < len(key.encode()) <= MAX_KEY_BYTES for key in found)
    stems = Counter(item.name.rsplit(".", 1)[0].replace(".", "_") for item in items)
    assert all(item.key == stem for item in items if stems[stem := item.name.rsplit(".", 1)[0]] == 1)


def test_a_file_named_by_the_key_of_another_gets_its_own():
    _, renamed = keys("x.jpg", "x.png")
    assert len(set(keys("x.jpg", "x.png", f"{renamed}.png"))) == 3


def test_twins_are_packed_and_named():
    """A photo and its mask."""
    listing = listed("1.jpg", "1.png", "2.png")
    assert len(listing.items) == 3
    assert listing.remarks == [
        "warning: 2 images differ from another in the suffix of their name only, and are all packed: 1.jpg, 1.png"
    ]


def test_what_is_no_image_is_passed_over_and_counted():
    listing = listed("1.png", "notes.txt", ".hidden.png", "__MACOSX/1.png", "sub/.cache/2.png")
    assert [item.name for item in listing.items] == ["1.png"]
    assert listing.passed_over == {"hidden": 3, ".txt": 1}


def test_a_name_that_is_no_text_is_bad():
    listing = listed("a\ud800.png", "b\n.png", "c.png")
    assert [item.name for item in listing.items] == ["c.png"]
    assert len(listing.bad) == 2
    assert all(bad.name.isascii() and "\n" not in bad.name for bad in listing.bad)


@pytest.mark.parametrize("folder", ["", "set/"])
def test_dataset_json_decides_the_labels(folder):
    names = [f"{folder}0/1.png", f"{folder}0/2.png", f"{folder}1/3.png", f"{folder}dataset.json"]
    listing = listed(*names, labels=[["0/1.png", 4], ["1/3.png", 0]])
    assert [(item.key, item.label) for item in listing.items] == [("0/1", 4), ("0/2", -1), ("1/3", 0)]
    assert listing.classes == ["0", "1", "2", "3", "4"]
    assert listing.remarks == [
        f"1 of 3 images have no label in {folder}dataset.json, and are kept without one; the first is {folder}0/2.png"
    ]
    assert listing.bad == []
    assert listed(*names, labels=None).classes == []
    assert listing.passed_over == {}


def test_texts_name_classes():
    listing = listed("1.png", "2.png", "dataset.json", labels=[["1.png", "roses"], ["2.png", "asters"]])
    assert listing.classes == ["asters", "roses"]
    assert [item.label for item in listing.items] == [1, 0]


def test_paths_written_elsewhere_are_understood():
    labels = [["a\\1.png", 1], ["./a/2.png", 0], ["b/3.png", 2]]
    listing = listed("a/1.png", "a/2.png", "b/3.png", "dataset.json", labels=labels)
    assert [item.label for item in listing.items] == [1, 0, 2]


@pytest.mark.parametrize("rows", [[["1.png", [1, 0.5]], ["2.png", [0, 2]]], [["1.png", 1, 0.5], ["2.png", 0, 2]]])
def test_vectors_are_kept_if_they_are_asked_for(rows):
    def with_labels(labels):
        names = ["1.png", "2.png", "3.png", "dataset.json"]
        return list_files(names, [], lambda _: json.dumps({"labels": rows}).encode(), labels)

    listing = with_labels("vector")
    assert [item.vector for item in listing.items] == [(1.0, 0.5), (0.0, 2.0), ()]
    assert (listing.vector_dim, len(listing.remarks), listing.classes) == (2, 1, [])
    assert [item.vector for item in with_labels("none").items] == [()] * 3
    with pytest.raises(
        ShardsError, match="`spider pack --labels vector` keeps such labels, `--labels none` drops them"
    ):
        with_labels("class")


@pytest.mark.parametrize("labels", [
    [["1.png", 0.5]], [["1.png", -1]], [["1.png", True]], [["other.png", 1]], [["1.png"]], "x", 3, {"1.png": 1},
    [["1.png", "\ud800"]], [["1.png", ""]], [["1.png", "a\x1b"]], [["1.png", 1], ["1.png", 2]], [[]], [1],
])  # fmt: skip
def test_a_wrong_dataset_json_is_refused(labels):
    with pytest.raises(ShardsError, match=r"^dataset\.json: "):
        listed("1.png", "dataset.json", labels=labels)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"[" * 100_000, b"\xff", b'{"labels": 1e999}', b"1" * 5000])
def test_a_file_that_is_no_dataset_json_is_refused(content):
    with pytest.raises(ShardsError, match=r"^dataset\.json: "):
        list_files(["1.png", "dataset.json"], [], lambda _: content)


def test_whole_numbers_may_be_written_as_floats():
    assert [item.label for item in listed("1.png", "2.png", "dataset.json", labels=[["1.png", 2.0]]).items] == [2, -1]


@pytest.mark.parametrize(("labels", "unlabelled"), [(None, 0), ([], 0), ([["1.png", None]], 1)])
def test_labels_that_are_all_missing_are_none(labels, unlabelled):
    listing = listed("1.png", "dataset.json", labels=labels)
    assert (listing.items[0].label, listing.classes, len(listing.remarks)) == (-1, [], unlabelled)
    with pytest.raises(ShardsError, match="labels=vector: no image has a label"):
        list_files(["1.png", "dataset.json"], [], lambda _: json.dumps({"labels": labels}).encode(), "vector")


def test_entries_that_name_no_image_are_counted():
    listing = listed("1.png", "dataset.json", labels=[["1.png", 0], ["gone.png", 1], ["gone too.png", 1]])
    assert listing.remarks == ["dataset.json: 2 of 3 entries name no image; the first is gone.png"]


def test_an_accent_may_be_spelled_in_two_ways():
    """macOS stores names in the other way."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert listed(f"{apart}.png", "dataset.json", labels=[[f"{composed}.png", 3]]).items[0].label == 3
    both = listed(
        f"{apart}.png", f"{composed}.png", "dataset.json", labels=[[f"{composed}.png", 3], [f"{apart}.png", 4]]
    )
    assert {item.key: item.label for item in both.items} == {apart: 4, composed: 3}


def test_classes_that_look_alike_are_kept_apart_and_named():
    listing = listed("Cat/1.png", "cat/1.png", "dog/1.png", "caf\u00e9/1.png", "cafe\u0301/1.png")
    assert len(listing.classes) == 5
    assert len(listing.remarks) == 1
    assert "differ only in case or in the spelling" in listing.remarks[0]
    assert "Cat (43 61 74), cat (63 61 74)" in listing.remarks[0]


def test_a_file_that_names_other_images_is_quoted():
    with pytest.raises(ShardsError, match=r"it names 'other\.png', and there is '1\.png'"):
        listed("1.png", "dataset.json", labels=[["other.png", 1]])


@pytest.mark.parametrize("vectors", [
    [[1], [1, 2]], [["x"], [1]], [[], []], [[True], [1]], [[float("nan")], [1]], [[10**400], [1]], [[1e39], [1]],
])  # fmt: skip
def test_vectors_that_are_none_are_refused(vectors):
    rows = json.dumps({"labels": [["1.png", vectors[0]], ["2.png", vectors[1]]]}).encode()
    with pytest.raises(ShardsError, match=r"^dataset\.json: "):
        list_files(["1.png", "2.png", "dataset.json"], [], lambda _: rows, "vector")


def test_ways_out_of_an_archive():
    assert safe_name("./a/b.png") == "a/b.png"
    assert safe_name("/etc/passwd.png") is None
    assert safe_name("a/../../b.png") is None
