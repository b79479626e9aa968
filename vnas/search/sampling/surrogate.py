r"""A Gaussian process over the draws of a space: what an answer will probably be, and how sure that is.

    k(x, y) = s2 exp(-sum_j d_j(x, y) / l_j)        d_j: distance in coordinate j (see ``encoding``)

The exponential kernel of an L1 distance makes rough functions likely, as the answers of nets are, and is a kernel for
choices without an order as well as for numbers. The lengths l_j and the noise are those of greatest posterior density
under wide log-normal priors; the mean and the scale s2 follow in closed form (Rasmussen and Williams 2006, eq. 2.25,
2.26, 5.8, 5.9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from vnas.search.sampling.encoding import Encoding, Floats

# Before there is data: a length at which choices that differ in one coordinate are alike (e ** -0.5), little noise.
_LENGTH, _LENGTH_SPREAD = np.log(2.0), 1.0
_NOISE, _NOISE_SPREAD = np.log(0.1), 1.5
_LENGTH_BOUNDS, _NOISE_BOUNDS = (-3.0, 6.0), (-9.0, 1.0)
_JITTER = 1e-6
_ITERATIONS = 30


@dataclass(frozen=True)
class Prediction:
    """Of N answers.

    Attributes:
        mean: (N,) in the unit of the answers.
        spread: (N,) standard deviation, likewise, of the answer without its noise.
        noise: standard deviation of the noise, likewise.
    """

    mean: Floats
    spread: Floats
    noise: float


@dataclass(frozen=True)
class Guess:
    """A model's answer for one candidate.

    Attributes:
        low: end of the interval that it lies above with the probability asked for.
        high: end that it lies below.
    """

    low: float
    high: float


class Surrogate:
    """A model of one answer.

    Args:
        encoding: of the space.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        p = len(encoding.names)
        self._theta = np.append(np.full(p, _LENGTH), _NOISE)
        self._fitted_for = 0

    def fit(self, points: Floats, answers: Floats) -> Surrogate:
        """Learn from (N, P) points with (N,) answers; the lengths are learned anew when N has grown by a tenth."""
        self._points = points
        self._mean, self._unit = float(answers.mean()), float(answers.std()) or 1.0
        scaled = (answers - self._mean) / self._unit
        if len(points) > 1.1 * self._fitted_for:
            apart = self._encoding.distances(points, points)  # (N, N, P)
            self._theta, self._fitted_for = _best(apart, scaled, self._theta), len(points)
        kernel = np.exp(-self._encoding.weighted(points, points, self._rates))
        kernel[np.diag_indices_from(kernel)] += np.exp(self._theta[-1]) + _JITTER
        self._lower = cholesky(kernel, lower=True)
        self._weights = cho_solve((self._lower, True), scaled)
        self._scale = max(float(scaled @ self._weights) / len(points), 1e-9)
        return self

    def predict(self, points: Floats) -> Prediction:
        """The answers at (N, P) points."""
        shared = np.exp(-self._encoding.weighted(points, self._points, self._rates))  # (N, M)
        mean = shared @ self._weights
        explained = solve_triangular(self._lower, shared.T, lower=True)  # (M, N)
        left = 1.0 - np.einsum("mn,mn->n", explained, explained)
        spread = np.sqrt(self._scale * np.maximum(left, 1e-12))
        noise = float(np.sqrt(self._scale * np.exp(self._theta[-1]))) * self._unit
        return Prediction(mean * self._unit + self._mean, spread * self._unit, noise)

    @property
    def _rates(self) -> Floats:
        return np.asarray(np.exp(-self._theta[:-1]), dtype=np.float64)


def _best(apart: Floats, answers: Floats, start: Floats) -> Floats:
    """Logarithms of the lengths and of the noise with the greatest posterior density."""
    n, _, p = apart.shape
    found = minimize(
        _loss,
        start,
        args=(apart.reshape(n * n, p), answers),
        jac=True,
        method="L-BFGS-B",
        bounds=[_LENGTH_BOUNDS] * p + [_NOISE_BOUNDS],
        options={"maxiter": _ITERATIONS},
    )
    return np.asarray(found.x, dtype=np.float64)


def _loss(theta: Floats, flat: Floats, answers: Floats) -> tuple[float, Floats]:
    """Negative logarithm of the posterior density, less what does not depend on theta, and its gradient.

    Args:
        theta: (P + 1,) logarithms of the lengths and of the noise.
        flat: (N * N, P) distances between the points.
        answers: (N,) of mean 0 and standard deviation 1.
    """
    n = len(answers)
    rates, noise = np.exp(-theta[:-1]), np.exp(theta[-1])
    kernel = np.exp(-(flat @ rates)).reshape(n, n)
    try:
        lower = np.linalg.cholesky(kernel + (noise + _JITTER) * np.eye(n))
    except LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverse = cho_solve((lower, True), np.eye(n))
    weights = inverse @ answers
    scale = max(float(answers @ weights) / n, 1e-12)
    slope = np.outer(weights, weights) / scale - inverse  # (N, N)
    gradient = np.empty_like(theta)
    gradient[:-1] = -0.5 * ((slope * kernel).reshape(-1) @ flat) * rates
    gradient[-1] = -0.5 * np.trace(slope) * noise
    centre = np.append(np.full(len(theta) - 1, _LENGTH), _NOISE)
    width = np.append(np.full(len(theta) - 1, _LENGTH_SPREAD), _NOISE_SPREAD)
    off = (theta - centre) / width
    value = 0.5 * n * np.log(scale) + np.log(np.diag(lower)).sum() + 0.5 * float(off @ off)
    return float(value), gradient + off / width
