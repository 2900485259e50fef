"""A collapse is said when what samples reach has fallen far, and not while they have reached little yet."""

from spider.judge.collapse import CollapseWatch
from spider.judge.metrics.results import MetricResult


def evaluated(**values):
    return [MetricResult(name, f"{name}[offline]", value, {}, {}) for name, value in values.items()]


def heard(watch, *coverage):
    return [watch.remarks(evaluated(coverage=value, fid=1.0)) for value in coverage]


def test_a_young_generator_has_not_collapsed():
    assert heard(CollapseWatch(), 0.0, 0.04, 0.0, None) == [[], [], [], []]


def test_a_fall_is_said_once_until_it_has_risen():
    first, *rest = heard(CollapseWatch(), 0.1, 0.4, 0.2, 0.09, 0.05, 0.2, 0.01)
    assert first == rest[0] == rest[1] == rest[3] == rest[4] == []
    assert rest[2][0].startswith("coverage[offline] fell from 0.400 to 0.090: ")
    assert rest[5][0].startswith("coverage[offline] fell from 0.400 to 0.010: ")


def test_each_metric_is_watched_by_itself():
    watch = CollapseWatch()
    watch.remarks(evaluated(recall=0.5, coverage=0.5))
    assert [line.split()[0] for line in watch.remarks(evaluated(recall=0.0, coverage=0.4))] == ["recall[offline]"]
