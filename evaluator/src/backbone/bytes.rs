//! Bytes that a backbone's weights take in memory, in the mapped file too. Structures are taken apart by all their fields, so that a new one
//! cannot be forgotten; tables that several layers share count once.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::choices::{FeedForward, Linear, Norm, Norms, Relative};
use super::disentangled::Disentangled;
use super::weight::{Table, Weight};
use super::{Backbone, Block, Decoder, Embeddings, LmHead, Positions, Transform};
use crate::backbone::cross::Cross;
use crate::models::gguf::Stored;

/// The sum so far, and the shared tables in it.
#[derive(Default)]
struct Count {
    bytes: usize,
    seen: BTreeSet<usize>,
    /// Places in a GGUF file that are in the sum.
    mapped: BTreeSet<usize>,
}

impl Backbone {
    /// Bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        let Self { sizes: _, embeddings, blocks, final_norm, head, decoder, pooling: _ } = self;
        let mut count = Count::default();
        count.embeddings(embeddings);
        count.blocks(blocks);
        count.norm(final_norm.as_ref());
        if let Some(LmHead { predicts: _, transform, decoder, bias, scale: _, cap: _ }) = head {
            if let Some(Transform { dense, activation: _, norm }) = transform {
                count.linear(dense);
                count.norm(Some(norm));
            }
            decoder.iter().for_each(|table| count.table(table));
            count.optional(bias.as_ref());
        }
        if let Some(Decoder { given: _, embeddings, blocks, final_norm }) = decoder {
            count.embeddings(embeddings);
            count.blocks(blocks);
            count.norm(final_norm.as_ref());
        }
        count.bytes
    }
}

impl Count {
    fn values<T>(&mut self, values: &[T]) {
        self.bytes += size_of_val(values);
    }

    fn optional(&mut self, values: Option<&Vec<f32>>) {
        self.values(values.map_or(&[], Vec::as_slice));
    }

    fn shared<T>(&mut self, values: &Arc<Vec<T>>) {
        if self.seen.insert(Arc::as_ptr(values).addr()) {
            self.values(values);
        }
    }

    fn table(&mut self, table: &Table) {
        match table {
            Table::Dense(values) => self.shared(values),
            Table::Stored(stored) => self.stored(stored),
        }
    }

    fn stored(&mut self, stored: &Stored) {
        for (start, bytes) in stored.places() {
            if self.mapped.insert(start) {
                self.bytes += bytes;
            }
        }
    }

    fn linear(&mut self, linear: &Linear) {
        let Linear { weight, bias } = linear;
        match weight {
            Weight::Packed(packed) => self.bytes += packed.bytes(),
            Weight::Bf16(packed) => self.bytes += packed.bytes(),
            Weight::Int8(packed) => self.bytes += packed.bytes(),
            Weight::Stored(stored) => self.stored(stored),
        }
        self.optional(bias.as_ref());
    }

    fn norm(&mut self, norm: Option<&Norm>) {
        let Some(Norm { kind: _, weight, bias, eps: _ }) = norm else { return };
        self.values(weight);
        self.values(bias);
    }

    fn norms(&mut self, Norms { input, branch, sum }: &Norms) {
        [input, branch, sum].into_iter().for_each(|norm| self.norm(norm.as_ref()));
    }

    fn embeddings(&mut self, embeddings: &Embeddings) {
        let Embeddings { word, scale: _, position, token_type, norm } = embeddings;
        self.table(word);
        self.optional(position.as_ref().map(|Positions { table, first: _ }| table));
        self.optional(token_type.as_ref());
        self.norm(norm.as_ref());
    }

    fn blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            let Block {
                heads: _,
                query,
                key_value,
                query_norm,
                key_norm,
                rotary: _, // angles are worked out when a position is met
                relative,
                disentangled,
                output,
                attention_norms,
                cross,
                feed_forward: FeedForward { up, gated: _, activation: _, down },
                feed_forward_norms,
            } = block;
            [query, key_value, output, up, down].into_iter().for_each(|linear| self.linear(linear));
            self.norm(query_norm.as_ref());
            self.norm(key_norm.as_ref());
            relative.iter().map(Relative::table).for_each(|table| self.shared(table));
            if let Some(disentangled) = disentangled {
                self.disentangled(disentangled);
            }
            self.norms(attention_norms);
            self.norms(feed_forward_norms);
            if let Some(Cross { heads: _, query, key_value, output, norms }) = cross {
                [query, key_value, output].into_iter().for_each(|linear| self.linear(linear));
                self.norms(norms);
            }
        }
    }

    fn disentangled(&mut self, disentangled: &Disentangled) {
        let (rows, keys, queries) = disentangled.tables();
        self.shared(rows);
        self.values(keys);
        self.values(queries);
    }
}
