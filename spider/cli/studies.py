"""study: named variants under the same seeds, and the page that compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import if_interrupted, is_main_process, require_one_process, say, say_json, warn
from spider.cli.slurm import Scripts, submit_stages
from spider.errors import SpiderUsageError
from untrusted.counts import some_of

commands = typer.Typer()


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider study study.yaml --out studies/ada\n"
    "  spider study study.yaml kimg=1000 --out studies/ada --slurm partition=gpu,time=24:00:00,gpus_per_node=1\n"
    "  spider study study.yaml --out studies/ada --report"
)
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Variants, seeds, and what is measured.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The study's folder. A folder that holds the study resumes it.")
    ],
    given: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="In the place of the file's `values`.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A variant, or a run as ada-0; may be repeated. The others wait."),
    ] = None,
    at_once: Annotated[int, typer.Option(metavar="N", help="Stages at a time, here or on Ray.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="auto|ADDRESS", help="A Ray cluster does the work; auto: that of RAY_ADDRESS.")
    ] = None,
    cpus: Annotated[float, typer.Option(metavar="N", help="With --ray: cores of each stage.")] = 1.0,
    gpus: Annotated[float, typer.Option(metavar="N", help="With --ray: GPUs of each stage.")] = 0.0,
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,...|FILE", help="Each training as a job (docs/slurm.md), behind what it waits for."
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Write the page from what is there; train nothing.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check every key, print the stages; what they would cost, or with --slurm what they ask for.",
        ),
    ] = False,
    scripts: Scripts = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print study.json.")] = False,
) -> None:
    """Compare named variants under the same seeds, on one page.

    DIR gets runs/VARIANT-SEED, measures/, study.json, curves.png and report.html: means and spreads, paired
    differences, curves, samples, copies, costs and commands. The same command resumes, and counts runs and measures
    that were made elsewhere and copied into DIR.

    \b
    STUDY.yaml:
      title: Does ADA help with 285 cat faces?
      claim: With 2,000 images ADA takes FID from 52 to 19 (arXiv 2006.06676, Table 2).
      values: {data: data, kimg: 12}     # {data} and {kimg} below; DIR is {out}, a training's seed {seed}
      seeds: 0-2
      stages:                            # what comes before; where {seed} occurs, once per seed
        cats: {verb: pack, source: "{data}/cats.tar", out: "{out}/shards/cats", resolution: 64}
      train: {config: dcgan, data: "{out}/shards/cats", kimg: "{kimg}", after: cats, overrides: [evaluate.every_kimg=3]}
      variants:
        plain: {}
        ada: {overrides: ["augment=[{kind: ada}]"]}
      measure: {metrics: [fid, kid, nearest], embedding: efficientnet, count: 1000, seeds: 1}
    """
    require_one_process("study")
    if slurm is not None and (ray is not None or report):
        raise SpiderUsageError(f"--slurm {slurm}: not together with {'--ray' if ray is not None else '--report'}")
    if slurm is not None and slurm.partition(",")[0] == "local":
        raise SpiderUsageError(
            f"--slurm {slurm}: would start all at once; without it, --at-once 2 does two at a time here"
        )
    if scripts and (slurm is None or not dry_run):
        raise SpiderUsageError("--scripts: only with --slurm and --dry-run")
    if dry_run and slurm is None:
        unused = {"--ray": ray is not None, "--report": report, "--json": as_json}
        if given_in_vain := [option for option, is_given in unused.items() if is_given]:
            raise SpiderUsageError(f"--dry-run: not together with {given_in_vain[0]}: it does nothing but print stages")
    if slurm is not None or dry_run:
        stages, left_out = api.study_stages(
            file, given or (), out=out, only=only or (), slurm=slurm or "local", keep=not dry_run
        )
        for line in left_out:
            warn(line)
        if not stages:
            of = f" of {some_of(only, 6)}" if only else ""
            say(f"nothing is left to do{of}; the page: spider study {file} --out {out} --report")
        elif slurm is not None:
            submit_stages(stages, out, dry_run=dry_run, scripts=scripts, as_json=as_json, again=True)
        else:
            say("\n".join(f"# {stage.name}\n{stage.script()}" for stage in stages))
            cost = api.study_cost(file, given or (), out=out, only=only or (), at_once=at_once)
            say("\n".join(f"# {line}" for line in cost.table().splitlines()))  # all of it is a script
        return
    with if_interrupted(f"what is done, and what trainings have saved, is in {out}; the same command goes on"):
        found = api.study(
            file,
            given or (),
            out=out,
            only=only or (),
            at_once=at_once,
            ray=ray,
            cpus=cpus,
            gpus=gpus,
            report=report,
            progress=is_main_process(),
        )
    if as_json:
        say_json(found.as_json())
    else:
        say(found.text())
    if (failure := found.failure()) is not None:
        raise failure
