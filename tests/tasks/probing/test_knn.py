"""k-NN votes are those of a brute-force computation, whatever the chunks, and memory does not follow the training set."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from backbones.errors import UserError
from tasks.probing.evaluation import KnnEvaluator
from tasks.probing.knn import NearestNeighbours

N, D, Q, CLASSES = 60, 8, 7, 5


def random_set(seed: int = 0, dtype: str = "float32") -> tuple[NDArray[np.floating], list[int], torch.Tensor]:
    noise = np.random.default_rng(seed)
    train = noise.normal(size=(N, D)).astype(dtype)
    labels = noise.integers(0, CLASSES, N).tolist()
    return train, labels, torch.from_numpy(noise.normal(size=(Q, D)).astype(np.float32))


def by_brute_force(
    train: NDArray[np.floating], labels: list[int], queries: torch.Tensor, k: int, temperature: float
) -> NDArray[np.float64]:
    """Votes (Q, classes) in double precision, one query and one neighbour after another."""
    votes = np.zeros((len(queries), CLASSES))
    for q, query in enumerate(queries.double().numpy()):
        cosines = []
        for row in train.astype(np.float64):
            cosines.append(query @ row / (math.sqrt(query @ query) * math.sqrt(row @ row)))
        for i in sorted(range(len(train)), key=lambda i: -cosines[i])[:k]:
            votes[q, labels[i]] += math.exp(cosines[i] / temperature)
    return votes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_brute_force(dtype: str, temperature: float) -> None:
    train, labels, queries = random_set(1, dtype)
    neighbours = NearestNeighbours(train, labels, CLASSES, [20, 1, 60], temperature, chunk=13)
    asked = []
    for k, votes in neighbours.votes(queries):
        asked.append(k)
        np.testing.assert_allclose(votes, by_brute_force(train, labels, queries, k, temperature), rtol=1e-4)
    assert asked == [1, 20, 60]


def test_an_example_by_hand() -> None:
    """Cosines 1, 0.6, 0 and -1 at temperature 1: the nearest is of class 0, the next two of class 1."""
    train = np.array([[0.0, 2.0], [3.0, 4.0], [5.0, 0.0], [-1.0, 0.0]], np.float32)
    neighbours = NearestNeighbours(train, [1, 1, 0, 2], 3, [1, 3], temperature=1.0)
    similarity, index = neighbours.neighbours(torch.tensor([[7.0, 0.0]]))
    assert index.tolist() == [[2, 1, 0]]
    assert similarity[0].tolist() == pytest.approx([1.0, 0.6, 0.0])
    (_, one), (_, three) = ((k, votes[0].tolist()) for k, votes in neighbours.votes(torch.tensor([[7.0, 0.0]])))
    assert one == pytest.approx([math.e, 0.0, 0.0])
    assert three == pytest.approx([math.e, math.exp(0.6) + 1, 0.0])


@given(chunk=st.integers(1, 2 * N), block=st.integers(1, 2 * Q), seed=st.integers(0, 50))
@settings(max_examples=50)
def test_chunks_of_either_side_change_nothing(chunk: int, block: int, seed: int) -> None:
    train, labels, queries = random_set(seed)
    whole = NearestNeighbours(train, labels, CLASSES, [1, 5, 20], chunk=N)
    parts = NearestNeighbours(train, labels, CLASSES, [1, 5, 20], chunk=chunk)
    expected, expected_index = whole.neighbours(queries)
    for start in range(0, Q, block):
        similarity, index = parts.neighbours(queries[start : start + block])
        assert torch.equal(index, expected_index[start : start + block])
        torch.testing.assert_close(similarity, expected[start : start + block], rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_equal_neighbours_come_in_the_order_of_the_training_set(chunk: int) -> None:
    axes = np.eye(2, dtype=np.float32)[[1, 0, 1, 0, 0, 1, 0, 0]]
    similarity, index = NearestNeighbours(axes, [0] * 8, 2, [7], chunk=chunk).neighbours(torch.tensor([[1.0, 0.0]]))
    assert index.tolist() == [[1, 3, 4, 6, 7, 0, 2]]
    assert similarity.tolist() == [[1, 1, 1, 1, 1, 0, 0]]


def test_negative_similarities_are_ordered_too() -> None:
    angles = np.linspace(0.1, math.pi, 50)
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    similarity, index = NearestNeighbours(train, [0] * 50, 2, [50], chunk=7).neighbours(torch.tensor([[2.0, 0.0]]))
    assert index[0].tolist() == list(range(50))
    np.testing.assert_allclose(similarity[0], np.cos(angles), atol=1e-6)


def test_autocast_of_the_caller_does_not_round_similarities() -> None:
    train, labels, queries = random_set(2)
    neighbours = NearestNeighbours(train, labels, CLASSES, [20])
    expected = neighbours.neighbours(queries)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(neighbours.neighbours(queries)[0], expected)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_evaluator_counts_every_query_once(block: int) -> None:
    train, labels, queries = random_set(3)
    targets = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    neighbours = NearestNeighbours(train, labels, CLASSES, [5, 20])
    shares = []
    for process in range(2):  # as two processes would
        evaluator = KnnEvaluator(neighbours, block)
        for i in range(process, Q, 2):
            evaluator.update(torch.nn.Identity(), ([queries[i : i + 1]], targets[i : i + 1]))
        shares += evaluator.results()
    found = KnnEvaluator(neighbours, block).metrics(shares)
    for k in (5, 20):
        votes = by_brute_force(train, labels, queries, k, 0.07)
        right = sum(int(np.argmax(row)) == t for row, t in zip(votes, targets.tolist(), strict=True))
        assert found[f"knn{k}_top1"] == pytest.approx(100 * right / Q)
        answered = sum(int(row[t] > 0) for row, t in zip(votes, targets.tolist(), strict=True))
        assert found[f"knn{k}_top5"] == pytest.approx(100 * answered / Q)  # of five classes, those that have a vote
    assert found["images"] == Q


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_figures_are_scikit_learns(k: int) -> None:
    """Classes without a vote are no answer, as DINO's eval_knn.py takes min(5, k): with one neighbour top-5 is top-1."""
    train, labels, _ = random_set(4)
    noise = np.random.default_rng(9)
    queries, targets = noise.normal(size=(200, D)).astype(np.float32), noise.integers(0, CLASSES, 200)
    evaluator = KnnEvaluator(NearestNeighbours(train, labels, CLASSES, [k]), 64)
    evaluator.update(torch.nn.Identity(), ([torch.from_numpy(queries)], torch.from_numpy(targets)))
    found = evaluator.metrics(evaluator.results())

    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    votes = theirs.fit(train, labels).predict_proba(queries)
    order = np.argsort(-votes, axis=1)[:, :5]
    right = (order == targets[:, None]) & (np.take_along_axis(votes, order, 1) > 0)
    assert found[f"knn{k}_top1"] == pytest.approx(100 * right[:, 0].mean())
    assert found[f"knn{k}_top5"] == pytest.approx(100 * right.any(1).mean())
    assert (found["knn1_top5"] == found["knn1_top1"]) if k == 1 else (found[f"knn{k}_top5"] > found[f"knn{k}_top1"])


def test_more_queries_than_a_block_under_autocast_of_half_precision() -> None:
    train, labels, queries = random_set(5)
    targets = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    plain, cast = (KnnEvaluator(NearestNeighbours(train, labels, CLASSES, [5]), 2) for _ in range(2))
    for i in range(Q):
        half = queries[i : i + 1].half()
        plain.update(torch.nn.Identity(), ([half.float()], targets[i : i + 1]))
        with torch.autocast("cpu", torch.bfloat16):  # torch.cat of half precision raises in here
            cast.update(torch.nn.Identity(), ([half], targets[i : i + 1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert cast.results() == plain.results()


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"ks": [10, 61]}, ["knn.k=61", "60 images"]),
        ({"ks": [0]}, ["knn.k=[0]"]),
        ({"ks": []}, ["knn.k=[]"]),
        ({"temperature": 0.0}, ["knn.temperature=0.0"]),
        ({"chunk": 0}, ["knn.train_chunk=0"]),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_: dict[str, object], words: list[str]) -> None:
    train, labels, _ = random_set()
    with pytest.raises(UserError) as refusal:
        NearestNeighbours(train, labels, CLASSES, **{"ks": [1], **settings_})  # type: ignore[arg-type]
    for word in words:
        assert word in str(refusal.value)


def test_features_of_another_width_are_refused() -> None:
    train, labels, queries = random_set()
    neighbours = NearestNeighbours(train, labels, CLASSES, [1])
    with pytest.raises(UserError, match=r"width 7 cannot be compared with training features of 8"):
        neighbours.neighbours(queries[:, :7])


@pytest.mark.slow
def test_memory_keeps_to_the_bound_and_does_not_follow_the_training_set(tmp_path: Path) -> None:
    """100,000 training images: the whole matrix of similarities would take 400 MB."""
    script = f"""
import resource, numpy as np, torch
from tasks.probing.knn import NearestNeighbours
n, d, q, c, k = 100_000, 16, 1000, 2000, 50
train = np.lib.format.open_memmap({str(tmp_path / "t.npy")!r}, "w+", "float16", (n, d))
train[:] = np.random.default_rng(0).normal(size=(n, d))
neighbours = NearestNeighbours(train, np.zeros(n, int), 10, [k], chunk=c)
queries = torch.randn(q, d)
neighbours.train = train[:c]
next(neighbours.votes(queries))  # what libraries take for themselves
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
neighbours.train = train
next(neighbours.votes(queries))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
bound = 4 * (q + 2 * c) * d + 24 * q * c + 24 * q * k + 8 * q * 10
print(after - before, bound)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    grown, bound = map(int, done.stdout.split())
    assert grown < bound < 60e6
