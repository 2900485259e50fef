"""A collapse is said when what samples reach has fallen far, and not while they have reached little yet."""

from types import SimpleNamespace

from spider.judge.collapse import CollapseWatch
from spider.judge.metrics.results import MetricResult, write_result
from spider.judge.repeated import RepeatedEvaluation


def evaluated(**values):
    return [MetricResult(name, f"{name}[offline]", value, {"seed": 0}, {}) for name, value in values.items()]


def heard(watch, *coverage):
    return [watch.remarks(evaluated(coverage=value, fid=1.0)) for value in coverage]


def test_a_young_generator_has_not_collapsed():
    assert heard(CollapseWatch(), 0.0, 0.04, 0.0, None) == [[], [], [], []]


def test_a_fall_is_said_once_until_it_has_risen():
    first, *rest = heard(CollapseWatch(), 0.1, 0.4, 0.2, 0.09, 0.05, 0.2, 0.01)
    assert first == rest[0] == rest[1] == rest[3] == rest[4] == []
    assert rest[2][0].startswith("coverage[offline] fell from 0.400 to 0.090: ")
    assert rest[5][0].startswith("coverage[offline] fell from 0.400 to 0.010: ")


def test_a_fall_is_seen_across_a_resumption(tmp_path):
    def said(start, kimg, value):
        file, results = tmp_path / f"{kimg:06d}-kimg.json", evaluated(coverage=value)
        lines = RepeatedEvaluation.remarks(start, results, file, first=False)
        write_result(file, results, {})
        return lines

    first, second, third = (SimpleNamespace(_collapse=None) for _ in range(3))
    assert said(first, 10, 0.4) == []
    (tmp_path / "000015-kimg.json").write_text("{")  # ends no training
    [line] = said(second, 20, 0.01)
    assert line.startswith("coverage[offline] fell from 0.400 to 0.010: ")
    assert said(third, 30, 0.02) == []  # it was said before
    assert said(SimpleNamespace(_collapse=None), 10, 0.01) == []  # what came later does not count


def test_each_metric_is_watched_by_itself():
    watch = CollapseWatch()
    watch.remarks(evaluated(recall=0.5, coverage=0.5))
    assert [line.split()[0] for line in watch.remarks(evaluated(recall=0.0, coverage=0.4))] == ["recall[offline]"]


def test_copies_are_said_once_until_samples_are_farther_again():
    watch = CollapseWatch()
    said = [watch.remarks(evaluated(nearest=value)) for value in (1.3, 0.7, 0.4, 0.3, 0.8, 0.45)]
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 0, 1]
    assert said[2][0].startswith("nearest[offline] is 0.40: samples lie so much nearer to a training image")
