#!/usr/bin/env bash
# docs/results/neighbours.md: every ordered pair of fourteen datasets, under two embeddings. DATA holds the tar files of class
# folders named below; OUT gets everything. The same command goes on.
set -euo pipefail
data=$1 out=$2
for tar in caltech101-64 catface-64 catid-128 cifar10-10k coin1e-128 emoji-64 flowers17-64 mnist-10k omniglot-64 raccoon-128 \
    tinyimagenet-10k; do
    [ -f "$out/data/${tar%-*}/index.json" ] || spider pack "$data/$tar.tar" "$out/data/${tar%-*}"
done
for name in digits letters patches; do
    [ -f "$out/data/$name/index.json" ] || spider pack "builtin:$name" "$out/data/$name"
done
for embedding in offline efficientnet; do
    spider neighbors --all "$out"/data/* --embedding "$embedding" --orders=-1,1,-3,-5 --out "$out/matrix-$embedding"
done
