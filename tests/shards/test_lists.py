"""Published lists of images: which are packed, under which labels, and the splits of COCO-Stuff."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from shards import coco
from shards.coco import coco_stuff
from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsUsageError
from shards.lists import read_list
from shards.pack import pack


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    number = int(path.stem.split("_")[-1])
    Image.fromarray(np.full((4, 4), number, np.uint8)).save(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """train/n02/n02_20.png ...: two folders with five images each."""
    root = tmp_path_factory.mktemp("imagenet") / "train"
    for folder, first in (("n02", 20), ("n01", 10)):
        for number in range(first, first + 5):
            image(root / folder / f"{folder}_{number}.png")
    return root


def packed(files, out, text, **options):
    file = out.with_suffix(".txt")
    file.write_text(text)
    pack(files, out, listed=file, progress=False, **options)
    dataset = ShardDataset(out)
    pixels, labels = dataset.read_batch(range(len(dataset)))
    return dict(zip(pixels[:, 0, 0, 0].tolist(), labels.tolist(), strict=True)), dataset.class_names


def test_images_of_a_list_have_its_labels_and_the_names_of_their_folders(files, tmp_path):
    text = "train/n02/n02_21.png 0\ntrain/n01/n01_12.png 7\ntrain/n02/n02_24.png 0\n"
    assert packed(files, tmp_path / "out", text) == ({21: 0, 12: 1, 24: 0}, ["n02", "n01"])
    assert packed(files.parent, tmp_path / "above", text)[0] == {21: 0, 12: 1, 24: 0}


def test_labels_that_are_no_folders_are_named_by_their_numbers(files, tmp_path):
    text = "n02/n02_21.png 30\nn01/n01_12.png 30\nn02/n02_24.png 4\n"
    assert packed(files, tmp_path / "out", text) == ({21: 1, 12: 1, 24: 0}, ["4", "30"])


def test_a_list_without_labels_leaves_them_as_they_are(files, tmp_path):
    assert packed(files, tmp_path / "out", "n02_21.png\nn01_12.png\n") == ({21: 1, 12: 0}, ["n01", "n02"])


def test_another_list_is_another_dataset(files, tmp_path):
    packed(files, tmp_path / "out", "n02_21.png\nn01_12.png\n")
    packed(files, tmp_path / "out", "n02_21.png\nn01_12.png\n")  # the same again is left as it is
    with pytest.raises(ShardsUsageError, match="out"):
        packed(files, tmp_path / "out", "n02_21.png\nn01_13.png\n")


def test_images_are_packed_in_the_order_of_the_list(files, tmp_path):
    (tmp_path / "l.txt").write_text("n02_24.png\nn01_12.png\nn02_20.png\n")
    pack(files, tmp_path / "out", listed=tmp_path / "l.txt", progress=False)
    pixels, _ = ShardDataset(tmp_path / "out").read_batch(range(3))
    assert pixels[:, 0, 0, 0].tolist() == [24, 12, 20]


def test_images_of_a_packed_set_are_those_that_the_list_names(files, tmp_path):
    pack(files, tmp_path / "all", progress=False)
    before = ShardDataset(tmp_path / "all")
    keys = [before.key(number) for number in (5, 2, 9)]
    (tmp_path / "l.txt").write_text("\n".join(keys))
    pack(tmp_path / "all", tmp_path / "out", listed=tmp_path / "l.txt", progress=False)
    after = ShardDataset(tmp_path / "out")
    assert [after.key(number) for number in range(len(after))] == keys
    for number, was in enumerate((5, 2, 9)):
        assert (after.read(number)[0] == before.read(was)[0]).all()


def test_bad_files_that_are_not_on_the_list_do_not_matter(files, tmp_path):
    (files / "n01" / "n01_99.png").symlink_to(files / "nowhere.png")
    try:
        assert packed(files, tmp_path / "out", "n01_12.png\n")[0] == {12: 0}
    finally:
        (files / "n01" / "n01_99.png").unlink()


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("n02_21.png\nn01_12.png\nn02_21.png\n", "rows 1 and 3 are both n02_21.png"),
        ("n02_21.png\nn09_1.png\nn08_1.png\n", r"2 of 3 images are not found, .* the first is n09_1.png"),
        ("n02_21.png 1\nn01_12.png\n", "row 2 has no label, and others have one"),
        ("\n", "has 0 images"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(files, tmp_path, text, refusal):
    with pytest.raises(ShardsError, match=refusal):
        packed(files, tmp_path / "out", text)


def test_a_published_list_must_be_whole(tmp_path):
    (tmp_path / "ImageNet_LT_train.txt").write_text("train/n01/n01_1.JPEG 0\n")
    with pytest.raises(ShardsError, match="has 1 images; 115,846 were published under this name"):
        read_list(tmp_path / "ImageNet_LT_train.txt")
    with pytest.raises(ShardsUsageError, match="no such file"):
        read_list(tmp_path / "none.txt")
    with pytest.raises(ShardsUsageError, match=r"known: FILE, coco-stuff:ANNOTATIONS:SPLIT of train, val"):
        read_list("coco-stuff:annotations:test")


# ------------------------------------------------------------------------------------------------------- COCO-Stuff


def box(image, category, share=0.1, crowd=0):
    """Of an image of 100 x 100."""
    return {"image_id": image, "category_id": category, "bbox": [0, 0, 100, 100 * share], "iscrowd": crowd, "id": 1}


def annotations(folder, part, things, stuff, count):
    for kind, rows in (("instances", things), ("stuff", stuff)):
        content = {
            "images": [
                {"id": i, "file_name": f"{part}{i:03}.jpg", "width": 100, "height": 100} for i in range(count, 0, -1)
            ],
            "categories": [{"id": each, "name": "other" if each == 99 else f"c{each}"} for each in (1, 2, 3, 4, 99)],
            "annotations": rows,
        }
        (folder / f"{kind}_{part}2017.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    things = [
        *(box(1, each) for each in (1, 2)),  # with one of stuff: three
        *(box(2, each) for each in (1, 2)),  # the third covers too little
        *(box(3, each) for each in (1, 2, 3)),  # no stuff at all
        *(box(4, 1) for _ in range(8)),  # and one of stuff: nine
        box(5, 1), box(5, 2), box(5, 3, crowd=1),  # a crowd, which does not count in train; two and `other`
        *(box(6, each) for each in (1, 2, 3)),  # stuff that does not count, but is there
    ]  # fmt: skip
    stuff = [box(1, 4), box(2, 4, share=0.02), box(4, 4), box(5, 99), box(6, 99)]
    annotations(tmp_path, "train", things, stuff, 6)
    val = [box(i, each) for i in range(1, 8) for each in ((1, 2) if i % 2 else (1, 3))]
    annotations(tmp_path, "val", [*val, box(7, 3, crowd=1)], [box(i, 4) for i in range(1, 8)], 7)
    return tmp_path


def test_the_splits_follow_the_rules(folder, monkeypatch):
    assert coco_stuff(folder, "train") == ["train006.jpg", "train001.jpg"]
    monkeypatch.setattr(coco, "_VAL", 3)
    assert coco_stuff(folder, "val") == ["val007.jpg", "val006.jpg", "val005.jpg"]
    assert coco_stuff(folder, "eval") == ["val004.jpg", "val003.jpg", "val002.jpg", "val001.jpg"]
    assert coco_stuff(folder, "seen") == ["val003.jpg", "val001.jpg"]  # 1, 2, 4, as train001
    assert coco_stuff(folder, "unseen") == ["val004.jpg", "val002.jpg"]


def test_the_published_annotations_must_give_the_published_counts(folder, monkeypatch):
    monkeypatch.setitem(coco._WHOLE, "train", 6)
    with pytest.raises(ShardsError, match="the split train has 2 images, and 75,777 are published"):
        coco_stuff(folder, "train")
    monkeypatch.setitem(coco.SPLITS, "train", 2)
    assert len(coco_stuff(folder, "train")) == 2


def test_images_of_a_split_are_packed(folder, tmp_path):
    for number in range(1, 7):
        image(tmp_path / "images" / f"train_{number}.png")
        (tmp_path / "images" / f"train_{number}.png").rename(tmp_path / "images" / f"train{number:03}.jpg")
    pack(tmp_path / "images", tmp_path / "out", listed=f"coco-stuff:{folder}:train", progress=False)
    pixels, _ = ShardDataset(tmp_path / "out").read_batch(range(2))
    assert sorted(pixels[:, 0, 0, 0].tolist()) == [1, 6]


def test_missing_and_broken_annotations_are_named(folder):
    (folder / "stuff_val2017.json").write_text("{}")
    with pytest.raises(ShardsError, match=r"stuff_val2017.json: images: field required"):
        coco_stuff(folder, "val")
    (folder / "stuff_val2017.json").unlink()
    with pytest.raises(ShardsUsageError, match=r"stuff_val2017.json"):
        coco_stuff(folder, "val")
