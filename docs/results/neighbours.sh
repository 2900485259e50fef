#!/usr/bin/env bash
# docs/results/neighbours.md: every ordered pair of six datasets. DATA holds the three tar files of class folders named
# below, 10,000 images each; OUT gets everything. Two minutes on 2 cores.
set -euo pipefail
DATA=$1 OUT=$2
for name in mnist cifar10 tinyimagenet; do
    [ -f "$OUT/data/$name/index.json" ] || spider pack "$DATA/$name-10k.tar" "$OUT/data/$name"
done
for name in digits letters patches; do
    [ -f "$OUT/data/$name/index.json" ] || spider pack "builtin:$name" "$OUT/data/$name"
done
spider neighbors --all "$OUT"/data/{mnist,cifar10,tinyimagenet,digits,letters,patches} \
    --embedding offline --orders=-1,1,-3,-5 --ray local --out "$OUT/matrix"
