//! `C^(-1/2) b` for one vector from a few products with C (Lanczos' method): where C is not far from a multiple of the
//! identity, as it is for long when there are many variables, that takes a fraction of a decomposition's time.

use super::axes::Axes;

/// Largest residual, relative to the vector, at which the result is as exact as rounding lets it be.
const RESIDUAL: f64 = 1e-15;

/// `A^(-1/2) b` for a symmetric, positive `A`, given `b -> A b`. `None` when `steps` products do not bring the error to
/// rounding's size: A is too badly conditioned for this way.
///
/// The error is at most `sqrt(cond A)` times the residual of the same Krylov space's solution of `A x = b` (the inverse
/// root is an integral over shifted systems, whose residuals are smaller still), relative to the result.
pub(super) fn inverse_root(
    vector: &[f64],
    steps: usize,
    product: impl Fn(&[f64]) -> Vec<f64>,
) -> Option<Vec<f64>> {
    let norm = dot(vector, vector).sqrt();
    if norm == 0.0 {
        return Some(vec![0.0; vector.len()]);
    }
    // A's image in the space: tridiagonal, `diagonal` and `beside`
    let (mut diagonal, mut beside): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut basis: Vec<Vec<f64>> = vec![vector.iter().map(|v| v / norm).collect()];
    let (mut residual, mut pivot, mut from) = (1.0, 0.0, 0.0);
    for _ in 0..steps {
        let last = basis.last()?;
        let mut next = product(last);
        let here = dot(&next, last);
        // against all of the basis: rounding would otherwise let the first vectors back in
        for known in basis.iter().rev() {
            let share = dot(&next, known);
            subtract(&mut next, share, known);
        }
        let on = dot(&next, &next).sqrt();
        pivot = if diagonal.is_empty() { here } else { here - from * from / pivot };
        if !(pivot > 0.0 && on.is_finite()) {
            return None;
        }
        residual *= on / pivot;
        diagonal.push(here);
        if residual <= RESIDUAL {
            return combine(&basis, &diagonal, &beside, norm);
        }
        beside.push(on);
        from = on;
        next.iter_mut().for_each(|v| *v /= on);
        basis.push(next);
    }
    None
}

/// `norm V T^(-1/2) e_1`, V being the basis.
fn combine(basis: &[Vec<f64>], diagonal: &[f64], beside: &[f64], norm: f64) -> Option<Vec<f64>> {
    let count = diagonal.len();
    let mut image = vec![0.0; count * count];
    for (entry, value) in image.iter_mut().step_by(count + 1).zip(diagonal) {
        *entry = *value;
    }
    for (entry, value) in image.iter_mut().skip(1).step_by(count + 1).zip(beside) {
        *entry = *value;
    }
    let mut first = vec![0.0; count];
    *first.first_mut()? = norm;
    let shares = Axes::of(&image, count)?.whiten(&first);
    let mut sum = vec![0.0; basis.first()?.len()];
    for (share, vector) in shares.iter().zip(basis) {
        subtract(&mut sum, -share, vector);
    }
    Some(sum)
}

/// In eight sums, so that the processor adds them side by side.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        sums.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum += x * y);
    }
    sums.iter().sum::<f64>() + rest
}

fn subtract(from: &mut [f64], times: f64, vector: &[f64]) {
    from.iter_mut().zip(vector).for_each(|(f, v)| *f -= times * v);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A diagonal matrix, whose root needs no decomposition.
    fn root_of_diagonal(entries: &[f64], steps: usize) -> Option<f64> {
        let vector: Vec<f64> = (0..entries.len()).map(|i| 1.0 + (i % 7) as f64).collect();
        let product = |v: &[f64]| v.iter().zip(entries).map(|(v, a)| v * a).collect();
        let found = inverse_root(&vector, steps, product)?;
        let wrong = |((found, v), a): ((&f64, &f64), &f64)| (found * a.sqrt() / v - 1.0).abs();
        Some(found.iter().zip(&vector).zip(entries).map(wrong).fold(0.0, f64::max))
    }

    #[test]
    fn as_exact_as_rounding() {
        let spread = |most: f64| -> Vec<f64> { (0..300).map(|i| most.powf(f64::from(i) / 299.0)).collect() };
        for most in [1.0, 1.01, 1.5, 4.0, 10.0] {
            let wrong = root_of_diagonal(&spread(most), 64).unwrap();
            assert!(wrong < 1e-12, "{most}: {wrong}");
        }
        assert_eq!(root_of_diagonal(&spread(1e6), 64), None);
    }

    #[test]
    fn nothing_stays_nothing() {
        assert_eq!(inverse_root(&[0.0; 3], 5, <[f64]>::to_vec), Some(vec![0.0; 3]));
        assert_eq!(inverse_root(&[f64::NAN; 3], 5, <[f64]>::to_vec), None);
        assert_eq!(inverse_root(&[1.0; 3], 5, |v| v.iter().map(|v| -v).collect()), None, "not positive");
    }
}
