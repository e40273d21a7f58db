#!/usr/bin/env python3
"""Makes tests/golden/cma: what pycma's CMAEvolutionStrategy does over 200 generations, given our normals.

  pip install cma==4.5.0 numpy==2.4.6
  python scripts/golden/pycma.py

Eigenvectors are unique only up to sign, and B D z depends on that sign. So the sampler here draws y = L z with C's
Cholesky factor L, which is unique; coordinator/src/cma samples the same way. Nothing else of pycma is changed: ask,
tell, p_sigma's C^(-1/2), the lazy decomposition and every constant are its own.
"""

import json
import math
import pathlib

import cma
import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "cma"
GENERATIONS = (1, 2, 5, 10, 20, 50, 100, 150, 200)
# name, function, dimension, population (None: pycma's default), active, mean's first value, sigma
CASES = (
    ("ellipsoid-10", "ellipsoid", 10, None, True, 1.0, 0.5),
    ("rosenbrock-10", "rosenbrock", 10, None, True, 0.0, 0.3),
    ("ellipsoid-40", "ellipsoid", 40, None, True, 1.0, 0.5),
    ("rosenbrock-40", "rosenbrock", 40, None, True, 0.0, 0.3),
    ("ellipsoid-120", "ellipsoid", 120, None, True, 1.0, 0.5),  # decomposes only every second or third generation
    ("wide-20", "rosenbrock", 20, 80, True, 0.0, 0.3),  # large mu_eff: the damping's second term
    ("passive-10", "ellipsoid", 10, None, False, 1.0, 0.5),
)


class Normals:
    """Sums of twelve uniforms less six: near enough to normal, and exact in floating point on any machine."""

    def __init__(self, seed):
        self.state = seed

    def draw(self):
        total = 0.0
        for _ in range(12):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
            total += (self.state >> 32) / 2**32
        return total - 6.0


def ellipsoid(x):
    return sum(10.0 ** (6.0 * i / (len(x) - 1)) * v * v for i, v in enumerate(x))


def rosenbrock(x):
    return sum(100.0 * (x[i] * x[i] - x[i + 1]) ** 2 + (x[i] - 1.0) ** 2 for i in range(len(x) - 1))


class CholeskySampler(cma.sampler.GaussFullSampler):
    """pycma's own sampler but for what `sample` makes of the normals."""

    normals = None
    factor = None
    factor_of = None  # which decomposition

    def sample(self, number, lazy_update_gap=None, same_length=False):
        self.update_now(lazy_update_gap)
        if self.factor_of != self.count_eigen:
            self.factor, self.factor_of = np.linalg.cholesky(self.C), self.count_eigen
        z = np.array([[self.normals.draw() for _ in range(self.dimension)] for _ in range(number)])
        return np.array([np.dot(self.factor, row) for row in z])


def snapshot(es, losses, last):
    c = es.sm.covariance_matrix
    found = {
        "generation": es.countiter,
        "sigma": float(es.sigma),
        "mean": es.mean.tolist(),
        "path_sigma": es.adapt_sigma.ps.tolist(),
        "path_c": es.pc.tolist(),
        "covariance_diagonal": np.diag(c).tolist(),
        "covariance_first_column": c[:, 0].tolist(),
        "covariance_norm": float(np.linalg.norm(c)),
        "best_loss": float(es.best.f),
        "generation_best": float(min(losses)),
    }
    if last and es.N <= 40:
        found["covariance"] = [c[i, : i + 1].tolist() for i in range(es.N)]
    return found


def run(name, function, dim, population, active, start, sigma):
    options = {"verbose": -9, "verb_log": 0, "verb_disp": 0, "seed": math.nan, "CMA_active": active}
    if population:
        options["popsize"] = population
    es = cma.CMAEvolutionStrategy(dim * [start], sigma, options)
    es.sm.__class__ = CholeskySampler
    seed = 20260 + len(name)
    es.sm.normals = Normals(seed)
    objective = {"ellipsoid": ellipsoid, "rosenbrock": rosenbrock}[function]

    snapshots = []
    for generation in range(1, GENERATIONS[-1] + 1):
        asked = es.ask()
        losses = [float(objective(x)) for x in asked]
        assert len(set(losses)) == len(losses), "ties would be ranked by the sort, not by us"
        es.tell(asked, list(losses))
        # tell must have used what ask gave: no repair, no injection, no mirror, no rescaled coordinates
        assert np.array_equal(es.pop_sorted, np.array(asked)[np.argsort(losses)])
        assert es.sp.lam_mirr == 0 and not es.pop_injection_directions
        assert np.all(es.sigma_vec.scaling == 1) and es.gp.isidentity
        if generation in GENERATIONS:
            snapshots.append(snapshot(es, losses, generation == GENERATIONS[-1]))

    parameters = es.sm.parameters()
    assert type(es.adapt_sigma) is cma.sigma_adaptation.CMAAdaptSigmaCSA
    print(name, "lambda", es.popsize, "sigma", es.sigma, "best", es.best.f, "decompositions", es.sm.count_eigen)
    return {
        "tool": f"pycma {cma.__version__.split()[0]}, numpy {np.__version__}",
        "function": function,
        "dim": dim,
        "population": es.popsize,
        "active": active,
        "start": start,
        "sigma": sigma,
        "seed": seed,
        "constants": {
            "weights": [float(w) for w in es.sp.weights],
            "mu": es.sp.weights.mu,
            "mu_eff": float(es.sp.weights.mueff),
            "c_sigma": float(es.adapt_sigma.cs),
            "d_sigma": float(es.adapt_sigma.damps),
            "c_c": float(es.sp.cc),
            "c_1": float(parameters["c1"]),
            "c_mu": float(parameters["cmu"]),
            "chi": float(cma.utilities.math.Mh.chiN(dim)),
            "lazy_gap": float(es.sm.lazy_update_gap),
        },
        "snapshots": snapshots,
    }


def lines(golden):
    """JSON with one snapshot a line, so that a change can be read in a diff."""
    snapshots = ",\n".join(json.dumps(s) for s in golden.pop("snapshots"))
    return json.dumps(golden)[:-1] + ', "snapshots": [\n' + snapshots + "\n]}\n"


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        (OUT / f"{case[0]}.json").write_text(lines(run(*case)))


if __name__ == "__main__":
    main()
