//! Floating-point operations that the engine's matrix products need; a multiplication and an addition count two.
//!
//! Counted as the work is, not as it might be cut: what tasks of one candidate repeat of a shared prompt counts once.
//! Scores that a mask hides are computed, so they count. Norms, activations and softmax do not: they are no products.
//! docs/engine.md has the same as formulas.

use std::ops::Range;

use super::Injection;
use super::forward::Pass;
use super::pack::Batch;
use super::read_out::{Head, Reads};
use crate::backbone::{Block, Linear};

/// The work of one engine: its model, its examples, its way of injection.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) pass: Pass<'a>,
    pub(super) batch: &'a Batch,
    pub(super) injection: Injection,
}

/// Rows that the linear layers of one block are run on, over all examples.
#[derive(Clone, Copy, Debug)]
struct Rows {
    /// Projected to keys and values.
    keys: usize,
    /// Projected to queries.
    queries: usize,
    /// That have an output.
    read: usize,
}

impl Work<'_> {
    /// One candidate of `layer` on all examples: from its prompt to its logits.
    pub(super) fn candidate(self, layer: usize) -> f64 {
        let blocks = &self.pass.backbone.blocks;
        let (block, n) = (&blocks[layer], self.batch.place.rows);
        let own = match self.injection {
            // what the prompt adds to its rows' projections; where no output of theirs is read, neither are queries
            Injection::Add if self.linear(block) => {
                let queries = if self.prompt_read(layer + 1 == blocks.len()) > 0 { n } else { 0 };
                linear(&block.query, queries) + linear(&block.key_value, n)
            }
            Injection::Add => 0.0,
            // the prompt's keys and values; those of the layers above are the context's
            Injection::Prefix => linear(&block.key_value, n),
        };
        let above = (layer..blocks.len()).map(|l| self.block(l, l == layer, l + 1 == blocks.len()));
        own + above.sum::<f64>() + self.decoder() + self.head()
    }

    /// Bringing the cached context from the layer below to `layer`, once for all candidates.
    pub(super) fn context(self, layer: usize) -> f64 {
        let up = if layer > 0 { self.block(layer - 1, false, false) } else { 0.0 };
        let block = &self.pass.backbone.blocks[layer];
        let prompt = if self.linear(block) { self.prompt_rows() } else { 0 };
        let rows = self.batch.rows() + prompt;
        up + linear(&block.query, rows) + linear(&block.key_value, rows)
    }

    /// Whether the prompt rows' projections at a tuned layer are the sum of the context's part and the prompt's.
    fn linear(self, block: &Block) -> bool {
        self.injection == Injection::Add && !self.shared() && block.is_linear()
    }

    fn examples(self) -> usize {
        self.batch.spans.len()
    }

    /// Whether all examples share the prompt's rows.
    fn shared(self) -> bool {
        self.injection == Injection::Add && self.pass.backbone.is_causal()
    }

    /// Prompt rows that are rows like any others, over all examples.
    fn prompt_rows(self) -> usize {
        let examples = if self.shared() { 1 } else { self.examples() };
        if self.injection == Injection::Add { examples * self.batch.place.rows } else { 0 }
    }

    /// Prompt rows whose outputs are read, after the last block or another.
    fn prompt_read(self, last: bool) -> usize {
        match self.pass.head.reads() {
            Reads::One | Reads::Text if last => 0,
            _ => self.prompt_rows(),
        }
    }

    /// One block of the backbone; at the tuned layer the text rows' projections are `known`, and `last` is the one that
    /// the read-out reads.
    fn block(self, layer: usize, known: bool, last: bool) -> f64 {
        let block = &self.pass.backbone.blocks[layer];
        let text = self.batch.rows();
        let prompt_read = self.prompt_read(last);
        let read = if last && self.pass.head.reads() == Reads::One { self.examples() } else { text };
        let (text_keys, text_queries) = if known { (0, 0) } else { (text, read) };
        let linear = known && self.linear(block);
        let (prompt_keys, prompt_queries) = if linear { (0, 0) } else { (self.prompt_rows(), prompt_read) };
        let rows = Rows {
            keys: text_keys + prompt_keys,
            queries: text_queries + prompt_queries,
            read: read + prompt_read,
        };
        linears(block, rows) + self.scores(block, read < text, prompt_read > 0)
    }

    /// Attention of one block: of `one` row an example or all, and of the prompt's rows where they are read.
    fn scores(self, block: &Block, one: bool, prompt_read: bool) -> f64 {
        let n = self.batch.place.rows;
        let own = if prompt_read && !self.shared() { n } else { 0 };
        let of_example = |span: &Range<usize>| {
            let text = if one { 1 } else { span.len() };
            attention(block, text + own, span.len() + n)
        };
        let examples: f64 = self.batch.spans.iter().map(of_example).sum();
        let of_shared = self.shared() && prompt_read;
        examples + if of_shared { attention(block, n, self.batch.place.lead + n) } else { 0.0 }
    }

    /// The decoder's blocks, where the read-out runs one: every candidate's, from the embeddings.
    fn decoder(self) -> f64 {
        let Some((decoder, _)) = self.pass.head.decoder(self.pass.backbone) else { return 0.0 };
        let Some(given) = self.batch.given.as_deref() else { return 0.0 };
        let of_block = |(index, block): (usize, &Block)| {
            let last = index + 1 == decoder.blocks.len();
            let queries = |span: &Range<usize>| if last { 1 } else { span.len() };
            let read = given.spans.iter().map(queries).sum();
            let rows = Rows { keys: given.rows(), queries: read, read };
            let own = given.spans.iter().map(|span| attention(block, queries(span), span.len()));
            linears(block, rows) + own.sum::<f64>() + self.cross(block, read, |i| queries(&given.spans[i]))
        };
        decoder.blocks.iter().enumerate().map(of_block).sum()
    }

    /// Attention of `read` rows of a decoder's block, `queries` of each example, over the encoder's output.
    fn cross(self, block: &Block, read: usize, queries: impl Fn(usize) -> usize) -> f64 {
        let Some(cross) = &block.cross else { return 0.0 };
        let prompt = self.prompt_rows() / self.examples().max(1);
        let scores = self.batch.spans.iter().enumerate();
        let scores = scores
            .map(|(i, span)| 4.0 * (queries(i) * (span.len() + prompt) * cross.heads.query_width()) as f64);
        linear(&cross.query, read)
            + linear(&cross.key_value, self.batch.rows() + self.prompt_rows())
            + linear(&cross.output, read)
            + scores.sum::<f64>()
    }

    fn head(self) -> f64 {
        match self.pass.head {
            Head::Words { head, labels, .. } => {
                let transform = head.transform.as_ref();
                transform.map_or(0.0, |transform| linear(&transform.dense, self.examples()))
                    + linear(labels, self.examples())
            }
            Head::Similarity { classes, .. } => {
                2.0 * (self.examples() * classes.outputs() * classes.depth()) as f64
            }
        }
    }
}

/// A block's linear layers; a gated feed-forward's gate is a part of `up`.
fn linears(block: &Block, rows: Rows) -> f64 {
    let feed_forward = &block.feed_forward;
    let after = [&block.output, &feed_forward.up, &feed_forward.down];
    let after: f64 = after.iter().map(|part| linear(part, rows.read)).sum();
    linear(&block.key_value, rows.keys) + linear(&block.query, rows.queries) + after
}

/// Scores and weighted values of `queries` rows over `keys` rows of one example, positions' products included.
fn attention(block: &Block, queries: usize, keys: usize) -> f64 {
    let content = 2 * queries * keys;
    let positions = block.disentangled.as_ref().map_or(0, |table| table.columns(keys).1 * (queries + keys));
    2.0 * ((content + positions) * block.heads.query_width()) as f64
}

fn linear(linear: &Linear, rows: usize) -> f64 {
    2.0 * (rows * linear.weight.outputs() * linear.weight.depth()) as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::backbone::Backbone;
    use crate::engine::Injection;
    use crate::engine::tiny::{PROMPT, backbone, engine};
    use crate::kernel::counted;

    /// Every layer's count against the products that are seen to run.
    fn check(backbone: Arc<Backbone>, read_out: &str, injection: Injection, at: &str) {
        let mut engine = engine(Arc::clone(&backbone), read_out, injection, true);
        let prompt = vec![vec![0.1; PROMPT * backbone.hidden()]];
        for layer in 0..backbone.layers() {
            counted::take();
            engine.evaluate(layer, &[], 0..3).unwrap();
            assert_eq!(counted::take() as f64, engine.context_flops(layer), "context, {at} layer {layer}");
            engine.evaluate(layer, &prompt, 0..3).unwrap();
            assert_eq!(counted::take() as f64, engine.flops(layer), "candidate, {at} layer {layer}");
            engine.set_prompt(layer, &prompt[0]).unwrap(); // the rows below it stay as they are
        }
    }

    #[test]
    fn equal_what_the_products_are_seen_to_do_in_every_family() {
        let encoders = ["bert", "roberta", "deberta-v3", "modernbert"];
        let causal = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"];
        let names = encoders.into_iter().chain(causal).chain(["bart", "cpt", "t5", "t5v11"]);
        for name in names {
            let backbone = Arc::new(backbone(&format!("{name}-tiny")));
            for (injection, read_out) in [Injection::Add, Injection::Prefix]
                .into_iter()
                .flat_map(|injection| backbone.read_outs().iter().map(move |read_out| (injection, read_out)))
            {
                let (backbone, at) = (Arc::clone(&backbone), format!("{name} {read_out} {injection:?}"));
                // a thread can be a pool's own only once
                let done = std::thread::spawn(move || check(backbone, read_out, injection, &at)).join();
                done.unwrap();
            }
        }
    }
}
