//! Bytes that the engine holds, by sizes alone.

use super::TASK_ROWS;
use crate::backbone::{Backbone, Block};

/// Rows that a task of the cached context's projections has at most.
pub(super) const PROJECTED_ROWS: usize = 256;

/// Bytes of the hidden states of the training examples, embedded and at the cached layer, and of their projections
/// there; of prompt rows at the cached layer alone, and their projections where they are linear.
pub fn cached_bytes(backbone: &Backbone, text_rows: usize, prompt_rows: usize) -> u64 {
    let Some(Widths { hidden, query, keys, .. }) = widths(backbone) else { return 0 };
    let linear = backbone.blocks.first().is_some_and(Block::is_linear);
    let of_prompt = if linear { hidden + query + keys } else { hidden };
    4 * (text_rows * (2 * hidden + query + keys) + prompt_rows * of_prompt) as u64
}

/// Bytes of one row of a task in flight: as it is embedded, enters a block and leaves it, its query, keys and values,
/// what it attends to, what that makes of it, and the feed-forward's inside.
pub fn row_bytes(backbone: &Backbone) -> u64 {
    let Some(Widths { hidden, query, keys, wide }) = widths(backbone) else { return 0 };
    let block = 4 * hidden + 2 * query + keys + wide;
    let normed = if pre_norm(backbone) { 2 * hidden } else { 0 };
    // a decoder's blocks have the encoder's rows as keys and values, and queries of their own for them
    let across = if backbone.decoder.is_some() { keys + 2 * query + 2 * hidden } else { 0 };
    4 * (block + normed + across) as u64
}

/// Pages of a mapped table that an example's tokens bring into memory: around each of some 64 different ones the system
/// maps 64 KiB.
const LOOKED_UP: usize = 64 * (64 << 10);

/// Bytes that a thread holds whatever its task's rows: weights that are made `f32` on the way, a part of the cached
/// context's projections, and what is looked up in a table of words.
pub fn thread_bytes(backbone: &Backbone) -> u64 {
    let Some(Widths { query, keys, .. }) = widths(backbone) else { return 0 };
    let made = |block: &Block| {
        let products = [&block.query, &block.output, &block.feed_forward.down];
        products.map(|linear| linear.weight.product_bytes()).into_iter().max()
    };
    let made = backbone.blocks.first().and_then(made).unwrap_or(0);
    let looked_up = LOOKED_UP.min(backbone.table_bytes());
    (made + looked_up + 4 * PROJECTED_ROWS * (query + keys)) as u64
}

fn pre_norm(backbone: &Backbone) -> bool {
    backbone.blocks.first().is_some_and(|block| block.attention_norms.input.is_some())
}

/// Rows of one task: the token budget shared by the threads.
pub(crate) fn task_rows(max_batch_tokens: usize, threads: usize) -> usize {
    (max_batch_tokens / threads.max(1)).clamp(1, TASK_ROWS)
}

/// Numbers of a row, by what they are.
struct Widths {
    hidden: usize,
    query: usize,
    /// Keys and values.
    keys: usize,
    /// Within the feed-forward.
    wide: usize,
}

fn widths(backbone: &Backbone) -> Option<Widths> {
    let block = backbone.blocks.first()?;
    Some(Widths {
        hidden: block.hidden(),
        query: block.heads.query_width(),
        keys: 2 * block.heads.key_width(),
        wide: block.feed_forward.up.weight.outputs(),
    })
}
