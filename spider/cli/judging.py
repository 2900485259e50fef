"""evaluate, generate, interpolate: what came out of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import is_main_process, require_one_process, say, say_found, say_json
from spider.cli.places import RUN, BankFile, EmbeddingWeights, RunPlace, SourcePlace
from spider.pictures.request import Blend, Space
from untrusted.counts import counted

commands = typer.Typer()


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider evaluate runs/letters@best --reference shards/digits-test --out letters.json\n"
    "  spider evaluate runs/letters --embedding offline --metrics fid,kid,precision,recall --count 2000 --seeds 3\n"
    "  spider evaluate shards/letters --reference shards/digits --embedding offline\n"
    "  spider evaluate runs/birds --metrics ppl_wend,eq_t --count 1000 --seeds 1"
)
def evaluate(
    subject: Annotated[str, typer.Argument(metavar="RUN|SHARDS|FOLDER", help=f"What to measure: {RUN} Or images.")],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS|FOLDER|FILE.npz",
            help="The images to be like, or their features (.npy, .npz with feats or mu and sigma); "
            "default: the images that the run was trained on, which is said.",
        ),
    ] = None,
    reference_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz|.npy",
            help="Write the reference's features, to be a --reference; pytorch-fid and clean-fid read the .npz.",
        ),
    ] = None,
    source: SourcePlace = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS|FOLDER",
            help="Where the run's training images lie now, if they have moved; the run notes it.",
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="fid, kid, kid_full, is, precision, recall, density, coverage, csid, sid, nearest, fid_class, "
            "fid_strata, fdr, fd_infinity, mind, cmmd, vendi, authenticity, ct. Of a generator itself: ppl_wend, "
            "ppl_wfull, ppl_zend, ppl_zfull, eq_t, eq_t_frac, eq_r, diversity, which need no reference.",
        ),
    ] = "fid,kid",
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose numbers to agree with: tf (default), "
            "nvlabs, pytorch_fid, clean, prdc, sfid, icgan_torch, efficientnet, dgm_eval, edm2, torch_fidelity, cmmd, "
            "icgan, icgan_classes, offline.",
        ),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="inception (default; see spider weights), inception_maps (sFID), inception_torchvision, dinov2, clip, "
            "swav, resnet50; "
            "efficientnet and offline need no download.",
        ),
    ] = None,
    weights: EmbeddingWeights = None,
    distance: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="For ppl_*: efficientnet, or lpips_alex, lpips_vgg (as published; see spider weights).",
        ),
    ] = "efficientnet",
    count: Annotated[
        int | None, typer.Option(metavar="N", help="Images to measure; default: 5000 of a run, all of a set.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Evaluation seeds 0 .. N-1, for mean and spread; default: 5 for a run, 1 for a set."
        ),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME|N",
            help="Judge a run by its images of this class only; may be repeated. Default: what the run says.",
        ),
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Draw each class as often as any other, whatever the run says.")
    ] = False,
    bank: BankFile = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the memorisation page goes: samples beside their nearest training images. A run of fewer than "
            "5,000 training images gets it anyhow, beside --out or among its evaluations.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write results with all their provenance.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what --out writes.")] = False,
) -> None:
    """Measure a run's images, or any images."""
    found = api.evaluate(
        subject,
        reference=reference,
        reference_out=reference_out,
        source=source,
        data=data,
        metrics=metrics,
        protocol=protocol,
        embedding=embedding,
        weights=weights,
        distance=distance,
        count=count,
        seeds=seeds,
        classes=class_ or (),
        balanced=balanced,
        bank=bank,
        figures=figures,
        out=out,
        progress=is_main_process(),
    )
    say_found(found, as_json=as_json)


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider generate runs/letters@best --out samples/ --seeds 0-99 --grid samples.png\n"
    "  spider generate runs/letters --class A --class B --seeds 0-7 --grid a-and-b.png\n"
    "  spider generate runs/style --seeds 0-3 --styles 10-15 --grid styles.png\n"
    "  spider generate runs/letters --out one.zip --seeds 0-3 --source-image a.png\n"
    "  spider generate runs/letters --out again --point found/photo.npz"
)
def generate(
    run: RunPlace,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR|FILE.zip", help="Where the PNGs go: a folder, or a zip.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N-N",
            help="Which images: N is image number N of evaluation seed 0, always the same one. Default: 0-99; 0-7 of "
            "each --instance, 0-5 with --styles, and with --source-image, whose noise they are, 0.",
        ),
    ] = None,
    source_image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Feed this image (may be repeated); for runs that are fed images."),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="All of them under their numbers, each beside its source image."),
    ] = None,
    source: SourcePlace = None,
    trunc: Annotated[
        float | None, typer.Option(metavar="PSI", help="Truncation; for generators that have a mapping network.")
    ] = None,
    styles: Annotated[
        str | None,
        typer.Option(
            metavar="0,1,2",
            help="A column of the grid for each of these images, whose w the images of --seeds take in some layers; "
            "for generators that have a mapping network.",
        ),
    ] = None,
    style_layers: Annotated[
        str | None,
        typer.Option(metavar="0-6", help="These layers, from 0, the one at 4 px; default: the first half."),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME|K",
            help="Class, by name or number (may be repeated: a row of the grid each); default: the one each image has.",
        ),
    ] = None,
    point: Annotated[
        list[Path] | None,
        typer.Option(metavar="NAME.npz", help="A point of spider project, in place of --seeds (may be repeated)."),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(metavar="FILE.safetensors", help="Tuned weights of spider project, in place of the run's own."),
    ] = None,
    instance: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Images like this one (may be repeated), by default seeds 0-7; for runs with condition.kind=instance.",
        ),
    ] = None,
    bank: BankFile = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights for the embedding of --instance; default: the published ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a run's images as PNGs.

    They are of the generator's averaged weights.
    """
    require_one_process("generate")
    written = api.generate(
        run,
        seeds=seeds,
        out=out,
        classes=class_ or (),
        source_images=source_image or (),
        grid=grid,
        truncation=trunc,
        points=point or (),
        tuned=tuned,
        source=source,
        styles=styles,
        style_layers=style_layers,
        instances=instance or (),
        bank=bank,
        weights=weights,
    )
    if as_json:
        say_json(written.as_json())
        return
    if written.out is not None:
        say(f"{written.out}: {counted(len(written.files), 'image')}, {written.files[0]} to {written.files[-1]}")
    if written.grid is not None:
        told = " and ".join([*(["class"] if class_ else []), *(["given image"] if instance else [])])
        row = f", a row for each {told}" if told else ""
        images = f"{counted(len(written.files), 'image')}{row}, each under its {'name' if point else 'seed'}"
        say(f"{written.grid}: {'images by styles' if styles is not None else images}")


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider interpolate runs/letters --out between.png --seeds 3,14,15,92\n"
    "  spider interpolate runs/cascade --out loop.gif --space image --stage 2 --steps 12\n"
    "  spider interpolate runs/ic --out photos.gif --instance a.jpg --instance b.jpg"
)
def interpolate(
    run: RunPlace,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.png|.gif|.mp4|DIR",
            help="A grid between four images, a loop through them, or a folder for the images of the grid.",
        ),
    ],
    space: Annotated[
        Space | None,
        typer.Option(
            metavar="z|image|w|instance",
            help="What is blended: a prior's vectors, images, w of a stage with a mapping network, or the instances "
            "that it is told of; default: what the stage is fed.",
        ),
    ] = None,
    stage: Annotated[
        int | None,
        typer.Option(metavar="K", help="Whose input or w is blended, counted from a cascade's innermost generator, 1."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N-N",
            help="Which images to go between, numbered as in spider generate. Default: 0-3, or one of each --instance.",
        ),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME|K",
            help="Class of all of them, or repeated for each; default: the one each has. Classes are blended too.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Images on a side of the grid; frames from one image to the next.")
    ] = 8,
    blend: Annotated[
        Blend | None,
        typer.Option(
            metavar="linear|spherical|cubic|circular",
            help="How; default: spherical for a gaussian prior, whose law it keeps, else linear. Of loops also cubic, "
            "a smooth one, and circular, all the way round through two seeds of a gaussian prior.",
        ),
    ] = None,
    fps: Annotated[int, typer.Option(metavar="N", help="Frames of a loop in a second; at most 50 of a .gif.")] = 12,
    trunc: Annotated[
        float | None,
        typer.Option(metavar="PSI", help="Truncation of the last stage; for generators that have a mapping network."),
    ] = None,
    distance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure the steps from image to image: efficientnet, or lpips_alex, lpips_vgg (see spider weights).",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights for the distance's network, or without --distance for the embedding of --instance; default: "
            "the cache.",
        ),
    ] = None,
    source: SourcePlace = None,
    instance: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Go between images like these: one for all, or repeated for each; for runs with "
            "condition.kind=instance.",
        ),
    ] = None,
    bank: BankFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Go from image to image of a run.

    Blends what is fed to a stage of it, or its w, and shows what the generator makes of the blends.
    """
    require_one_process("interpolate")
    written = api.interpolate(
        run,
        out,
        space=space,
        stage=stage,
        seeds=seeds,
        classes=class_ or (),
        steps=steps,
        blend=blend,
        fps=fps,
        truncation=trunc,
        distance=distance,
        weights=weights,
        source=source,
        instances=instance or (),
        bank=bank,
    )
    if as_json:
        say_json(written.as_json())
    else:
        say(f"{written.out}: {written.images} images, blending {written.blended()}")
        if written.steps is not None:
            say(written.steps.told())
