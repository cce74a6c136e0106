"""The student of the tagger: hashed n-grams and surface features, one ridge solve, twenty labels in one pass."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.annotators import DEBRIS, FURNITURE, MARKUP, compression_ratio, distinct_line_share, rate
from nanbeige_core.data.character_model import CharacterModel
from nanbeige_core.data.hashing import code_points, hash_units, is_cjk, is_word, mix

# Shapes: D documents, F features, L labels.

SURFACE_WEIGHT = 0.25
"""Standardised surface features against unit-length n-gram rows."""


@dataclass(frozen=True)
class Student:
    """Weights of the multi-output ridge, with what standardises the surface features."""

    weights_FL: NDArray[np.float64]
    intercept_L: NDArray[np.float64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    buckets: int


def surface_features(text: str, points: NDArray[np.uint32], bits: float) -> list[float]:
    """Return cheap shape measures of a text that n-gram counts do not carry."""
    size = max(1, len(text))
    ending = text[-1:]
    return [
        bits,
        compression_ratio(text),
        distinct_line_share(text),
        np.log1p(len(text)),
        np.log1p(size / (1 + text.count("\n"))),
        *(_count_classes(points) / size),
        float(ending.isalnum()),
        float(ending in ".!?。！？)}\"'`"),
        rate(MARKUP, text),
        rate(FURNITURE, text.lower()),
        rate(DEBRIS, text),
    ]


def featurise(
    texts: list[str], model: CharacterModel, buckets: int, characters: int
) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
    """Return hashed n-gram rows of unit length [D, buckets] and raw surface features [D, surface]."""
    index_parts: list[NDArray[np.int32]] = []
    pointers = [0]
    surface: list[list[float]] = []
    for text in texts:
        prefix = text[:characters]
        points = code_points(prefix.lower())
        units, _ = hash_units(points, False)
        ending = code_points(text[-24:])
        index_parts.append(_hash_features(points, units, ending, buckets))
        pointers.append(pointers[-1] + len(index_parts[-1]))
        surface.append(surface_features(prefix, code_points(prefix), model.measure_bits(prefix)))
    indices = np.concatenate(index_parts) if index_parts else np.empty(0, np.int32)
    counts = sparse.csr_matrix(
        (np.ones(len(indices), np.float32), indices, np.array(pointers)), shape=(len(texts), buckets)
    )
    counts.sum_duplicates()
    counts.data = np.log1p(counts.data)
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    rows = sparse.diags(1.0 / np.maximum(norms, 1e-9)) @ counts
    return sparse.csr_matrix(rows), np.array(surface, dtype=np.float64).reshape(len(texts), -1)


def fit_student(
    rows: sparse.csr_matrix, surface: NDArray[np.float64], targets_DL: NDArray[np.float64], ridge: float
) -> Student:
    """Solve the ridge regression in its dual (documents are fewer than features)."""
    centre = surface.mean(axis=0)
    scale = np.maximum(surface.std(axis=0), 1e-6)
    features = _join(rows, surface, centre, scale)
    intercept_L = targets_DL.mean(axis=0)
    kernel_DD = (features @ features.T).toarray()
    kernel_DD[np.diag_indices_from(kernel_DD)] += ridge
    duals_DL = np.linalg.solve(kernel_DD, targets_DL - intercept_L)
    weights_FL = np.asarray(features.T @ duals_DL)
    return Student(weights_FL, intercept_L, centre, scale, len(weights_FL) - surface.shape[1])


def predict_labels(student: Student, rows: sparse.csr_matrix, surface: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the labels [D, L], clipped to 0-9."""
    features = _join(rows, surface, student.centre, student.scale)
    return np.clip(np.asarray(features @ student.weights_FL) + student.intercept_L, 0.0, 9.0)


def _join(
    rows: sparse.csr_matrix, surface: NDArray[np.float64], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> sparse.csr_matrix:
    dense = np.clip((surface - centre) / scale, -4, 4) * SURFACE_WEIGHT
    return sparse.csr_matrix(sparse.hstack([rows, sparse.csr_matrix(dense)]))


@njit(cache=True)
def _count_classes(points: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Count digits, ASCII capitals, white space, word characters and CJK."""
    counts = np.zeros(5)
    for point in points:
        counts[0] += 48 <= point <= 57
        counts[1] += 65 <= point <= 90
        counts[2] += point == 32 or 9 <= point <= 13
        counts[3] += is_word(point)
        counts[4] += is_cjk(point)
    return counts


@njit(cache=True)
def _hash_features(
    points: NDArray[np.uint32], units: NDArray[np.uint64], ending: NDArray[np.uint32], buckets: int
) -> NDArray[np.int32]:
    """Hash word 1- and 2-grams, character 3-grams, and the last characters with their distance to the end."""
    size = np.uint64(buckets)
    words = len(units)
    result = np.empty(2 * words + len(points) + 6, dtype=np.int32)
    count = 0
    for index in range(words):
        result[count] = np.int32(mix(units[index]) % size)
        count += 1
        if index + 1 < words:
            result[count] = np.int32(mix(units[index] * np.uint64(3) + units[index + 1]) % size)
            count += 1
    for index in range(len(points) - 2):
        value = np.uint64(points[index])
        value = mix(value * np.uint64(1000003) + np.uint64(points[index + 1]))
        result[count] = np.int32(mix(value * np.uint64(1000003) + np.uint64(points[index + 2])) % size)
        count += 1
    for distance in range(min(3, len(ending))):
        value = np.uint64(ending[len(ending) - 1 - distance]) * np.uint64(7919) + np.uint64(distance)
        result[count] = np.int32(mix(value) % size)
        count += 1
    return result[:count].copy()
