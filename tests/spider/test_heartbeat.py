"""A sign of life from work that says nothing itself."""

from __future__ import annotations

import re
import time

from spider.heartbeat import told_to_go_on


def test_work_that_lasts_is_told_of_and_quick_work_is_not(capsys):
    with told_to_go_on("measuring", every_s=0.05):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(re.fullmatch(r"still measuring, \d+ s", line) for line in lines)
    with told_to_go_on("measuring"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
