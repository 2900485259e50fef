"""What tests of imports share: attempts at pickles that must be refused, while what runs is watched."""

from __future__ import annotations

import pytest

from cluster.errors import ClusterError
from spider import api
from spider.errors import SpiderError
from tests.spider.exchange.official import dumped, generator, stylegan_xl
from tests.spider.exchange.watching import watched


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Each kind was imported once, so that what an import loads of this package does not count as run."""
    folder = tmp_path_factory.mktemp("warm")
    for number, network in enumerate((generator(), stylegan_xl("stylegan_xl_grown"))):
        (folder / "a.pkl").write_bytes(dumped({"G_ema": network}))
        api.import_pickle(folder / "a.pkl", folder / str(number))
    network.meta["state"]["img_resolution"] = -1
    (folder / "a.pkl").write_bytes(dumped({"G_ema": network}))
    with pytest.raises(SpiderError):
        api.import_pickle(folder / "a.pkl", folder / "refused")


@pytest.fixture
def attempt(tmp_path, warm):
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
