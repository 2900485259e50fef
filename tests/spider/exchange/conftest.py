"""What tests of imports share: attempts at pickles that must be refused, while what runs is watched."""

from __future__ import annotations

import pytest

from cluster.errors import ClusterError
from spider import api
from spider.errors import SpiderError
from tests.spider.exchange.watching import watched


@pytest.fixture
def attempt(tmp_path):
    """Import a pickle of these bytes, which must be refused; what was said."""

    def attempt(content):
        file, out = tmp_path / "theirs.pkl", tmp_path / "out"
        file.write_bytes(content)
        with watched() as ran, pytest.raises((SpiderError, ClusterError)) as refused:
            api.import_pickle(file, out)
        said = str(refused.value)
        assert "\n" not in said
        assert str(file) in said
        assert not ran
        assert not out.exists()
        assert [each.name for each in tmp_path.iterdir()] == [file.name]
        return said

    return attempt
