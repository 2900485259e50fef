#!/usr/bin/env bash
# Eight sources for MNIST under one budget, three seeds: see mnist-sources.md for what came out.
#   [SEEDS="0 1 2"] [SOURCES="gaussian ..."] mnist-sources.sh SHARDS RUNS [KEY=VALUE ...]
# SHARDS holds mnist, cifar10, tinyimagenet (10,000 images each), letters, digits and patches, packed. A second call goes on.
# RUNS gets SOURCE-SEED, and EMBEDDING/SOURCE-SEED.json for what its samples are like.
set -euo pipefail
shards=$1 runs=$2
shift 2
common=(
    --data "$shards/mnist" --kimg 48 batch=64
    generator.width=0.25 discriminator.width=0.25 compute.channels_last=true
    objective.kind=non_saturating
    g_optimizer.lr=5e-4 d_optimizer.lr=5e-4 ema.half_life_kimg=2
    evaluate.every_kimg=24 evaluate.embedding=efficientnet evaluate.count=1000
    checkpoint.keep_last=1 log.samples_every_kimg=48
)
for seed in ${SEEDS:-0 1 2}; do
    for source in ${SOURCES:-gaussian gamma nonparametric letters digits cifar10 tinyimagenet patches}; do
        case $source in
            gaussian | gamma | nonparametric) preset=dcgan fed=$source ;;
            *) preset=spider-dcgan fed=$shards/$source ;;
        esac
        run=$runs/$source-$seed
        [ -f "$run/_SUCCESS" ] ||
            spider train "$preset" --source "$fed" --seed "$seed" --run "$run" "${common[@]}" "$@"
        for embedding in efficientnet offline; do
            outcome=$runs/$embedding/$source-$seed.json
            [ -f "$outcome" ] || spider evaluate "$run@last" --embedding "$embedding" \
                --metrics fid,kid,precision,recall,density,coverage --count 2000 --seeds 1 --out "$outcome"
        done
    done
done
