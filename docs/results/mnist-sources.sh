#!/usr/bin/env bash
# Six sources for MNIST under one budget, three seeds: see mnist-sources.md for what came out.
#   [SEEDS="0 1 2"] [SOURCES="gaussian ..."] mnist-sources.sh SHARDS RUNS [KEY=VALUE ...]
# SHARDS holds mnist, cifar10, tinyimagenet (10,000 images each) and letters, packed. A second call goes on.
set -euo pipefail
shards=$1 runs=$2
shift 2
common=(
    --data "$shards/mnist" --kimg 64 batch=64
    generator.width=0.25 discriminator.width=0.25 compute.channels_last=true
    g_optimizer.lr=5e-4 d_optimizer.lr=5e-4 ema.half_life_kimg=2
    evaluate.every_kimg=6.4 evaluate.embedding=offline evaluate.count=2000
    checkpoint.every_kimg=32 checkpoint.keep_last=1 log.samples_every_kimg=32
)
for seed in ${SEEDS:-0 1 2}; do
    for source in ${SOURCES:-gaussian gamma nonparametric cifar10 tinyimagenet letters}; do
        case $source in
            gaussian | gamma | nonparametric) preset=dcgan fed=$source ;;
            *) preset=spider-dcgan fed=$shards/$source ;;
        esac
        spider train "$preset" --source "$fed" --seed "$seed" --run "$runs/$source-$seed" "${common[@]}" "$@"
    done
done
