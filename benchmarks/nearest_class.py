"""How often the image nearest to an image has its class: what an embedding knows of classes, without any training.

    python -m benchmarks.nearest_class IMAGES [--embedding efficientnet] [--count 10000] [--seed 0] [--out FILE.json]

IMAGES are packed shards with classes. Distances are cosine distances of features less their mean; an image is not its
own neighbour. `chance` is the rate for a neighbour drawn at random.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.report import Row, write_report
from cluster.world import World
from spider.data import open_images
from spider.judge.embed.features import extract_features
from spider.judge.embed.images import DrawnImages
from spider.judge.embed.load import load_embedding


def nearest_class(features: np.ndarray, labels: np.ndarray) -> float:
    """Part of the images whose nearest other image has their class: features [N, dim], labels [N] -> 0 to 1."""
    rows = features - features.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12
    right = 0
    for start in range(0, len(rows), 1024):
        similarity = rows[start : start + 1024] @ rows.T
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -np.inf
        right += int((labels[similarity.argmax(1)] == labels[start : start + 1024]).sum())
    return right / len(rows)


def main() -> None:
    """Measure one embedding on one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="packed shards with classes")
    parser.add_argument("--embedding", default="efficientnet")
    parser.add_argument("--count", type=int, default=10_000, help="images, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()

    world = World.from_env()
    dataset = open_images(given.images)
    drawn = DrawnImages(dataset, min(given.count, len(dataset)), given.seed)
    labels = drawn.labels()
    embedding = load_embedding(given.embedding, device=world.device)
    start = time.perf_counter()
    features = extract_features(drawn, embedding, world, progress=True)
    seconds = time.perf_counter() - start
    parts = np.bincount(labels) / len(labels)
    rows: list[Row] = [
        {
            "images": dataset.name,
            "count": len(drawn),
            "classes": len(parts),
            "embedding": embedding.label,
            "nearest has the class": round(nearest_class(features, labels), 4),
            "chance": round(float((parts**2).sum()), 4),
            "images/s": round(len(drawn) / seconds, 1),
        }
    ]
    write_report("nearest_class", rows, given.out)


if __name__ == "__main__":
    main()
