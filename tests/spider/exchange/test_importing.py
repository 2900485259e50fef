"""A StyleGAN pickle becomes a run that makes the recorded images, and nothing of a pickle ever runs."""

from __future__ import annotations

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.world import World
from spider import api
from spider.errors import SpiderError, SpiderUsageError
from spider.exchange import pickled_tensors, translation
from spider.gan.networks.stylegan2 import Stylegan2Discriminator
from spider.gan.outputs import Condition, ConditionShape
from spider.gan.sources.config import GeneratorConfig
from spider.runs.directory import RunDirectory
from spider.runs.generator import open_generator, open_source
from spider.runs.stored import stored_tensors
from tests.spider.exchange.official import Persistent, dumped, generator, networks, stylegan3, stylegan_xl
from tests.spider.exchange.watching import Calls, watched
from tests.vectors import assert_near, recorded
from untrusted.pickles import read_pickle

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def pickles(tmp_path_factory):
    """The recorded networks, without and with classes; their source text would leave a mark."""
    folder = tmp_path_factory.mktemp("pickles")
    source = f"open({str(folder / 'canary')!r}, 'w').close()\n"
    for suffix in ("", "_class3"):
        (folder / f"networks{suffix}.pkl").write_bytes(dumped(networks(suffix, source)))
    return folder


@pytest.fixture(scope="session")
def imported(pickles):
    """What they become."""
    for suffix in ("", "_class3"):
        api.import_pickle(pickles / f"networks{suffix}.pkl", pickles / f"run{suffix}")
    return pickles


@pytest.mark.parametrize("suffix", ["", "_class3"])
def test_an_import_makes_the_recorded_images(imported, suffix):
    vectors = recorded(f"stylegan2_g32{suffix}")
    frozen = open_generator(str(imported / f"run{suffix}"), CPU)
    told = Condition(vectors["c"].argmax(1) if suffix else None)
    assert_near(frozen(vectors["z"], told), vectors["img"], 1e-5)
    assert_near(frozen.module(vectors["z"], told).latents, vectors["w"], 1e-5)
    frozen.truncate(0.7)  # w_avg came over
    assert_near(frozen.module(vectors["z"], told).latents, vectors["w_psi07"], 1e-5)


@pytest.mark.parametrize("name", ["stylegan3t_g32", "stylegan3r_g32"])
def test_stylegan3_makes_the_recorded_images(name, tmp_path):
    vectors = recorded(name)
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": stylegan3(name, rotation="3r" in name)}))
    api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    frozen = open_generator(str(tmp_path / "out"), CPU)
    assert_near(frozen(vectors["z"], Condition()), vectors["img"], 1e-5)


@pytest.mark.parametrize("name", ["stylegan_xl_t_class4", "stylegan_xl_r", "stylegan_xl_grown"])
def test_stylegan_xl_makes_the_recorded_images(name, tmp_path):
    vectors = recorded(name)
    unread = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.GELU())
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": stylegan_xl(name), "D": unread}))
    made = api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    assert "discriminator: a torch.nn.modules.container.Sequential is not read" in made.remarks[-1]
    frozen = open_generator(str(tmp_path / "out"), CPU)
    told = Condition(vectors.get("label"))
    assert_near(frozen(vectors["z"], told), vectors["img"], 1e-5)
    if "w_psi07" in vectors:
        frozen.truncate(0.7)  # the means of classes came over
        assert_near(frozen.module(vectors["z"], told).latents, vectors["w_psi07"], 1e-5)


def test_pictures_are_made_of_an_import_of_stylegan_xl(tmp_path):
    """Of a class that is asked for, nearer to the mean of its w; between images; and by a search in w."""
    run = tmp_path / "run"
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": stylegan_xl("stylegan_xl_grown")}))
    api.import_pickle(tmp_path / "a.pkl", run)
    made = {}
    for name, truncation, label in (("whole", None, 2), ("pulled", 0.0, 2), ("other", 0.0, 1)):
        api.generate(run, seeds="0-1", classes=[label], truncation=truncation, out=tmp_path / name)
        made[name] = [np.asarray(Image.open(file)) for file in sorted((tmp_path / name).rglob("*.png"))]
    assert [each.shape for each in made["whole"]] == [(32, 32, 3)] * 2
    assert not np.array_equal(*made["whole"])
    assert np.array_equal(*made["pulled"])  # at 0 every image of a class is that of its mean
    assert not np.array_equal(made["pulled"][0], made["other"][0])
    api.interpolate(run, tmp_path / "grid.png", space="w", classes=[2], steps=3)
    assert np.asarray(Image.open(tmp_path / "grid.png")).ndim == 3
    picture = next((tmp_path / "whole").rglob("*.png"))
    found = api.project(run, [picture], tmp_path / "found", steps=2, samples=4, classes=[2])
    (done,) = found.done.values()
    assert done["label"] == "2"
    assert 0 < done["projection"]["L2"] < 0.1
    (point,) = (tmp_path / "found").rglob("*.npz")
    api.generate(run, points=[point], out=tmp_path / "again")
    assert len([*(tmp_path / "again").rglob("*.png")]) == 1


def test_heads_may_follow_rotations_otherwise_than_the_stem(tmp_path):
    """As those of StyleSAN-XL for FFHQ."""
    network = stylegan_xl("stylegan_xl_grown", ("rotation",))
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": network}))
    api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    config = RunDirectory(tmp_path / "out").config().generator
    assert (config.equivariance, config.head_equivariance) == ("translation", ("rotation",))
    vectors = recorded("stylegan_xl_grown")
    made = open_generator(str(tmp_path / "out"), CPU)(vectors["z"], Condition(vectors.get("label")))
    assert made.shape == vectors["img"].shape
    assert not torch.allclose(made, vectors["img"], atol=1e-2)


def test_a_pickle_that_costs_much_to_read_is_refused(attempt):
    many = dict.fromkeys((f"a{number}" for number in range(3_000)), None)
    network = stylegan_xl("stylegan_xl_grown")
    for path in (f"synthesis.{name}" for name in network.inner("synthesis").meta["state"]["_modules"]):
        network.inner(path).meta["state"].update(dict.fromkeys((f"held{number}" for number in range(8)), many))
    assert "hold more than 200,000 values" in attempt(dumped({"G_ema": network}))
    network = stylegan_xl("stylegan_xl_grown")
    network.inner("mapping").meta["module_src"] = "x" * (1 << 20) + "x"
    assert "the text of a module has more than" in attempt(dumped({"G_ema": network}))
    network, shared = generator(), tensor_of(storage_of(torch.FloatStorage, 1))
    buffers(network, "mapping").update(dict.fromkeys((f"more{number}" for number in range(2_000)), shared))
    assert "hold more than 2,000 tensors" in attempt(dumped({"G_ema": network}))


def test_no_values_are_read_of_what_is_none_of_a_networks_weights(attempt, monkeypatch):
    def read(value, where):
        raise AssertionError(where)

    monkeypatch.setattr(translation, "array_of", read)
    more = {f"more{number}": tensor_of(storage_of(torch.FloatStorage, 1)) for number in range(100)}
    assert "no weight of such a network" in attempt(changed(lambda g: buffers(g, "mapping").update(more)))
    assert "is none of its weights" in attempt(changed(lambda g: buffers(g, "mapping.fc0").update(more)))


def test_a_pickle_of_a_fork_is_said_to_be_one_where_it_shows(tmp_path):
    def remarks(change):
        (tmp_path / "a.pkl").write_bytes(changed(change))
        out = tmp_path / f"{len([*tmp_path.iterdir()])}"
        return [remark for remark in api.import_pickle(tmp_path / "a.pkl", out).remarks if remark.startswith("code: ")]

    def fork(network):
        set_in("synthesis.b8.conv1", "gated", True)(network)
        set_in("synthesis.b16.conv1", "gated", False)(network)
        network.meta["state"]["_init_kwargs"]["synthesis_kwargs"]["cross_attention"] = 1

    [plain] = remarks(lambda network: None)
    assert "none of the pickle was run" in plain
    same, told = remarks(fork)
    assert same == plain
    assert "the public code has no Generator.cross_attention, SynthesisLayer.gated. " in told
    many = {f"more{number}": None for number in range(9)}
    _, told = remarks(lambda network: network.inner("mapping").meta["state"].update(many))
    assert "MappingNetwork.more0, " in told
    assert "more4 and 4 more. " in told


@pytest.mark.parametrize(
    ("path", "attribute", "value"),
    [("", "img_resolution", 0), ("synthesis.L7_40_13", "out_cutoff", float("inf")), ("synthesis", "num_critical", 9)],
)
def test_numbers_that_cannot_be_are_told_in_one_line(attempt, path, attribute, value):
    network = stylegan_xl("stylegan_xl_grown")
    (network.inner(path) if path else network).meta["state"][attribute] = value
    assert attempt(dumped({"G_ema": network}))


@pytest.mark.parametrize("suffix", ["", "_class3"])
def test_an_import_gives_the_recorded_logits(imported, suffix):
    vectors = recorded(f"stylegan2_d32{suffix}")
    run = RunDirectory(imported / f"run{suffix}")
    settings = run.config().discriminator
    discriminator = Stylegan2Discriminator(settings, (3, 32, 32), ConditionShape(3 if suffix else 0), World.single())
    discriminator.load_state_dict(stored_tensors(str(run.path))["discriminator"])
    told = Condition(vectors["c"].argmax(1) if suffix else None)
    assert_near(discriminator(vectors["img"], told).logits, vectors["logits"], 1e-5)


def test_the_text_within_never_runs(imported):
    assert not (imported / "canary").exists()


@pytest.mark.parametrize("protocol", [3, 5])  # in 2, bytes are texts, which only a function turns back
def test_other_protocols_give_the_same(imported, tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": generator()}, protocol))
    api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    here = open_generator(str(tmp_path / "out"), CPU)
    assert here.digest == open_generator(str(imported / "run"), CPU).digest


def test_settings_and_origin_are_noted(imported):
    run = RunDirectory(imported / "run_class3")
    config = run.config()
    assert (config.source.dim, config.generator.mapping_layers, config.generator.w_avg_beta) == (32, 2, 0.998)
    assert config.generator.noise == "const"
    assert config.condition.kind == "class"
    noted = run.imported_file.read_text()
    assert '"class": "Generator"' in noted
    assert '"channel_base": 512' in noted
    [summary] = api.ls(imported / "run")
    assert (summary.state, summary.progress) == ("imported", "-")


def test_verbs_take_an_import_as_a_run(imported, patches, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))
    run = imported / "run"
    assert api.generate(run, seeds="0-1", out=tmp_path / "pictures", truncation=0.5)
    assert api.interpolate(run, out=tmp_path / "grid.png", steps=2)
    measured = api.evaluate(run, reference=patches, metrics="fid", embedding="offline", count=8, seeds=1)
    assert measured.results
    for data in (None, patches):
        with pytest.raises(
            SpiderUsageError, match="an import, which has learnt no images here: --reference names some"
        ):
            api.evaluate(run, data=data, metrics="fid", embedding="offline", count=8, seeds=1)
    cascade = open_source(GeneratorConfig(run=str(run)), (1, 16, 16), CPU)
    assert cascade.images_at(0, [0, 1]).shape == (2, 1, 16, 16)


def test_without_a_discriminator_or_an_average(tmp_path):
    tree = networks()
    (tmp_path / "a.pkl").write_bytes(dumped({"G": tree["G"]}))
    done = api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    assert done.networks.keys() == {"G"}
    assert stored_tensors(str(tmp_path / "out")).keys() == {"generator", "generator_ema"}


def test_nothing_is_written_over(imported, pickles):
    with pytest.raises(SpiderUsageError, match="something is there already"):
        api.import_pickle(pickles / "networks.pkl", imported / "run")


def test_no_training_goes_on_from_an_import(imported, patches):
    for place in ({"run": imported / "run"}, {"run": imported / "new", "from_run": str(imported / "run")}):
        with pytest.raises(SpiderUsageError, match="an import"):
            api.train("dcgan", data=patches, **place)


def changed(change):
    tree = {"G_ema": generator()}
    change(tree["G_ema"])
    return dumped(tree)


def set_in(path, attribute, value):
    return lambda network: network.inner(path).meta["state"].__setitem__(attribute, value)


def storage(pickled, count=1, key="0"):
    """A storage as torch writes it within a pickle, with another pickle in the place of what says what it is."""
    head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2)]
    return b"".join([*head, pickled, pickle.dumps([key], 2), struct.pack("<q", count), b"\0" * 4])


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, Refers) else None


class Refers:
    def __init__(self, *identity):
        self.identity = identity


def storage_of(kind, count):
    file = io.BytesIO()
    _Pickler(file, 2).dump(Refers("storage", kind, "0", "cpu", count, None))
    return storage(file.getvalue(), count)


def tensor_of(stored, shape=(1,), strides=(1,), offset=0):
    load = torch.storage._load_from_bytes
    return Calls(torch._utils._rebuild_tensor_v2, Calls(load, stored), offset, shape, strides, False, {})


MARK = "touch canary"
HOSTILE = {
    "a call at the top": pickle.dumps(Calls(os.system, MARK)),
    "a call in a list": pickle.dumps({"G_ema": [Calls(eval, "1")]}),
    "the old opcode of a call": b"(S'touch canary'\nios\nsystem\n.",
    "the opcode OBJ": b"(cos\nsystem\nS'touch canary'\no.",
    "a name by its number": b"\x80\x02\x82\x01.",
    "a class": b"\x80\x02csubprocess\nPopen\n(X\x05\x00\x00\x00touchtp0\n\x81.",
    "names on the stack": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "a state on a name": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "a call of a call": b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "a name within a known module": b"\x80\x04\x8c\x05torch\x8c\x04load\x93.",
    "deep": b"\x80\x02" + b")" + b"\x85" * 20_000 + b".",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "a tuple as a key": b"\x80\x02})" + b"\x85" * 5_000 + b"Ns.",
    "a huge memo": b"\x80\x02Nr\xff\xff\xff\xff0.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"a.",
    "nothing": b"",
    "no pickle": b"\x89PNG",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_nothing_runs(attempt, name):
    assert "StyleGAN2-ADA" in attempt(HOSTILE[name])  # what is read instead


INNER = {
    "a call in a storage": lambda: storage(pickle.dumps(Calls(os.system, MARK), 2)),
    "a storage that a call makes": lambda: Calls(torch.load, "canary"),
    "an archive": lambda: b"PK\x03\x04" + b"\0" * 99,
    "values that are not there": lambda: storage_of(torch.FloatStorage, 1 << 40),
    "fewer than none": lambda: storage_of(torch.FloatStorage, -1),
    "no storage": lambda: storage(pickle.dumps("x", 2)),
}


@pytest.mark.parametrize("name", INNER)
def test_hostile_storages_are_refused(attempt, name):
    stored = INNER[name]()
    attempt(changed(lambda g: g.inner("mapping.fc0").meta["state"]["_parameters"].update(bias=tensor_of(stored))))


@pytest.mark.parametrize(
    "tensor", [{"shape": (10**9,), "strides": (0,)}, {"shape": (2,)}, {"offset": 1}, {"offset": -1}, {"shape": (-1,)},
               {"strides": (10**12,), "shape": (2,)}, {"shape": [1]}, {"shape": (1.0,)},
               {"shape": (0, 2**62, 2**62), "strides": (1, 1, 1)}], ids=str,
)  # fmt: skip
def test_tensors_stay_within_their_bytes(attempt, tensor):
    bias = tensor_of(storage_of(torch.FloatStorage, 1), **tensor)
    said = attempt(changed(lambda g: g.inner("mapping.fc0").meta["state"]["_parameters"].update(bias=bias)))
    assert "a tensor" in said


@pytest.mark.parametrize("stride", [10**12, 2**63], ids=str)
def test_the_stride_of_a_single_value_does_not_matter(stride):
    bias = tensor_of(storage_of(torch.FloatStorage, 1), strides=(stride,))
    record = read_pickle(io.BytesIO(pickle.dumps(bias)), "theirs", names=pickled_tensors.NAMES)
    assert pickled_tensors.array_of(record, "theirs").tolist() == [0.0]


@pytest.mark.parametrize(
    ("path", "attribute"),
    [
        ("", "img_resolution"),
        ("mapping.fc0", "bias_gain"),
        ("mapping", "num_layers"),
        ("synthesis.b8.conv1", "conv_clamp"),
    ],
)
@pytest.mark.parametrize("digits", [400, 5_000])
def test_no_number_is_too_long_for_an_error(attempt, path, attribute, digits):
    def change(network):
        part = network.inner(path) if path else network
        part.meta["state"][attribute] = 10**digits

    assert "more than 64 bits" in attempt(changed(change))


def test_a_stride_of_many_digits_is_refused(attempt):
    bias = tensor_of(storage_of(torch.FloatStorage, 1), strides=(10**30,))
    attempt(changed(lambda g: g.inner("mapping.fc0").meta["state"]["_parameters"].update(bias=bias)))


def buffers(network, path):
    return network.inner(path).meta["state"]["_buffers"]


OTHERS = {
    "a class renamed": lambda g: g.inner("synthesis.b8").meta.update(class_name="SynthesisBlock2"),
    "another class at the top": lambda g: g.meta.update(class_name="FastganGenerator"),
    "another version": lambda g: g.meta.update(version=7),
    "another activation": set_in("synthesis.b8.conv1", "activation", "relu"),
    "another rate of the mapping": set_in("mapping.fc0", "bias_gain", 0.1),
    "another filter": lambda g: buffers(g, "synthesis.b8.conv0").update(resample_filter=torch.ones(4, 4)),
    "another clamp": set_in("synthesis.b8.conv1", "conv_clamp", 7),
    "a missing weight": lambda g: g.inner("synthesis.b8.conv1").meta["state"]["_parameters"].pop("bias"),
    "a missing part": lambda g: g.meta["state"]["_modules"].pop("mapping"),
    "a weight too many": lambda g: g.inner("mapping").meta["state"]["_buffers"].update(more=torch.ones(1)),
    "no finite number": lambda g: g.inner("mapping.fc0").meta["state"]["_parameters"]["bias"].data.fill_(torch.nan),
    "other channels": lambda g: g.meta["state"]["_init_kwargs"]["synthesis_kwargs"].update(channel_max=16),
    "no whole number": lambda g: g.meta["state"].update(w_dim="48"),
    "images without end": lambda g: g.meta["state"].update(img_resolution=2**40),
    "channels without end": lambda g: g.meta["state"].update(w_dim=10**5, z_dim=10**5),
    "more layers than there are": set_in("mapping", "num_layers", 40),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_are_not_stylegan2s_are_refused(attempt, name):
    said = attempt(changed(OTHERS[name]))
    if "class" in name:
        assert repr("SynthesisBlock2" if "renamed" in name else "FastganGenerator") in said


OTHER_FILTERS = {
    "another cutoff": ("out_cutoff", np.float64(3.0)), "other taps": ("up_taps", 24), "radial": ("down_radial", True),
    "no number": ("in_half_width", "1"), "another rate": ("tmp_sampling_rate", 8),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FILTERS)
def test_other_filters_than_stylegan3s_are_refused(attempt, name):
    network = stylegan3("stylegan3t_g32", rotation=False)
    [layer] = [each for each in network.inner("synthesis").meta["state"]["_modules"] if each.startswith("L1_")]
    set_in(f"synthesis.{layer}", *OTHER_FILTERS[name])(network)
    assert OTHER_FILTERS[name][0] in attempt(dumped({"G_ema": network}))


def test_a_module_in_many_places_is_no_endless_walk(attempt):
    module = Persistent("SynthesisBlock", ({}, {}), {}, {})
    for _ in range(20):
        module = Persistent("SynthesisBlock", ({}, {}), {"a": module, "b": module}, {})
    attempt(dumped({"G_ema": module}))


def test_a_list_in_many_places_is_noted_only_so_far(tmp_path):
    shared = []
    for _ in range(60):
        shared = [shared, shared]
    network = generator()
    network.meta["state"]["_init_kwargs"]["more"] = shared
    rest = {f"more{number}": shared for number in range(100)}
    rest["named"] = Persistent(shared, ({}, {}), {}, {})
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": network, **rest}))
    api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    noted = (tmp_path / "out" / "imported.json").read_text()
    assert '"..."' in noted
    assert len(noted) < 10_000_000


def test_an_error_does_not_write_out_what_a_record_holds(attempt):
    shared = []
    for _ in range(60):
        shared = [shared, shared]
    said = attempt(changed(set_in("mapping", "num_layers", Persistent(shared, ({}, {}), {}, {}))))
    assert "num_layers" in said


def test_any_damage_is_told_in_one_line(attempt, imported):
    content = (imported / "networks.pkl").read_bytes()
    for cut in range(0, len(content), len(content) // 7):
        attempt(content[:cut])


def test_changed_bytes_do_or_are_refused(imported, tmp_path):
    """Every byte of the instructions between two tensors, one after another."""
    content = dumped({"G_ema": Persistent("Generator", ({"x": torch.ones(2)}, {}), {}, {"z_dim": 3})})
    file = tmp_path / "changed.pkl"
    with watched() as ran:
        for place in range(2, len(content), 3):
            for change in (0x01, 0x80, 0xFF):
                file.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
                with pytest.raises(SpiderError):
                    api.import_pickle(file, tmp_path / "out")
    assert not ran
