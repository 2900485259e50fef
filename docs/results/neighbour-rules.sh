#!/usr/bin/env bash
# Which rule says best what feeds a Spider GAN? The same small GAN from six or eight sources for each of four targets, three
# seeds: see neighbour-rules.md for what came out.
#   [SEEDS="0 1 2"] [TARGETS="catid ..."] [OUTCOMES=FILE.csv] neighbour-rules.sh DATA OUT
# DATA holds the tars named below. OUT gets shards/, runs/TARGET/SOURCE-SEED and
# outcomes/EMBEDDING/TARGET/SOURCE-SEED.json. The same command again goes on; `python -m benchmarks.neighbor_rules OUT`
# reads what is there at any time. Seeds are outermost, so that any stop leaves the targets equally far. What FILE.csv has,
# such as neighbour-rules.csv beside this script, is not trained again.
set -euo pipefail
data=$1 out=$2
sets="catid-128 coin1e-128 raccoon-128 catface-64 emoji-64 flowers17-64 omniglot-64 caltech101-64"
common=(
    --kimg 24 batch=32
    generator.width=0.125 discriminator.width=0.375 compute.channels_last=true
    objective.kind=non_saturating penalties.r1_gamma=0.1
    g_optimizer.lr=5e-4 d_optimizer.lr=5e-4 ema.half_life_kimg=1
    evaluate.every_kimg=6 evaluate.embedding=offline evaluate.count=1000
    checkpoint.keep_last=1 log.every_kimg=2 log.samples_every_kimg=24
)

for set in $sets tinyimagenet-10k; do
    [ -f "$out/shards/${set%-*}/index.json" ] || spider pack "$data/$set.tar" "$out/shards/${set%-*}" --resolution 32
done

sources() { # TARGET: eight for two of them, six for the others
    case $1 in
        catid) echo catface flowers17 caltech101 omniglot emoji coin1e raccoon tinyimagenet ;;
        coin1e) echo catface flowers17 caltech101 omniglot emoji raccoon catid tinyimagenet ;;
        emoji) echo catface flowers17 caltech101 omniglot coin1e raccoon ;;
        flowers17) echo catface emoji caltech101 omniglot coin1e raccoon ;;
        *) echo catface flowers17 caltech101 omniglot emoji coin1e ;;
    esac
}

for seed in ${SEEDS:-0 1 2}; do
    for target in ${TARGETS:-catid coin1e raccoon emoji}; do
        for source in $(sources "$target"); do
            grep -qs "^$target,$source,$seed," "${OUTCOMES:-}" && continue
            run=$out/runs/$target/$source-$seed
            [ -f "$run/_SUCCESS" ] || spider train spider-dcgan --data "$out/shards/$target" \
                --source "$out/shards/$source" --seed "$seed" --run "$run" "${common[@]}"
            for embedding in efficientnet offline; do
                outcome=$out/outcomes/$embedding/$target/$source-$seed.json
                [ -f "$outcome" ] || spider evaluate "$run@last" --embedding "$embedding" --metrics fid,kid \
                    --count 1000 --seeds 1 --out "$outcome"
            done
        done
    done
done
