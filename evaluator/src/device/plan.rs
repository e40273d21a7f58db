//! Which rows a block's attention reads, asks for and leaves, as index tensors.
//!
//! Rows are packed: the text rows of all candidates, then the prompt rows of all candidates. At the first layer that is
//! run the text is the same for all, so its rows are there once. A *sequence* is what one query sees at most: an
//! example of one candidate, or, where prompts never see the text, one candidate's prompt and what stands before it.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::look::{Asked, Look, Row, Sequence, index};
use crate::backbone::{Place, Wanted};

/// The prompt's part of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// Rows of each example, in `add`; or no prompt.
    Rows,
    /// Rows that all examples share, in `add` in a causal model.
    Shared,
    /// Keys and values alone, in `prefix`.
    Prefix,
}

/// How the rows of a chunk lie: `candidates` times the same examples.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    pub(super) device: &'a Device,
    pub(super) candidates: usize,
    /// Each example's text rows, from the chunk's first one's.
    pub(super) spans: &'a [Range<usize>],
    pub(super) place: Place,
    pub(super) own: Own,
    /// Whether the text rows are there once for all candidates.
    pub(super) text_shared: bool,
    /// Whether each candidate has a prefix of its own.
    pub(super) prefix_each: bool,
}

/// What one layer needs to know of its rows.
pub(super) struct Plan {
    pub(super) look: Look,
    /// Of a decoder: what its rows see of the encoder's.
    pub(super) across: Option<Look>,
    /// Rows of the input that are wanted; `None` is all in their order.
    pub(super) rows: Option<Tensor>,
    /// Position of each row of the input, and of each wanted one.
    pub(super) positions: Tensor,
    pub(super) wanted_positions: Tensor,
    /// Whether queries are made of the wanted rows alone.
    pub(super) wanted_ask: bool,
    /// Whether the prompt's rows ask.
    pub(super) prompt_asks: bool,
}

impl Plan {
    /// Numbers that this holds on the device by now.
    pub(super) fn numbers(&self) -> usize {
        let across = self.across.as_ref().map_or(0, Look::numbers);
        let rows = self.rows.as_ref().map_or(0, Tensor::elem_count);
        let positions = self.positions.elem_count() + self.wanted_positions.elem_count();
        rows + positions + self.look.numbers() + across
    }

    /// The wanted rows of a layer's input.
    pub(super) fn wanted(&self, rows: &Tensor) -> Result<Tensor> {
        self.rows.as_ref().map_or_else(|| Ok(rows.clone()), |index| rows.index_select(index, 0))
    }
}

impl Layout<'_> {
    /// Text rows of one candidate.
    pub(super) fn text(&self) -> usize {
        self.spans.last().map_or(0, |span| span.end)
    }

    /// Prompt rows of one candidate.
    pub(super) fn prompt(&self) -> usize {
        match self.own {
            Own::Rows => self.spans.len() * self.place.rows,
            Own::Shared => self.place.rows,
            Own::Prefix => 0,
        }
    }

    /// For a layer of which `wanted` rows are; `known` where the text's queries are there already.
    pub(super) fn plan(&self, wanted: Wanted<'_>, known: bool) -> Result<Plan> {
        let sequences = self.sequences(wanted);
        let asked = self.asked(&sequences);
        let all = matches!(wanted, Wanted::All);
        let wanted_ask = !all && !known;
        let key = |candidate: usize, row: Row| self.at(candidate, row);
        let query =
            |i: usize, asked: &Asked| if wanted_ask { i } else { self.at(asked.candidate, asked.row) };
        let look = Look::new((self.device, self.candidates), &sequences, &asked, key, query)?;
        let as_they_are = all && (!self.text_shared || self.candidates == 1);
        let rows = || index(self.device, asked.iter().map(|asked| self.at(asked.candidate, asked.row)));
        let position = |asked: &Asked| sequences[asked.sequence].asking[asked.slot].1;
        Ok(Plan {
            rows: if as_they_are { None } else { Some(rows()?) },
            positions: index(self.device, self.positions())?,
            wanted_positions: index(self.device, asked.iter().map(position))?,
            wanted_ask,
            prompt_asks: all,
            look,
            across: None,
        })
    }

    /// For a decoder's `wanted` rows over the rows that an encoder with the layout `encoder` has left.
    pub(super) fn across(&self, encoder: &Layout<'_>, wanted: Wanted<'_>) -> Result<Look> {
        let mut sequences = self.sequences(wanted);
        for (example, sequence) in sequences.iter_mut().enumerate() {
            sequence.keys = encoder.keys(example).filter(|row| !matches!(row, Row::Prefix(_))).collect();
        }
        let asked = self.asked(&sequences);
        let key = |candidate: usize, row: Row| encoder.at(candidate, row);
        Look::new((self.device, self.candidates), &sequences, &asked, key, |i, _| i)
    }

    /// Index of a candidate's row among those of all; a prefix stands behind them.
    fn at(&self, candidate: usize, row: Row) -> usize {
        let copies = if self.text_shared { 1 } else { self.candidates };
        let behind = copies * self.text();
        match row {
            Row::Text(row) if self.text_shared => row,
            Row::Text(row) => candidate * self.text() + row,
            Row::Prompt(row) => behind + candidate * self.prompt() + row,
            Row::Prefix(row) if self.prefix_each => behind + candidate * self.place.rows + row,
            Row::Prefix(row) => behind + row,
        }
    }

    /// Position of each row of the input.
    fn positions(&self) -> impl Iterator<Item = usize> {
        let copies = if self.text_shared { 1 } else { self.candidates };
        let text = self.spans.iter().flat_map(|span| (0..span.len()).map(|row| self.place.text(row)));
        let text: Vec<usize> = text.collect();
        let prompt = (0..self.candidates * self.prompt()).map(|row| self.place.prompt(row % self.place.rows));
        text.repeat(copies).into_iter().chain(prompt)
    }

    /// An example's keys in the order of their positions.
    fn keys(&self, example: usize) -> impl Iterator<Item = Row> {
        let Place { lead, rows } = self.place;
        let span = self.spans[example].clone();
        let prompt = (0..rows).map(move |row| match self.own {
            Own::Rows => Row::Prompt(example * rows + row),
            Own::Shared => Row::Prompt(row),
            Own::Prefix => Row::Prefix(row),
        });
        let (before, after) = (span.clone().take(lead), span.skip(lead));
        before.map(Row::Text).chain(prompt).chain(after.map(Row::Text))
    }

    /// The sequences of one candidate.
    fn sequences(&self, wanted: Wanted<'_>) -> Vec<Sequence> {
        let asks = |row: &Row| match (row, wanted) {
            (Row::Text(_), _) => true,
            (Row::Prompt(_), Wanted::All) => self.own == Own::Rows,
            _ => false,
        };
        let of_example = |(example, span): (usize, &Range<usize>)| {
            let keys: Vec<Row> = self.keys(example).collect();
            let asking = match wanted {
                Wanted::One(picks) => {
                    vec![(Row::Text(span.start + picks[example]), self.place.text(picks[example]))]
                }
                _ => keys.iter().copied().zip(0..).filter(|(row, _)| asks(row)).collect(),
            };
            Sequence { keys, asking }
        };
        let mut sequences: Vec<Sequence> = self.spans.iter().enumerate().map(of_example).collect();
        if self.own == Own::Shared && matches!(wanted, Wanted::All) && self.place.rows > 0 {
            // every example begins with the same rows: the first one's are as good as any
            let keys: Vec<Row> = self.keys(0).take(self.place.lead + self.place.rows).collect();
            let asking = keys.iter().copied().zip(0..).skip(self.place.lead).collect();
            sequences.push(Sequence { keys, asking });
        }
        sequences
    }

    /// The rows that ask: those of the text of all candidates, then those of their prompts.
    fn asked(&self, sequences: &[Sequence]) -> Vec<Asked> {
        let of = |text: bool| {
            let of_candidate = move |candidate: usize| {
                let of_sequence = move |(number, sequence): (usize, &Sequence)| {
                    let asking = sequence.asking.iter().enumerate();
                    let asked = asking.filter(|(_, (row, _))| matches!(row, Row::Text(_)) == text);
                    let asked =
                        asked.map(|(slot, &(row, _))| Asked { candidate, sequence: number, slot, row });
                    asked.collect::<Vec<Asked>>()
                };
                sequences.iter().enumerate().flat_map(of_sequence)
            };
            (0..self.candidates).flat_map(of_candidate)
        };
        of(true).chain(of(false)).collect()
    }
}
