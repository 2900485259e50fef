#!/usr/bin/env bash
# DCGAN and R3GAN with and without ADA and classes, at a size for a CPU: see methods.md for what came out.
#   methods.sh SHARDS RUNS dcgan|r3gan [KEY=VALUE ...]
# SHARDS holds coins-32 (379 images) and cifar10 (10,000 images of 10 classes), packed. The same command again resumes.
# The two networks may run side by side: each takes one core.
set -euo pipefail
shards=$1 runs=$2 network=$3
shift 3
common=(
    ema.half_life_kimg=1 ema.rampup=0.1
    evaluate.embedding=offline evaluate.count=1000
    log.every_kimg=0.5 log.samples_every_kimg=10 checkpoint.every_kimg=20 checkpoint.keep_last=1
)
dcgan=(
    batch=32 evaluate.every_kimg=5
    objective.kind=non_saturating penalties.r1_gamma=0.1
    generator.width=0.25 discriminator.width=0.5 compute.channels_last=true
    g_optimizer.lr=5e-4 d_optimizer.lr=5e-4
)
r3gan=(
    batch=16 evaluate.every_kimg=2.5
    penalties.r1_gamma=0.5 penalties.r2_gamma=0.5
    generator.width=0.04 discriminator.width=0.04 generator.blocks=1 discriminator.blocks=1
    g_optimizer.lr=1e-3 d_optimizer.lr=1e-3
)
none='augment=[]'
ada='augment=[{kind: ada, control: {rise_kimg: 20}}]' # the default, 500 kimg, is longer than these runs
diffaugment='augment=[{kind: diffaugment}]'

run() { # NAME PRESET DATA SEED KIMG KEY=VALUE ...
    local name=$1 preset=$2 data=$3 seed=$4 kimg=$5
    shift 5
    spider train "$preset" --data "$shards/$data" --seed "$seed" --run "$runs/$name" --kimg "$kimg" "${common[@]}" "$@"
}

if [ "$network" = dcgan ]; then
    run coins-dcgan-0 dcgan coins-32 0 40 "${dcgan[@]}" "$none" "$@"
    run coins-dcgan-ada-0 dcgan coins-32 0 20 "${dcgan[@]}" "$ada" "$@"
    run coins-dcgan-1 dcgan coins-32 1 20 "${dcgan[@]}" "$none" "$@"
    run coins-dcgan-ada-1 dcgan coins-32 1 20 "${dcgan[@]}" "$ada" "$@"
    run coins-dcgan-diffaugment-0 dcgan coins-32 0 20 "${dcgan[@]}" "$diffaugment" "$@"
    run coins-dcgan-diffaugment-1 dcgan coins-32 1 20 "${dcgan[@]}" "$diffaugment" "$@"
    run cifar-dcgan-0 dcgan cifar10 0 20 "${dcgan[@]}" "$none" "$@"
    run cifar-dcgan-ada-0 dcgan cifar10 0 20 "${dcgan[@]}" "$ada" "$@"
    run cifar-dcgan-class-0 dcgan-class cifar10 0 20 "${dcgan[@]}" "$none" "$@"
else
    run coins-r3gan-0 r3gan-32 coins-32 0 10 "${r3gan[@]}" "$none" data.mirror=false "$@"
    run coins-r3gan-ada-0 r3gan-32 coins-32 0 10 "${r3gan[@]}" "$ada" data.mirror=false "$@"
    for seed in 0 1; do
        run cifar-r3gan-$seed r3gan-32 cifar10 $seed 5 "${r3gan[@]}" "$none" "$@"
        run cifar-r3gan-ada-$seed r3gan-32 cifar10 $seed 5 "${r3gan[@]}" "$ada" "$@"
        run cifar-r3gan-class-$seed r3gan-32 cifar10 $seed 5 "${r3gan[@]}" "$none" condition.kind=class log.samples=80 "$@"
    done
fi
