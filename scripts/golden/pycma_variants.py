#!/usr/bin/env python3
"""Makes tests/golden/cma/variants.json and stops.json: pycma's variants at three dimensions and three populations, given
our normals, and why and when pycma stops.

  pip install cma==4.5.0 numpy==2.4.6
  python scripts/golden/pycma_variants.py

Of each case there are numbers that a wrong one cannot hide from, not vectors and matrices: norms, and a few coordinates.
As in pycma.py beside this file, whose sampler is used, nothing of pycma's arithmetic is changed. Options set here: CSA in
every dimension, no re-scaling of coordinates of a badly conditioned C; and with a diagonal start the decomposition stays
as lazy as it is without one (pycma forgets to say so when it changes over, which costs time and changes nothing else).
"""

import json
import math

import cma
import numpy as np
from pycma import OUT, CholeskySampler, ellipsoid, rosenbrock

DIMS = (5, 40, 500)
POPULATIONS = (6, 20, 200)
DIAGONAL = 8  # generations of the diagonal start
# name, pycma's options
VARIANTS = (
    ("full", {}),
    ("passive", {"CMA_active": False}),
    ("bounds", {"bounds": [0.2, 3.0]}),
    ("diagonal-start", {"CMA_diagonal": DIAGONAL}),
    ("separable", {"CMA_diagonal": True}),
)
COMMON = {
    "verbose": -9,
    "verb_log": 0,
    "verb_disp": 0,
    "seed": math.nan,
    "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
    "conditioncov_alleviate": False,
}


class Normals:
    """pycma.py's numbers, many at once."""

    BLOCK = 1 << 16

    def __init__(self, seed):
        a, c, mask = 6364136223846793005, 1442695040888963407, 2**64 - 1
        powers, sums, power, total = [], [], 1, 0
        for _ in range(self.BLOCK):
            total = (total * a + c) & mask
            power = power * a & mask
            powers.append(power)
            sums.append(total)
        self.powers, self.sums = np.array(powers, dtype=np.uint64), np.array(sums, dtype=np.uint64)
        self.state, self.left = seed, np.zeros(0)

    def take(self, count):
        while len(self.left) < count:
            states = self.powers * np.uint64(self.state) + self.sums
            self.state = int(states[-1])
            self.left = np.concatenate([self.left, (states >> np.uint64(32)).astype(float) / 2**32])
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def __call__(self, number, dim):
        return self.take(number * dim * 12).reshape(number, dim, 12).sum(axis=2) - 6.0


class Sampler(CholeskySampler):
    """As there, with many normals at once."""

    def sample(self, number, lazy_update_gap=None, same_length=False):
        self.update_now(lazy_update_gap)
        if self.factor_of != self.count_eigen:
            self.factor, self.factor_of = np.linalg.cholesky(self.C), self.count_eigen
        return np.dot(self.normals(number, self.dimension), self.factor.T)


def use_our_sampler(es, normals):
    if isinstance(es.sm, cma.sampler.GaussFullSampler) and not isinstance(es.sm, Sampler):
        es.sm.__class__ = Sampler
        es.sm.normals = normals
        # what it draws with until the first decomposition, which after a diagonal start is not before the first tell
        es.sm.factor, es.sm.factor_of = np.diag(es.sm.D), es.sm.count_eigen
        es.sm.lazy_update_gap = 1.0 / (es.sp.c1 + es.sp.cmu + 1e-23) / es.N / 10


def objective(x):
    """The ellipsoid, a matrix of points at once."""
    return (10.0 ** (6.0 * np.arange(x.shape[1]) / (x.shape[1] - 1)) * x * x).sum(axis=1)


def digest(values):
    values = np.asarray(values, dtype=float)
    at = sorted({0, 1, len(values) // 2, len(values) - 1})
    return [float(np.linalg.norm(values)), *(float(values[i]) for i in at)]


def snapshot(es, best):
    full = isinstance(es.sm, cma.sampler.GaussFullSampler)
    c = es.sm.covariance_matrix if full else np.eye(es.N)
    return {
        "generation": es.countiter,
        "sigma": float(es.sigma),
        "mean": digest(es.mean),
        "path_sigma": digest(es.adapt_sigma.ps),
        "path_c": digest(es.pc),
        "scales": digest(es.sigma_vec.scaling * np.ones(es.N)),
        "covariance_diagonal": digest(np.diag(c)),
        "covariance_last_row": digest(c[-1]),
        "covariance_norm": float(np.linalg.norm(c)),
        "stds": digest(es.stds),
        "best_loss": float(es.best.f),
        "generation_best": float(best),
    }


def follow(name, options, dim, population):
    seed = 20260 + dim + population
    normals = Normals(seed)
    es = cma.CMAEvolutionStrategy(
        dim * [1.0], 0.5, {**COMMON, **options, "popsize": population, "randn": normals}
    )
    use_our_sampler(es, normals)
    last = 60 if population < 200 else 25
    snapshots = []
    for generation in range(1, last + 1):
        asked = es.ask()
        losses = objective(np.array(asked))
        assert len(set(losses)) == len(losses), "ties would be ranked by the sort, not by us"
        es.tell(asked, list(losses))
        use_our_sampler(es, normals)
        assert es.sp.lam_mirr == 0 and not es.pop_injection_directions and es.gp.isidentity
        assert type(es.adapt_sigma) is cma.sigma_adaptation.CMAAdaptSigmaCSA
        if generation in (1, 12, last):
            snapshots.append(snapshot(es, losses.min()))
    print(name, dim, population, "sigma", es.sigma, "best", es.best.f)
    return {
        "variant": name, "dim": dim, "population": es.popsize, "seed": seed, "diagonal": DIAGONAL,
        "weights": digest(es.sp.weights), "snapshots": snapshots,
    }


def stops():
    """Searches from 1 (0 for Rosenbrock) with sigma 0.5 until pycma stops."""
    # name, function, dimension, options
    cases = (
        ("ellipsoid", 5, {}),
        ("rosenbrock", 8, {}),
        ("flat", 4, {}),
        ("linear", 4, {}),
        ("ellipsoid", 6, {"maxiter": 20}),
        ("ellipsoid", 6, {"ftarget": 1e-3}),
        ("ellipsoid", 6, {"tolx": 1e-3}),
        ("ellipsoid", 6, {"tolfunrel": 1e-4}),
        ("ellipsoid", 6, {"tolconditioncov": 1e3}),
        ("ellipsoid", 6, {"CMA_diagonal": True}),
    )
    functions = {
        "ellipsoid": ellipsoid, "rosenbrock": rosenbrock, "flat": lambda x: 1.0, "linear": lambda x: float(sum(x)),
    }
    found = []
    for name, dim, options in cases:
        seed = 500 + dim
        normals = Normals(seed)
        es = cma.CMAEvolutionStrategy(
            dim * [0.0 if name == "rosenbrock" else 1.0], 0.5, {**COMMON, **options, "randn": normals}
        )
        use_our_sampler(es, normals)
        while not es.stop():
            asked = es.ask()
            es.tell(asked, [float(functions[name](x)) for x in asked])
        print(name, options, es.countiter, dict(es.stop()))
        found.append({
            "function": name, "dim": dim, "seed": seed,
            **{"option": k for k in options}, **{"value": float(v) for v in options.values()},
            "generations": es.countiter, "reasons": sorted(es.stop()),
        })
    return found


def main():
    tool = f"pycma {cma.__version__.split()[0]}, numpy {np.__version__}"
    cases = [follow(*variant, dim, population) for variant in VARIANTS for dim in DIMS for population in POPULATIONS]
    for name, found in (("variants", cases), ("stops", stops())):
        rows = ",\n".join(json.dumps(case) for case in found)
        (OUT / f"{name}.json").write_text(json.dumps({"tool": tool})[:-1] + ', "cases": [\n' + rows + "\n]}\n")


if __name__ == "__main__":
    main()
