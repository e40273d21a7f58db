//! How the rows of one attention meet: queries and keys of each sequence, as index tensors, padded to the longest.

use std::cell::{OnceCell, RefCell};

use candle_core::{Device, Result, Tensor};

use crate::backbone::Sight;

/// T5's positions: `[2 * reach + 1, heads]`.
pub(super) struct Relative {
    pub(super) reach: usize,
    pub(super) table: Tensor,
}

/// A row of one candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    Text(usize),
    Prompt(usize),
    Prefix(usize),
}

/// Keys in the order of their positions, and the rows that ask, with theirs.
pub(super) struct Sequence {
    pub(super) keys: Vec<Row>,
    pub(super) asking: Vec<(Row, usize)>,
}

/// A row that asks, in the order that wanted rows have.
pub(super) struct Asked {
    pub(super) candidate: usize,
    pub(super) sequence: usize,
    pub(super) slot: usize,
    pub(super) row: Row,
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
    /// Of each query the wanted row that it is, `u32::MAX` where it only pads.
    #[cfg(feature = "cuda")]
    leave: Vec<u32>,
    /// Position of each query of one candidate, `[examples * asking]`, and each sequence's keys.
    stands: Vec<usize>,
    lengths: Vec<usize>,
    device: Device,
    /// Queries and keys of each sequence of one candidate.
    #[cfg(test)]
    pub(super) met: Vec<(usize, usize)>,
    /// Made when a layer first needs them; layers of one plan have the same distances.
    masks: RefCell<Vec<(Sight, Option<Tensor>)>>,
    distances: OnceCell<Tensor>,
    #[cfg(feature = "cuda")]
    slots: RefCell<Vec<(Sight, Slots)>>,
}

/// What a kernel needs to know of a view beside its rows: see `kernels.cu`.
#[cfg(feature = "cuda")]
#[derive(Clone)]
pub(super) struct Slots {
    /// Of each query the wanted row that it is, `[sequences * asking]`, `u32::MAX` where it only pads.
    pub(super) leave: Tensor,
    /// Of each query the keys that it sees, from and up to, `[examples * asking * 2]`; and its position.
    pub(super) sights: Tensor,
    pub(super) stands: Tensor,
    /// Keys of each sequence, `[examples]`.
    pub(super) lengths: Tensor,
}

#[cfg(feature = "cuda")]
impl Slots {
    fn numbers(&self) -> usize {
        [&self.leave, &self.sights, &self.stands, &self.lengths].map(Tensor::elem_count).iter().sum()
    }
}

impl Look {
    pub(super) fn new(
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
        #[cfg(feature = "cuda")]
        let leave = {
            let mut leave = vec![u32::MAX; queries.len()];
            asked.iter().zip(0..).for_each(|(asked, row)| leave[slot(asked)] = row);
            leave
        };
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
            #[cfg(feature = "cuda")]
            leave,
            stands: sequences.iter().flat_map(stand).collect(),
            lengths: sequences.iter().map(|sequence| sequence.keys.len()).collect(),
            device: device.clone(),
            #[cfg(test)]
            met: sequences.iter().map(|sequence| (sequence.asking.len(), sequence.keys.len())).collect(),
            masks: RefCell::default(),
            distances: OnceCell::new(),
            #[cfg(feature = "cuda")]
            slots: RefCell::default(),
        })
    }

    /// Numbers that this holds on the device by now.
    pub(super) fn numbers(&self) -> usize {
        let rows = [&self.queries, &self.keys, &self.context].map(Tensor::elem_count);
        let masks =
            self.masks.borrow().iter().filter_map(|(_, mask)| Some(mask.as_ref()?.elem_count())).sum();
        let made: [usize; 2] = [masks, self.distances.get().map_or(0, Tensor::elem_count)];
        #[cfg(feature = "cuda")]
        let slots: usize = self.slots.borrow().iter().map(|(_, slots)| slots.numbers()).sum();
        #[cfg(not(feature = "cuda"))]
        let slots: usize = 0;
        rows.iter().chain(&made).sum::<usize>() + slots
    }

    /// Sequences of all candidates.
    pub(super) fn sequences(&self) -> usize {
        self.candidates * self.examples
    }

    /// Rows that are wanted.
    #[cfg(feature = "cuda")]
    pub(super) fn wanted(&self) -> usize {
        self.context.elem_count()
    }

    /// What a kernel needs to know where queries see so far.
    #[cfg(feature = "cuda")]
    pub(super) fn slots(&self, sight: Sight) -> Result<Slots> {
        let known =
            self.slots.borrow().iter().find(|(known, _)| *known == sight).map(|(_, slots)| slots.clone());
        if let Some(slots) = known {
            return Ok(slots);
        }
        let sights = self.stands.iter().enumerate().flat_map(|(i, &stand)| {
            let sees = sight.range(stand, self.lengths[i / self.asking]);
            [sees.start, sees.end]
        });
        let slots = Slots {
            leave: Tensor::from_slice(&self.leave, self.leave.len(), &self.device)?,
            sights: index(&self.device, sights)?,
            stands: index(&self.device, self.stands.iter().copied())?,
            lengths: index(&self.device, self.lengths.iter().copied())?,
        };
        self.slots.borrow_mut().push((sight, slots.clone()));
        Ok(slots)
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
