//! Matrices left in a mapped file, as it stores them: rows are made `f32` when they are needed.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;

use half::f16;

use super::map::Map;

/// Bytes of a file that are read at a time before their pages are let go of.
const STEP: usize = 16 << 20;

/// One tensor's place in the file. Who makes one has checked that it lies in it, quantised blocks on a boundary that
/// suits them.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) kind: GgmlDType,
    pub(super) rows: usize,
    /// Numbers of a row: a multiple of the block's.
    pub(super) width: usize,
    /// Rows of one head, where the file has its two halves interleaved.
    pub(super) interleaved: Option<usize>,
}

impl Place {
    /// Bytes of one row.
    fn stride(&self) -> usize {
        self.width / self.kind.block_size() * self.kind.type_size()
    }

    /// Where a row of the model lies in the file. llama.cpp turns neighbouring pairs of a head where Hugging Face's
    /// models turn its halves against each other, so its converter puts row `i` of half `j` at `2 i + j`.
    fn row(&self, row: usize) -> usize {
        let Some(head) = self.interleaved else { return row };
        let (first, within) = (row - row % head, row % head);
        let half = head / 2;
        first + 2 * (within % half) + within / half
    }

    /// Appends the `f32` values of rows, where the file is what it was.
    fn read(&self, map: &Map, rows: Range<usize>, out: &mut Vec<f32>) -> Option<()> {
        let mut take = |first: usize, count: usize| {
            let bytes =
                map.bytes().get(self.start + first * self.stride()..)?.get(..count * self.stride())?;
            widen(self.kind, bytes, count * self.width, out)
        };
        match self.interleaved {
            None => take(rows.start, rows.len()),
            Some(_) => rows.into_iter().try_for_each(|row| take(self.row(row), 1)),
        }
    }
}

/// Appends the `f32` values of `count` numbers. Whole numbers may lie at any byte: safetensors files promise no boundary.
fn widen(kind: GgmlDType, bytes: &[u8], count: usize, out: &mut Vec<f32>) -> Option<()> {
    match kind {
        GgmlDType::F32 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
        GgmlDType::F16 => {
            out.extend(bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()))
        }
        GgmlDType::BF16 => {
            let upper = |&bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
            out.extend(bytes.as_chunks().0.iter().map(upper));
        }
        quantised => match quantised.from_data(Cow::Borrowed(bytes)).dequantize(count).ok()? {
            CpuStorage::F32(values) => out.extend_from_slice(&values),
            _ => return None,
        },
    }
    Some(())
}

/// A matrix in the file, or several of the same width, one below the other.
#[derive(Clone, Debug)]
pub struct Stored {
    map: Arc<Map>,
    parts: Vec<Place>,
    width: usize,
}

impl Stored {
    pub(super) fn new(map: Arc<Map>, parts: Vec<Place>) -> Self {
        let width = parts.first().map_or(0, |part| part.width);
        Self { map, parts, width }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where its parts lie in memory once they are read, and their bytes.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let base = self.map.bytes().as_ptr().addr();
        self.parts.iter().map(move |part| (base + part.start, part.rows * part.stride()))
    }

    /// Lets go of the memory that its pages take; they come back when they are read.
    pub(crate) fn forget(&self) {
        self.parts.iter().for_each(|part| self.map.forget(part.start, part.rows * part.stride()));
    }

    /// All values, row-major; none of the file's pages stay.
    pub(super) fn values(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rows() * self.width);
        let step = (STEP / (self.width.max(1) * size_of::<f32>())).max(1);
        for first in (0..self.rows()).step_by(step) {
            self.read(first..self.rows().min(first + step), &mut values);
            self.forget();
        }
        values
    }

    /// Appends the `f32` values of rows, one after the other.
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) {
        assert!(rows.start <= rows.end && rows.end <= self.rows(), "rows of a stored matrix");
        let end = out.len() + rows.len() * self.width;
        let mut first = 0;
        for part in &self.parts {
            let own = rows.start.max(first)..rows.end.min(first + part.rows);
            if own.start < own.end && part.read(&self.map, own.start - first..own.end - first, out).is_none()
            {
                break; // not with the checks made while loading; a loss that is no number would show it
            }
            first += part.rows;
        }
        out.resize(end, f32::NAN);
    }
}
