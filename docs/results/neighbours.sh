#!/usr/bin/env bash
# docs/results/neighbours.md: every ordered pair of fourteen datasets under two embeddings. DATA holds the tars of images
# named below; OUT gets everything.
set -euo pipefail
DATA=$1 OUT=$2
tars="caltech101-64 catface-64 catid-128 cifar10-10k coin1e-128 emoji-64 flowers17-64 mnist-10k omniglot-64 raccoon-128 tinyimagenet-10k"
sets=()
for tar in $tars; do
    name=${tar%-*}
    [ -f "$OUT/data/$name/index.json" ] || spider pack "$DATA/$tar.tar" "$OUT/data/$name"
    sets+=("$OUT/data/$name")
done
for name in digits letters patches; do
    [ -f "$OUT/data/$name/index.json" ] || spider pack "builtin:$name" "$OUT/data/$name"
    sets+=("$OUT/data/$name")
done
for embedding in offline efficientnet; do
    spider neighbors --all "${sets[@]}" --embedding $embedding --orders=-1,1,-3,-5 --out "$OUT/matrix-$embedding"
done
