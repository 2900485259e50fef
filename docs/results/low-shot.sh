#!/usr/bin/env bash
# Which trainer for 149 to 379 images, and does ATop-k help it? Five trainers, each with and without ATop-k, on three sets at
# 64 px, for as long as each other; and a Projected GAN fed by cat faces. See low-shot.md for what came out.
#   [SEEDS="0 1 2"] [TARGETS="catid ..."] [TRAINERS="ada ..."] [MINUTES=10] [CPU=yes|no] low-shot.sh DATA OUT [KEY=VALUE ...]
# DATA holds the tars named below. The same command goes on. A run lasts as many images as MINUTES buy at the rate that
# `spider train --dry-run` measures once for each trainer, on an idle machine, and keeps in OUT/rates. CPU=yes (the default)
# makes networks small enough for a CPU; CPU=no leaves them to the presets.
#   OUT/runs/TARGET/TRAINER[-atopk]-SEED          fastgan, projected, diffusion, ada, insgen; spider: projected, fed by catface
#   OUT/outcomes/EMBEDDING/TARGET/RUN@WHICH.json  of 1,000 samples of the last and of the best checkpoint
set -euo pipefail
data=$1 out=$2
shift 2
minutes=${MINUTES:-10}
last=$((minutes * 60))

pack() { # TAR NAME
    [ -f "$out/shards/$2/index.json" ] || spider pack "$data/$1.tar" "$out/shards/$2" --resolution 64
}
pack coin1e-128 coin1e
pack catid-128 catid
pack raccoon-128 raccoon
pack catface-64 catface

settings() { # TRAINER: a preset, and keys
    local tiny=() style=(generator.channel_base=1024 discriminator.channel_base=1024 generator.channel_max=128
        discriminator.channel_max=128 generator.w_dim=128 generator.mapping_layers=2 source.dim=128
        generator.bf16_resolutions=0 discriminator.bf16_resolutions=0 discriminator.mbstd_group=4 penalties.r1_gamma=0.1)
    case $1 in
        fastgan)
            tiny=(generator.ngf=16 discriminator.ndf=16 "auxiliary=[{kind: reconstruction, channels: 8, distance: pixels}]")
            how=(fastgan batch=8)
            ;;
        projected | spider | diffusion)
            tiny=(generator.ngf=32 discriminator.width=0.25 discriminator.enlarge_to=128)
            how=(projected/fastgan-lite batch=16)
            [ "$1" != spider ] || how=(spider-projected batch=16 --source "$out/shards/catface")
            [ "$1" != diffusion ] || how=(diffusion/projected generator.form=lite batch=16)
            ;;
        ada) tiny=("${style[@]}") how=(stylegan2-ada/low-shot batch=8) ;;
        insgen) tiny=("${style[@]}") how=(insgen batch=8 "augment=[{kind: ada, pipe: bgc}]") ;;
    esac
    [ "${CPU:-yes}" = no ] || how+=("${tiny[@]}" ema.half_life_kimg=1 ema.rampup=null)
}

for trainer in ${TRAINERS:-fastgan projected diffusion ada insgen spider}; do
    settings "$trainer"
    rate=$out/rates/$trainer.json
    if [ ! -f "$rate" ]; then
        mkdir -p "$out/rates"
        spider train "${how[@]}" --data "$out/shards/catid" --run "$out/none" --dry-run --json evaluate.embedding=offline \
            "$@" > "$rate.part"
        mv "$rate.part" "$rate"
    fi
    kimg=$(python3 -c "import json; print(round($last / json.load(open('$rate'))['sec_per_kimg'], 1))")
    for seed in ${SEEDS:-0 1 2}; do
        for target in ${TARGETS:-catid coin1e raccoon}; do
            for taught in "" -atopk; do
                chosen=()
                [ -z "$taught" ] || chosen=(selection.kind=adaptive overfit.rise_kimg=20)
                name=$trainer$taught-$seed
                run=$out/runs/$target/$name
                [ -f "$run/_SUCCESS" ] || spider train "${how[@]}" --data "$out/shards/$target" --seed "$seed" --run "$run" \
                    --kimg "$kimg" data.mirror=true evaluate.embedding=offline evaluate.count=1000 \
                    evaluate.every_kimg="$(python3 -c "print(round($kimg / 5, 2))")" "evaluate.metrics=[fid,coverage,recall,nearest]" \
                    checkpoint.keep_last=1 "${chosen[@]}" "$@"
                for which in last best; do
                    for embedding in efficientnet offline; do
                        outcome=$out/outcomes/$embedding/$target/$name@$which.json
                        [ -f "$outcome" ] || spider evaluate "$run@$which" --embedding "$embedding" --count 1000 --seeds 1 \
                            --metrics fid,kid,coverage,recall,nearest --out "$outcome"
                    done
                done
            done
        done
    done
done
