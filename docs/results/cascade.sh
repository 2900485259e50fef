#!/usr/bin/env bash
# What should feed StyleGAN2 when there are 285 cat faces? Four ways, with and without ADA, and ATop-k on 149 raccoons: see
# cascade.md for what came out.
#   [SEEDS="0 1 2"] [KIMG=12] [ONE_KIMG=24] cascade.sh DATA OUT [KEY=VALUE ...]
# DATA holds the tars named below. The same command goes on. What stands behind OUT goes to every training of stage two:
# on a GPU larger networks, such as generator.channel_base=16384 discriminator.channel_base=16384 batch=32.
#   OUT/runs/one-SEED                     stage one: catface at 32 px, from Gaussian vectors
#   OUT/runs/catface64-SEED               the same images at 64 px: where fine-tuning begins
#   OUT/runs/WAY[-ada]-SEED               catid at 64 px; WAY: gaussian, images, cascade, finetune
#   OUT/runs/raccoon[-atopk]-SEED         raccoon at 64 px, from Gaussian vectors
#   OUT/outcomes/RUN.json                 FD, KD, precision and recall of 1,000 samples, and the memorisation page
set -euo pipefail
data=$1 out=$2
shift 2
kimg=${KIMG:-12} one_kimg=${ONE_KIMG:-24}
network=(channel_base=1024 channel_max=128 bf16_resolutions=0)
common=(
    generator.kind=stylegan2 discriminator.kind=stylegan2
    "${network[@]/#/generator.}" "${network[@]/#/discriminator.}"
    generator.w_dim=128 generator.mapping_layers=2
    objective.kind=non_saturating penalties.phase=own penalties.interval_steps=16 penalties.r1_gamma=0.1
    g_optimizer.lr=2e-3 d_optimizer.lr=2e-3 g_optimizer.beta1=0 d_optimizer.beta1=0
    g_optimizer.beta2=0.99 d_optimizer.beta2=0.99
    batch=8 ema.half_life_kimg=1 data.mirror=true
    evaluate.embedding=efficientnet evaluate.count=500 checkpoint.keep_last=1 log.samples_every_kimg=4
)

gaussian=(--source gaussian source.dim=128)

pack() { # TAR SIDE NAME
    [ -f "$out/shards/$3/index.json" ] || spider pack "$data/$1.tar" "$out/shards/$3" --resolution "$2"
}

train() { # RUN, then options and keys
    run=$out/runs/$1
    shift
    [ -f "$run/_SUCCESS" ] || spider train dcgan --run "$run" "${common[@]}" "$@"
}

judge() { # RUN
    [ -f "$out/outcomes/$1.json" ] || spider evaluate "$out/runs/$1@last" --embedding efficientnet \
        --metrics fid,kid,precision,recall,nearest --count 1000 --seeds 1 --out "$out/outcomes/$1.json"
}

pack catface-64 32 catface32
pack catface-64 64 catface64
pack catid-128 64 catid64
pack raccoon-128 64 raccoon64

for seed in ${SEEDS:-0 1 2}; do
    train "one-$seed" "${gaussian[@]}" --data "$out/shards/catface32" --seed "$seed" --kimg "$one_kimg" evaluate.every_kimg="$one_kimg"
    train "catface64-$seed" "${gaussian[@]}" --data "$out/shards/catface64" --seed "$seed" --kimg "$kimg" \
        evaluate.every_kimg="$kimg" "$@"
    for augment in "" -ada; do
        steered=()
        [ -z "$augment" ] || steered=('augment=[{kind: ada, pipe: bgc, control: {rise_kimg: 20}}]')
        for way in gaussian images cascade finetune; do
            fed=("${gaussian[@]}")
            case $way in
                images) fed=(--source "$out/shards/catface32" source.adapter=luma-23x23) ;;
                cascade) fed=(--source "$out/runs/one-$seed" source.adapter=luma-23x23) ;;
                finetune) fed+=(init.kind=run init.run="$out/runs/catface64-$seed@last") ;;
            esac
            train "$way$augment-$seed" --data "$out/shards/catid64" --seed "$seed" --kimg "$kimg" \
                evaluate.every_kimg="$(python3 -c "print($kimg / 4)")" "${fed[@]}" "${steered[@]}" "$@"
            judge "$way$augment-$seed"
        done
    done
    for taught in "" -atopk; do
        chosen=()
        [ -z "$taught" ] || chosen=(selection.kind=adaptive overfit.rise_kimg=20)
        train "raccoon$taught-$seed" "${gaussian[@]}" --data "$out/shards/raccoon64" --seed "$seed" --kimg "$kimg" \
            evaluate.every_kimg="$(python3 -c "print($kimg / 4)")" "${chosen[@]}" "$@"
        judge "raccoon$taught-$seed"
    done
done
