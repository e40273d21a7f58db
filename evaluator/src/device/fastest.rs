//! How many rows in flight a device wants: what a token budget of `auto` is on it.

use std::time::Instant;

use candle_core::{Result, Tensor};
use tracing::debug;

use super::block::{Input, Next};
use super::engine::DeviceEngine;
use super::peak::wait_for;
use super::plan::{Layout, Own};
use crate::backbone::{Block, Wanted};
use crate::engine::timing::{WORTH, fewest};

/// Rows in flight that are tried, from the least on.
const SIZES: [usize; 6] = [4096, 8192, 16384, 32768, 65536, 131_072];

/// Passes that are timed, after one that is not.
const TIMES: usize = 3;

impl DeviceEngine {
    /// The fewest rows in flight with which the middle block is about as fast as with any, as far as they fit; `None`
    /// without examples, or where not even the fewest do. Nothing but time depends on it.
    pub(crate) fn fastest_rows(&self) -> Option<usize> {
        let sizes = SIZES.into_iter().filter(|&rows| rows <= self.most_rows());
        if self.host().train().is_empty() {
            return None;
        }
        choose(sizes, |rows| {
            let seconds =
                self.seconds_a_row(rows).inspect_err(|error| debug!("{rows} rows: {error}")).ok()?;
            debug!("{rows} rows in flight: {:.1} ns each", 1e9 * seconds);
            Some(seconds)
        })
    }

    /// Rows in flight at most: kernels count the numbers of a tensor in 32 bits.
    pub(crate) fn most_rows(&self) -> usize {
        let widest = |block: &Block| {
            let (wide, keys) = (block.feed_forward.up.weight.outputs(), 2 * block.heads.key_width());
            wide.max(keys).max(block.heads.query_width()).max(block.heads.queries * self.host().longest())
        };
        let backbone = &self.host().backbone;
        let blocks =
            backbone.blocks.iter().chain(backbone.decoder.iter().flat_map(|decoder| &decoder.blocks));
        i32::MAX as usize / blocks.map(widest).max().unwrap_or(1).max(backbone.hidden())
    }

    /// Seconds that the middle block takes a row with about `limit` rows: some candidates with some examples.
    fn seconds_a_row(&self, limit: usize) -> Result<f64> {
        let host = self.host();
        let groups = host.batch.grouped(self.cut(&host.batch, 0..host.train().len(), limit));
        let Some(group) = groups.first() else { return Ok(f64::INFINITY) };
        let padded = group.spans.len() * self.longest(&host.batch, &group.examples);
        let candidates = (limit / padded.max(1)).max(1);
        let layout = Layout { text_shared: false, ..self.layout(host.batch.place, &group.spans, candidates) };
        let start = self.bottom()?.slice(&host.batch, &group.examples)?;
        let rows = match &start.prompt {
            Some(prompt) => Tensor::cat(&[&start.text, prompt], 0)?,
            None => start.text,
        };
        // which rows are whose does not matter to the time they take
        let rows = rows.repeat((candidates, 1))?;
        let middle = host.backbone.layers() / 2;
        let prefix = self.deep.get(middle).filter(|_| layout.own == Own::Prefix);
        let input = Input { prefix, ..Input::of(&rows) };
        let plan = layout.plan(Wanted::All, false)?;
        let block = &self.backbone.blocks[middle];
        wait_for(&block.forward(input, &plan, Next::default())?.stream)?;
        let began = Instant::now();
        for _ in 0..TIMES {
            wait_for(&block.forward(input, &plan, Next::default())?.stream)?;
        }
        Ok(began.elapsed().as_secs_f64() / (TIMES * rows.dim(0)?) as f64)
    }
}

/// Of sizes that rise, the least that is about as fast a row as any. None is tried after one that is hardly faster than
/// that before, or that there is no measure of.
fn choose(
    sizes: impl Iterator<Item = usize>,
    mut measure: impl FnMut(usize) -> Option<f64>,
) -> Option<usize> {
    let (mut tried, mut measured): (Vec<usize>, Vec<f64>) = Default::default();
    for size in sizes {
        let Some(seconds) = measure(size) else { break };
        let before = measured.last().copied();
        tried.push(size);
        measured.push(seconds);
        if before.is_some_and(|before| seconds >= before * (1.0 - WORTH)) {
            break;
        }
    }
    fewest(&tried, &measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen of sizes that take so long a row, and how many are tried.
    fn chosen(seconds: &[Option<f64>]) -> (Option<usize>, usize) {
        let mut tried = 0;
        let size = choose(1..=seconds.len(), |size| {
            tried += 1;
            seconds[size - 1]
        });
        (size, tried)
    }

    #[test]
    fn a_larger_size_is_taken_where_it_is_faster_and_fits() {
        let some = |seconds: &[f64]| seconds.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(chosen(&some(&[8.0, 4.0, 2.0])), (Some(3), 3));
        assert_eq!(chosen(&some(&[8.0, 4.0, 3.9, 1.0])), (Some(2), 3), "hardly faster: no further");
        assert_eq!(chosen(&some(&[8.0, 9.0, 1.0])), (Some(1), 2), "slower: no further");
        assert_eq!(
            chosen(&some(&[8.0, 7.7, 7.4])),
            (Some(3), 3),
            "each by a little more than what it is worth"
        );
        assert_eq!(chosen(&[Some(8.0), Some(4.0), None, Some(1.0)]), (Some(2), 3), "no memory: no further");
        assert_eq!(chosen(&[None, Some(1.0)]), (None, 1));
        assert_eq!(chosen(&[]), (None, 0));
    }
}
