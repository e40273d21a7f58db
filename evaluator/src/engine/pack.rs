//! Packing: examples as flat rows without padding, and their cut into tasks.

use std::ops::Range;

use super::read_out::Head;
use crate::backbone::{Backbone, Decoder, Given, Place, Rows};

/// One tokenised example, without prompt rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Row of `ids` that a read-out of label words reads; the similarity read-out does not look at it.
    pub read_out: usize,
}

/// The prompt's place in every example, and what stands there before anything is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Text rows before the prompt: 1 where the tokenizer puts a special token first, else 0.
    pub(crate) lead: usize,
    /// Token ids before anything is added; `None` is a zero word.
    pub(crate) ids: Vec<Option<u32>>,
    /// Whether these rows have outputs, which a decoder sees: in `add`.
    pub(crate) outputs: bool,
}

impl Slots {
    pub(crate) fn place(&self) -> Place {
        Place { lead: self.lead, rows: self.ids.len() }
    }
}

/// Packed examples.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Each example's text rows.
    pub(crate) spans: Vec<Range<usize>>,
    /// Each example's read-out row, from its span's start.
    pub(crate) picks: Vec<usize>,
    /// Embedded text rows, `[rows, hidden]`.
    pub(crate) text: Vec<f32>,
    /// Embedded prompt rows of one example, `[n, hidden]`: the same for all.
    pub(crate) prompt: Vec<f32>,
    pub(crate) place: Place,
    /// What a decoder is given, in the same order.
    pub(crate) given: Option<Box<Batch>>,
}

/// A few consecutive examples of a batch.
pub(crate) struct Group {
    pub(crate) examples: Range<usize>,
    /// Their rows, from the first one's.
    pub(crate) spans: Vec<Range<usize>>,
    /// Their decoder's rows likewise.
    given: Vec<Range<usize>>,
}

impl Batch {
    /// Embeds `examples` with the prompt's slots at their place.
    pub(crate) fn embed(backbone: &Backbone, head: &Head, examples: &[Tokens], slots: &Slots) -> Self {
        let place = slots.place();
        let mut batch = Self { place, ..Self::default() };
        for example in examples {
            let start = batch.spans.last().map_or(0, |span| span.end);
            batch.spans.push(start..start + example.ids.len());
            batch.picks.push(head.row(example));
            let tokens = example.ids.iter().enumerate().map(|(row, &id)| (Some(id), place.text(row)));
            backbone.embed(tokens, &mut batch.text);
        }
        let prompt = slots.ids.iter().enumerate().map(|(row, &id)| (id, place.prompt(row)));
        backbone.embed(prompt, &mut batch.prompt);
        batch.given = head.decoder(backbone).map(|(decoder, mask)| {
            let ids = examples.iter().map(|example| given(decoder.given, mask, example, slots));
            Box::new(Self::given(backbone, decoder, ids))
        });
        batch
    }

    /// Embeds what a decoder is given.
    fn given(
        backbone: &Backbone,
        decoder: &Decoder,
        sequences: impl Iterator<Item = (Vec<Option<u32>>, usize)>,
    ) -> Self {
        let mut batch = Self::default();
        for (ids, pick) in sequences {
            let start = batch.rows();
            batch.spans.push(start..start + ids.len());
            batch.picks.push(pick);
            let tokens = ids.into_iter().enumerate().map(|(row, id)| (id, row));
            decoder.embeddings.embed(backbone.hidden(), tokens, &mut batch.text);
        }
        batch
    }

    /// The lengths of `examples` alone: what a cut needs.
    pub(crate) fn of_lengths(examples: &[Tokens], place: Place) -> Self {
        let mut spans = Vec::with_capacity(examples.len());
        let mut start = 0;
        for tokens in examples {
            spans.push(start..start + tokens.ids.len());
            start += tokens.ids.len();
        }
        Self { spans, place, ..Self::default() }
    }

    /// [`Self::groups`] with their spans.
    pub(crate) fn cut(&self, range: Range<usize>, extra: usize, limit: usize) -> Vec<Group> {
        self.grouped(self.groups(range, extra, limit))
    }

    /// Groups with their spans.
    pub(crate) fn grouped(&self, groups: Vec<Range<usize>>) -> Vec<Group> {
        let group = |examples: Range<usize>| Group {
            spans: self.group_spans(&examples),
            given: self.given.as_ref().map(|given| given.group_spans(&examples)).unwrap_or_default(),
            examples,
        };
        groups.into_iter().map(group).collect()
    }

    /// What a decoder is given for all examples.
    pub(crate) fn all_given(&self) -> Option<Rows<'_>> {
        self.given.as_deref().map(|given| Rows {
            text: &given.text,
            spans: &given.spans,
            picks: &given.picks,
        })
    }

    /// What a decoder is given for a group.
    pub(crate) fn group_given<'a>(&'a self, group: &'a Group, hidden: usize) -> Option<Rows<'a>> {
        let given = self.given.as_deref()?;
        let rows = given.group_rows(&group.examples);
        Some(Rows {
            text: &given.text[rows.start * hidden..rows.end * hidden],
            spans: &group.given,
            picks: &given.picks[group.examples.clone()],
        })
    }

    /// Text rows of all examples.
    pub(crate) fn rows(&self) -> usize {
        self.spans.last().map_or(0, |span| span.end)
    }

    /// Consecutive examples of `range` in groups of at most `limit` rows (one example at least); `extra` rows are
    /// counted for each example beside its text.
    pub(crate) fn groups(&self, range: Range<usize>, extra: usize, limit: usize) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut rows = 0;
        for example in range {
            let own = self.spans[example].len() + extra;
            match groups.last_mut() {
                Some(group) if rows + own <= limit => group.end = example + 1,
                _ => {
                    groups.push(example..example + 1);
                    rows = 0;
                }
            }
            rows += own;
        }
        groups
    }

    /// Rows of a group of examples, in `text`.
    pub(crate) fn group_rows(&self, group: &Range<usize>) -> Range<usize> {
        self.spans[group.start].start..self.spans[group.end - 1].end
    }

    /// A group's spans, counted from its own first row.
    pub(crate) fn group_spans(&self, group: &Range<usize>) -> Vec<Range<usize>> {
        let first = self.spans[group.start].start;
        self.spans[group.clone()].iter().map(|span| span.start - first..span.end - first).collect()
    }
}

/// What a decoder is given for an example, and the row that is read.
fn given(given: Given, mask: u32, example: &Tokens, slots: &Slots) -> (Vec<Option<u32>>, usize) {
    let start = match given {
        Given::Mask(start) => return (vec![Some(start), Some(mask)], 1),
        Given::Shifted(start) => start,
    };
    let (before, after) = example.ids.split_at(slots.lead.min(example.ids.len()));
    let text = |ids: &[u32]| ids.iter().map(|&id| Some(id)).collect::<Vec<_>>();
    let prompt: &[Option<u32>] = if slots.outputs { &slots.ids } else { &[] };
    let mut ids = [vec![Some(start)], text(before), prompt.to_vec(), text(after)].concat();
    ids.pop();
    let place = Place { lead: slots.lead, rows: prompt.len() };
    (ids, place.text(example.read_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_to_the_limit_and_lose_no_example() {
        let spans = vec![0..5, 5..9, 9..30, 30..31];
        let batch = Batch { spans, ..Batch::default() };
        assert_eq!(batch.groups(0..4, 2, 13), vec![0..2, 2..3, 3..4]);
        assert_eq!(batch.groups(1..4, 0, 100), vec![1..4]);
        assert!(batch.groups(2..2, 0, 100).is_empty());
        assert_eq!(batch.group_spans(&(1..3)), vec![0..4, 4..25]);
    }
}
