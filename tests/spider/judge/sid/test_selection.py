"""The selection rule makes the published picks, and says why."""

from __future__ import annotations

import pytest

from spider.judge.sid.rules import Candidate
from spider.judge.sid.selection import nothing_was_selected, select

TARGETS = ("MNIST", "CIFAR-10", "TinyImageNet", "Ukiyo-E")
# CSID of each source to each target, from the poster of Spider GAN (CVPR 2023). CIFAR-10 against itself is not legible.
POSTER = {
    "MNIST": (0.1863, 29.298, 9.436, 201.550),
    "F-MNIST": (162.962, 19.051, -2.5571, 191.010),
    "SVHN": (212.473, 34.534, 21.668, 214.507),
    "CIFAR-10": (221.337, 0.0, -7.109, 198.991),
    "TinyImageNet": (230.916, 12.892, 0.6743, 197.447),
    "CelebA": (204.794, 23.685, 8.829, 184.170),
    "Ukiyo-E": (250.226, 39.793, 18.727, 0.5494),
    "Church": (212.452, -4.655, -23.115, 198.750),
}
GRAY = {"MNIST", "F-MNIST"}
BOLD = {
    "MNIST": ["F-MNIST", "CelebA", "Church"],
    "CIFAR-10": ["TinyImageNet", "CelebA", "SVHN"],
    "TinyImageNet": ["CelebA", "Ukiyo-E", "SVHN"],
    "Ukiyo-E": ["CelebA", "TinyImageNet", "Church"],
}


def candidates(target: str) -> list[Candidate]:
    column = TARGETS.index(target)
    return [
        Candidate(name, csids[column], is_target=name == target, is_gray=name in GRAY) for name, csids in POSTER.items()
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_the_posters_picks(target: str):
    places = select(candidates(target), target_is_gray=target in GRAY)
    assert [name for name, place in places.items() if place.friendly] == BOLD[target]


def test_every_source_has_a_rank_and_a_reason():
    places = select(candidates("CIFAR-10"), target_is_gray=False)
    assert sorted(place.rank for place in places.values()) == list(range(1, 9))
    assert places["CIFAR-10"].why == "the target itself"
    assert places["Church"].why == "less diverse than the target"
    assert places["F-MNIST"].why == "grey, and the target has colour"
    assert places["TinyImageNet"].why == "pick 1"
    assert places["Ukiyo-E"].why == "farther than the picks"


def test_filters_can_be_lifted():
    def picks(**options) -> list[str]:
        places = select(candidates("CIFAR-10"), target_is_gray=False, **options)
        return [name for name, place in places.items() if place.friendly]

    assert picks(keep_negative=True)[0] == "Church"
    assert picks(keep_gray=True) == ["TinyImageNet", "F-MNIST", "CelebA"]
    assert picks(picks=1) == ["TinyImageNet"]


def test_a_selection_without_a_choice_is_told():
    def told(count: int, picks: int) -> bool:
        sources = [Candidate(str(number), float(number)) for number in range(count)]
        sources += [Candidate("negative", -1.0), Candidate("target", 0.0, is_target=True)]
        places = select(sources, target_is_gray=True, picks=picks)
        return nothing_was_selected(list(places.values()), picks) is not None

    assert [told(count, 3) for count in range(6)] == [False, True, True, True, False, False]
    assert not told(2, picks=1)


def test_ties_are_told():
    three = [Candidate("a", 10.0, 1.0), Candidate("b", 11.0, 1.0), Candidate("c", 30.0, 1.0)]
    places = select(three, target_is_gray=True, difference_stderr=lambda x, y: 0.8)
    assert places["a"].ties == ("b",)
    assert places["a"].why == "pick 1; tied with b"
    assert places["c"].ties == ()
    sure = select(three, target_is_gray=True, difference_stderr=lambda x, y: 0.4)
    assert all(place.ties == () for place in sure.values())


def test_an_uncertain_sign_is_told():
    places = select([Candidate("a", -0.5, 1.0), Candidate("b", 0.5, 1.0)], target_is_gray=True)
    assert places["a"].why == "less diverse than the target; sign uncertain"
    assert places["b"].why == "pick 1; sign uncertain"
