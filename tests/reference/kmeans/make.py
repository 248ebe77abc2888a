"""Writes scikit-learn's mini-batch k-means on fixed features (`kmeans.safetensors`).

    pip install scikit-learn safetensors numpy
    python tests/reference/kmeans/make.py

Metadata `cases` is a JSON list of {"rows", "width", "groups", "clusters", "batch", "inertias"}: case `i` has `ci.features`
[N, D], and `inertias` are the mean squared distances to the nearest centroid that scikit-learn reaches with seeds 0 to 9, with
the settings of HuBERT's authors but for `batch` and 5 starts. Another program draws other numbers, so what is compared is how
good its clusters are. `groups` points are drawn and features scattered around them; 0 scatters them around nothing.
"""

import json
import pathlib

import numpy
from safetensors.numpy import save_file
from sklearn.cluster import MiniBatchKMeans

HERE = pathlib.Path(__file__).parent
CASES = [(1200, 5, 12, 12, 200), (1500, 16, 40, 20, 300), (1000, 8, 0, 32, 250)]


def case(number, sizes, tensors):
    """One case; returns its description."""
    rows, width, groups, clusters, batch = sizes
    random = numpy.random.default_rng(number)
    features = random.normal(size=(rows, width))
    if groups:
        centers, spread = 6.0 * random.normal(size=(groups, width)), random.uniform(0.2, 1.5, size=(groups, 1))
        of = random.integers(groups, size=rows)
        features = centers[of] + spread[of] * features
    features = features.astype(numpy.float32)
    tensors[f"c{number}.features"] = features
    inertias = []
    for seed in range(10):
        model = MiniBatchKMeans(clusters, init="k-means++", max_iter=100, batch_size=batch, tol=0.0, max_no_improvement=100,
                                n_init=5, reassignment_ratio=0.0, random_state=seed)
        distances = model.fit(features).transform(features).min(1)
        inertias.append(float((distances.astype(numpy.float64) ** 2).mean()))
    return {"rows": rows, "width": width, "groups": groups, "clusters": clusters, "batch": batch, "inertias": inertias}


def main():
    """Writes the file."""
    tensors = {}
    cases = [case(i, sizes, tensors) for i, sizes in enumerate(CASES)]
    save_file(tensors, HERE / "kmeans.safetensors", metadata={"cases": json.dumps(cases)})
    print(*cases, sep="\n")


if __name__ == "__main__":
    main()
