//! The keys and values of one example's attention.
//!
//! They are two runs of rows: its text and its prompt. Their order is fixed, so that an example's result does not depend
//! on its neighbours: text first where every query sees every key, else the order of their positions, so that what a
//! query sees is one range.

/// One example's keys and values: rows of `[keys | values]`.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) text: &'a [f32],
    pub(super) prompt: &'a [f32],
    /// Keys' width; a row has twice as many numbers.
    pub(super) width: usize,
    /// Text rows before the prompt's.
    pub(super) before: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn len(&self) -> usize {
        (self.text.len() + self.prompt.len()) / (2 * self.width)
    }

    /// Numbers from one row to the next.
    pub(super) fn stride(&self) -> usize {
        2 * self.width
    }

    /// All rows in their order, as the runs they lie in.
    pub(super) fn runs(&self) -> [&'a [f32]; 3] {
        let (before, after) = self.text.split_at(self.before * self.stride());
        [before, self.prompt, after]
    }

    /// `width` numbers of row `t` from column `column`.
    #[inline]
    pub(super) fn slice(&self, t: usize, column: usize, width: usize) -> &'a [f32] {
        let wide = 2 * self.width;
        let prompt = self.prompt.len() / wide;
        let row = if t < self.before {
            &self.text[t * wide..]
        } else if t < self.before + prompt {
            &self.prompt[(t - self.before) * wide..]
        } else {
            &self.text[(t - prompt) * wide..]
        };
        &row[column..column + width]
    }
}
