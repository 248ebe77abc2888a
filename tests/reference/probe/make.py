"""Writes scikit-learn's multinomial logistic regression (`linear.safetensors`), for the linear probe.

    pip install scikit-learn numpy safetensors
    python tests/reference/probe/make.py

Data: scikit-learn's 8 x 8 digits, and draws around five centers whose dimensions differ in size by 10^4. Metadata `cases` is a
JSON list of {"name", "strength", "accuracy"}; case `i` has `ci.bank` [N, D], `ci.labels` [N], `ci.queries` [Q, D],
`ci.answers` [Q], and what `LogisticRegression(C = 1 / (strength N))` makes of the standardised bank: `ci.weight` [K, D],
`ci.bias` [K] (less its mean over classes, which says nothing), `ci.said` [Q].
"""

import json
import pathlib

import numpy
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

HERE = pathlib.Path(__file__).parent


def digits():
    """Digits: 600 to learn from, 400 to ask about."""
    values, labels = load_digits(return_X_y=True)
    return values[:600], labels[:600], values[600:1000], labels[600:1000]


def centers():
    """Five classes in 24 dimensions: 400 and 300."""
    random = numpy.random.default_rng(3)
    center, scale = random.normal(size=(5, 24)), 10.0 ** random.uniform(-2, 2, 24)
    labels = random.integers(0, 5, 700)
    values = (center[labels] + 1.5 * random.normal(size=(700, 24))) * scale
    return values[:400], labels[:400], values[400:], labels[400:]


def main():
    """Writes the file."""
    tensors, cases = {}, []
    for name, data in (("digits", digits()), ("centers", centers())):
        for strength in (1e-1, 1e-3):
            bank, labels, queries, answers = data
            bank, queries = bank.astype(numpy.float32), queries.astype(numpy.float32)
            scaler = StandardScaler().fit(bank.astype(numpy.float64))
            fit = LogisticRegression(C=1.0 / (strength * len(bank)), tol=1e-8, max_iter=10000)
            fit.fit(scaler.transform(bank.astype(numpy.float64)), labels)
            said = fit.predict(scaler.transform(queries.astype(numpy.float64)))
            prefix = f"c{len(cases)}"
            for key, value in (("bank", bank), ("queries", queries), ("weight", fit.coef_),
                               ("bias", fit.intercept_ - fit.intercept_.mean())):
                tensors[f"{prefix}.{key}"] = numpy.ascontiguousarray(value, numpy.float32)
            for key, value in (("labels", labels), ("answers", answers), ("said", said)):
                tensors[f"{prefix}.{key}"] = value.astype(numpy.uint32)
            cases.append({"name": name, "strength": strength, "accuracy": float((said == answers).mean())})
    save_file(tensors, HERE / "linear.safetensors", metadata={"cases": json.dumps(cases)})
    print(cases)


if __name__ == "__main__":
    main()
