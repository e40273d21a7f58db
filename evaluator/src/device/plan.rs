//! Which rows a block's attention reads, asks for and leaves, as index tensors.
//!
//! Rows are packed: the text rows of all candidates, then the prompt rows of all candidates. At the first layer that is
//! run the text is the same for all, so its rows are there once. A *sequence* is what one query sees at most: an
//! example of one candidate, or, where prompts never see the text, one candidate's prompt and what stands before it.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::block::Relative;
use crate::backbone::{Place, Sight, Wanted};

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

/// A row of one candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    Text(usize),
    Prompt(usize),
    Prefix(usize),
}

/// Keys in the order of their positions, and the rows that ask, with theirs.
#[derive(Default)]
struct Sequence {
    keys: Vec<Row>,
    asking: Vec<(Row, usize)>,
}

/// A row that asks, in the order that wanted rows have.
struct Asked {
    candidate: usize,
    sequence: usize,
    slot: usize,
    row: Row,
}

/// What one layer needs to know of its rows.
pub(super) struct Plan {
    pub(super) look: Look,
    /// Rows of the input that are wanted; `None` is all in their order.
    rows: Option<Tensor>,
    /// Position of each row of the input, and of each wanted one.
    pub(super) positions: Tensor,
    pub(super) wanted_positions: Tensor,
    /// Whether queries are made of the wanted rows alone.
    pub(super) wanted_ask: bool,
    /// Whether the prompt's rows ask.
    pub(super) prompt_asks: bool,
}

impl Plan {
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

/// The padded view of an attention: of `candidates` times `examples` sequences, `asking` queries and `len` keys each.
pub(super) struct Look {
    pub(super) candidates: usize,
    pub(super) examples: usize,
    pub(super) asking: usize,
    pub(super) len: usize,
    /// Rows of the queries, `[sequences * asking]`, and of the keys, `[sequences * len]`; what pads repeats the last.
    pub(super) queries: Tensor,
    pub(super) keys: Tensor,
    /// The wanted rows in the padded view, `[wanted]`.
    pub(super) context: Tensor,
    /// Position of each query of one candidate, `[examples * asking]`, and each sequence's keys.
    stands: Vec<usize>,
    lengths: Vec<usize>,
    device: Device,
    /// Made when a layer first needs them; layers of one plan have the same distances.
    masks: RefCell<Vec<(Sight, Option<Tensor>)>>,
    distances: OnceCell<Tensor>,
}

impl Look {
    fn new(
        (device, candidates): (&Device, usize),
        sequences: &[Sequence],
        asked: &[Asked],
        key: impl Fn(usize, Row) -> usize,
        query: impl Fn(usize, &Asked) -> usize,
    ) -> Result<Self> {
        let (examples, longest) =
            (sequences.len(), |of: fn(&Sequence) -> usize| sequences.iter().map(of).max());
        let len = longest(|sequence| sequence.keys.len()).unwrap_or(0);
        let asking = longest(|sequence| sequence.asking.len()).unwrap_or(0);
        let slot = |asked: &Asked| (asked.candidate * examples + asked.sequence) * asking + asked.slot;
        let mut queries = vec![None; candidates * examples * asking];
        asked.iter().enumerate().for_each(|(i, asked)| queries[slot(asked)] = Some(query(i, asked)));
        let padded = queries.iter().scan(0, |last, query| {
            *last = query.unwrap_or(*last);
            Some(*last)
        });
        let of_candidate = |candidate: usize| {
            let of_sequence = move |sequence: &Sequence| {
                let last = sequence.keys.last().copied().into_iter().cycle();
                sequence.keys.iter().copied().chain(last).take(len).collect::<Vec<Row>>()
            };
            let key = &key;
            sequences.iter().flat_map(of_sequence).map(move |row| key(candidate, row))
        };
        let stand = |sequence: &Sequence| {
            let last = sequence.asking.last().map_or(0, |asking| asking.1);
            (0..asking)
                .map(move |slot| sequence.asking.get(slot).map_or(last, |asking| asking.1))
                .collect::<Vec<_>>()
        };
        Ok(Self {
            candidates,
            examples,
            asking,
            len,
            queries: index(device, padded)?,
            keys: index(device, (0..candidates).flat_map(of_candidate))?,
            context: index(device, asked.iter().map(slot))?,
            stands: sequences.iter().flat_map(stand).collect(),
            lengths: sequences.iter().map(|sequence| sequence.keys.len()).collect(),
            device: device.clone(),
            masks: RefCell::default(),
            distances: OnceCell::new(),
        })
    }

    /// Sequences of all candidates.
    pub(super) fn sequences(&self) -> usize {
        self.candidates * self.examples
    }

    /// `[sequences, heads, asking, len]` as `[candidates, examples, heads, asking, len]`.
    pub(super) fn over_candidates(&self, scores: &Tensor) -> Result<Tensor> {
        scores.reshape((self.candidates, self.examples, (), self.asking, self.len))
    }

    /// What is added to scores: nothing where a query sees a key, else minus infinity; `None` where all see all.
    /// `[examples, 1, asking, len]`
    pub(super) fn mask(&self, sight: Sight) -> Result<Option<Tensor>> {
        let known =
            self.masks.borrow().iter().find(|(known, _)| *known == sight).map(|(_, mask)| mask.clone());
        if let Some(mask) = known {
            return Ok(mask);
        }
        let mask = self.masking(sight)?;
        self.masks.borrow_mut().push((sight, mask.clone()));
        Ok(mask)
    }

    fn masking(&self, sight: Sight) -> Result<Option<Tensor>> {
        if sight == Sight::All && self.lengths.iter().all(|&len| len == self.len) {
            return Ok(None);
        }
        let mut mask = vec![f32::NEG_INFINITY; self.stands.len() * self.len];
        for (i, row) in mask.chunks_exact_mut(self.len).enumerate() {
            row[sight.range(self.stands[i], self.lengths[i / self.asking])].fill(0.0);
        }
        Tensor::from_vec(mask, (self.examples, 1, self.asking, self.len), &self.device).map(Some)
    }

    /// A table's row for each query and key, by their positions: `[examples, asking, len]`.
    pub(super) fn distances(&self, row: impl Fn(usize, usize) -> u32) -> Result<Tensor> {
        if let Some(distances) = self.distances.get() {
            return Ok(distances.clone());
        }
        let row = &row;
        let rows = self.stands.iter().flat_map(|&query| (0..self.len).map(move |key| row(query, key)));
        let shape = (self.examples, self.asking, self.len);
        let distances = Tensor::from_vec(rows.collect::<Vec<u32>>(), shape, &self.device)?;
        Ok(self.distances.get_or_init(|| distances).clone())
    }

    /// What T5's positions add to scores, `[examples, heads, asking, len]`.
    pub(super) fn biases(&self, relative: &Relative) -> Result<Tensor> {
        let reach = relative.reach;
        let row = |query: usize, key: usize| (key + reach).saturating_sub(query).min(2 * reach) as u32;
        let biases = relative.table.index_select(&self.distances(row)?.flatten_all()?, 0)?;
        biases.reshape((self.examples, self.asking, self.len, ()))?.permute((0, 3, 1, 2))?.contiguous()
    }
}

/// Indices as a tensor.
pub(super) fn index(device: &Device, values: impl Iterator<Item = usize>) -> Result<Tensor> {
    let values: Vec<u32> = values.map(|value| value as u32).collect();
    let count = values.len();
    Tensor::from_vec(values, count, device)
}
