//! The k-shot split: which examples train and which select, by seed.
//!
//! The same examples as the published few-shot sets: NumPy's legacy shuffle (`numpy.random.seed`, then
//! `numpy.random.shuffle`, both frozen by NumPy) of the indices, then one scan in which the first k examples
//! of a class train and its next k are for development.

use thiserror::Error;

use super::dataset::Example;

/// Indices into the examples, in the order of the scan; `shots` of every class in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The examples that candidates are evaluated on.
    pub train: Vec<usize>,
    /// The examples that select the prompt to keep.
    pub dev: Vec<usize>,
}

/// Why a set of examples cannot be split.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SplitError {
    /// Zero shots.
    #[error("task.shots is 0; at least one example of each class is needed")]
    NoShots,
    /// Too few examples of a class.
    #[error(
        "class {class} has {found} examples, but {shots} shots need {needed} (as many again for \
         development); lower task.shots or add examples"
    )]
    TooFew {
        /// The class.
        class: u32,
        /// Examples it has.
        found: usize,
        /// Shots asked for.
        shots: usize,
        /// Examples needed: twice the shots.
        needed: usize,
    },
    /// A label outside the classes (files are checked when they are read; this is for examples made
    /// otherwise).
    #[error("example {index} has label {label}, but there are {classes} classes (labels count from 0)")]
    UnknownLabel {
        /// Index of the example.
        index: usize,
        /// Its label.
        label: u32,
        /// Classes of the task.
        classes: usize,
    },
}

/// Splits `examples` into `shots` per class to train on and `shots` per class for development.
///
/// A seed below 2^32 gives what `numpy.random.seed(seed)` gives. NumPy refuses larger ones; here they are
/// what `numpy.random.seed([seed % 2**32, seed // 2**32])` gives.
///
/// # Errors
/// No shots, a class with fewer than `2 * shots` examples, a label that is no class.
pub fn split(examples: &[Example], classes: usize, shots: usize, seed: u64) -> Result<Split, SplitError> {
    if shots == 0 {
        return Err(SplitError::NoShots);
    }
    let needed = shots.saturating_mul(2);
    let mut found = vec![0_usize; classes];
    for (index, &Example { label, .. }) in examples.iter().enumerate() {
        match found.get_mut(label as usize) {
            Some(count) => *count += 1,
            None => {
                return Err(SplitError::UnknownLabel { index, label, classes });
            }
        }
    }
    for (class, found) in (0_u32..).zip(found) {
        if found < needed {
            return Err(SplitError::TooFew { class, found, shots, needed });
        }
    }
    let mut split = Split { train: Vec::new(), dev: Vec::new() };
    let mut taken = vec![0_usize; classes];
    for index in shuffled(examples.len(), seed) {
        let label = examples.get(index).map(|example| example.label as usize);
        let Some(taken) = label.and_then(|label| taken.get_mut(label)) else {
            continue;
        };
        match *taken {
            n if n < shots => split.train.push(index),
            n if n < needed => split.dev.push(index),
            _ => continue,
        }
        *taken += 1;
    }
    Ok(split)
}

/// `0..n` in the order of NumPy's legacy shuffle (n below 2^32).
fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..n).collect();
    let mut twister = MersenneTwister::new(seed);
    for i in (1..n).rev() {
        indices.swap(i, twister.at_most(i));
    }
    indices
}

const STATE: usize = 624;
const MIDDLE: usize = 397;

/// MT19937 (Matsumoto and Nishimura 1998), seeded as NumPy does.
struct MersenneTwister {
    state: [u32; STATE],
    next: usize,
}

impl MersenneTwister {
    fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let state = if high == 0 { state_from(low) } else { state_from_words([low, high]) };
        Self { state, next: STATE }
    }

    /// A number in `0..=max`: masked draws until one is small enough.
    fn at_most(&mut self, max: usize) -> usize {
        let mask = match max {
            0 => return 0,
            max => usize::MAX >> max.leading_zeros(),
        };
        loop {
            let drawn = self.draw() as usize & mask;
            if drawn <= max {
                return drawn;
            }
        }
    }

    fn draw(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MIDDLE) % STATE] ^ (y >> 1) ^ odd;
        }
    }
}

/// `init_genrand` of the reference code.
fn state_from(seed: u32) -> [u32; STATE] {
    let mut state = [0; STATE];
    state[0] = seed;
    for i in 1..STATE {
        let last = state[i - 1];
        state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
    }
    state
}

/// `init_by_array` of the reference code, for two words.
fn state_from_words(words: [u32; 2]) -> [u32; STATE] {
    let mut state = state_from(19_650_218);
    let mixed = |state: &[u32; STATE], i: usize, factor: u32| {
        let last = state[i - 1];
        state[i] ^ (last ^ (last >> 30)).wrapping_mul(factor)
    };
    let mut i = 1;
    let advance = |state: &mut [u32; STATE], i: usize| {
        if i + 1 < STATE {
            return i + 1;
        }
        state[0] = state[STATE - 1];
        1
    };
    for step in 0..STATE {
        let j = step % words.len();
        state[i] = mixed(&state, i, 1_664_525).wrapping_add(words[j]).wrapping_add(j as u32);
        i = advance(&mut state, i);
    }
    for _ in 1..STATE {
        state[i] = mixed(&state, i, 1_566_083_941).wrapping_sub(i as u32);
        i = advance(&mut state, i);
    }
    state[0] = 0x8000_0000;
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(labels: impl IntoIterator<Item = u32>) -> Vec<Example> {
        let example = |label| Example { text: "a".to_owned(), text_pair: None, label, line: 0 };
        labels.into_iter().map(example).collect()
    }

    #[test]
    fn shuffles_as_the_published_splits_were_shuffled() {
        // First indices for SST-2's and AG News' training sets (published; NumPy 2.4.6 agrees).
        let published = [
            (42, 67_349, [66_730, 29_890, 45_801, 29_352, 19_858]),
            (42, 120_000, [71_787, 67_218, 54_066, 7_168, 29_618]),
            (8, 67_349, [26_470, 48_842, 51_738, 29_417, 11_958]),
            (13, 67_349, [54_308, 18_835, 33_777, 53_537, 57_870]),
        ];
        for (seed, n, first) in published {
            assert_eq!(shuffled(n, seed)[..5], first, "seed {seed}, {n} examples");
        }
        assert_eq!(shuffled(67_349, 42)[67_346..], [54_886, 860, 15_795]);
    }

    #[test]
    fn shuffles_as_numpy_does_at_the_seeds_edges() {
        // NumPy 2.4.6: numpy.random.seed(seed), and seed([low, high]) from 2**32 on.
        assert_eq!(shuffled(10, 0), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!(shuffled(10, (1 << 32) - 1), [6, 9, 5, 1, 8, 0, 7, 4, 2, 3]);
        assert_eq!(shuffled(10, 1 << 32), [9, 4, 0, 8, 1, 5, 3, 2, 6, 7]);
        assert_eq!(shuffled(10, (1 << 40) + 17), [1, 5, 9, 8, 0, 2, 4, 3, 6, 7]);
        assert_eq!(shuffled(10, u64::MAX), [6, 4, 9, 5, 7, 2, 1, 3, 0, 8]);
        assert_eq!(shuffled(67_349, (1 << 40) + 17)[..5], [36_443, 46_447, 22_410, 47_576, 49_689]);
        assert_eq!(shuffled(0, 1), [0_usize; 0]);
        assert_eq!(shuffled(1, 1), [0]);
    }

    #[test]
    fn scans_the_first_for_training_and_the_next_for_development() {
        // Shuffled (seed 42): 8 1 5 0 7 2 9 4 3 6; labels are the parity of the index.
        let examples = labelled((0..10).map(|i| i % 2));
        let split = split(&examples, 2, 2, 42).unwrap();
        assert_eq!(split.train, [8, 1, 5, 0]);
        assert_eq!(split.dev, [7, 2, 9, 4]);
    }

    #[test]
    fn has_k_of_each_class_twice_and_shares_nothing() {
        for (classes, shots) in [(2, 16), (3, 5), (14, 1)] {
            for seed in 0..20 {
                let examples = labelled((0..700_u32).map(|i| i * i % 701 % classes));
                let split = split(&examples, classes as usize, shots, seed).unwrap();
                let mut seen = std::collections::BTreeSet::new();
                for part in [&split.train, &split.dev] {
                    for class in 0..classes {
                        assert_eq!(part.iter().filter(|&&i| examples[i].label == class).count(), shots);
                    }
                    assert!(part.iter().all(|&i| seen.insert(i)), "an example stands twice");
                }
            }
        }
    }

    #[test]
    fn says_which_class_is_too_small() {
        let examples = labelled([0, 0, 0, 0, 1, 1, 1]);
        let error = split(&examples, 2, 2, 42).unwrap_err();
        assert_eq!(error, SplitError::TooFew { class: 1, found: 3, shots: 2, needed: 4 });
        assert!(error.to_string().starts_with("class 1 has 3 examples, but 2 shots need 4 "), "{error}");
        let absent = split(&labelled([0, 0]), 2, 1, 42).unwrap_err();
        assert_eq!(absent, SplitError::TooFew { class: 1, found: 0, shots: 1, needed: 2 });
        let huge = split(&examples, 2, usize::MAX, 42).unwrap_err();
        assert!(matches!(huge, SplitError::TooFew { class: 0, found: 4, .. }));
        assert_eq!(split(&examples, 2, 0, 42), Err(SplitError::NoShots));
        let unknown = SplitError::UnknownLabel { index: 4, label: 1, classes: 1 };
        assert_eq!(split(&examples, 1, 1, 42), Err(unknown));
    }
}
