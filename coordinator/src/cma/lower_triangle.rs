//! Writes a symmetric matrix as its lower triangle, column after column: half the bytes of a checkpoint.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) fn serialize<S: Serializer>(matrix: &[f64], to: S) -> Result<S::Ok, S::Error> {
    let n = matrix.len().isqrt();
    let columns = matrix.chunks_exact(n.max(1)).enumerate();
    let packed: Vec<f64> = columns.flat_map(|(j, column)| column.iter().skip(j).copied()).collect();
    packed.serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    let packed = Vec::<f64>::deserialize(from)?;
    let n = (2 * packed.len()).isqrt(); // n (n + 1) / 2 entries
    if n == 0 || n > super::MAX_DIM || n * (n + 1) / 2 != packed.len() {
        return Err(D::Error::custom(format!("{} entries are no triangle of a matrix", packed.len())));
    }
    let mut matrix = vec![0.0; n * n];
    let mut entries = packed.into_iter();
    for (j, column) in matrix.chunks_exact_mut(n).enumerate() {
        column.iter_mut().skip(j).zip(entries.by_ref()).for_each(|(c, entry)| *c = entry);
    }
    Ok(matrix)
}
