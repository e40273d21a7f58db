//! A generation's standard normal numbers, made on several threads where they are many: each has its place in the stream,
//! so that it does not matter who makes it.

use rayon::prelude::*;
use shared::random::Stream;

/// Numbers of a part; even, as they are made in pairs.
const PART: usize = 1 << 14;

/// So many numbers of `stream` from place `first` on.
pub fn normals(stream: Stream, first: u64, count: usize) -> Vec<f64> {
    let mut numbers = vec![0.0; count];
    let fill = |(part, numbers): (usize, &mut [f64])| {
        stream.fill_normals(first + (part * PART) as u64, numbers);
    };
    if count > PART {
        numbers.par_chunks_mut(PART).enumerate().for_each(fill);
    } else {
        fill((0, &mut numbers));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use shared::random::Domain;

    use super::*;

    #[test]
    fn as_if_made_in_one_go() {
        let stream = Stream::new(7, Domain::Search, 1);
        for (first, count) in [(0, 10), (5, 3 * PART + 7), (6, PART + 1)] {
            let mut whole = vec![0.0; count];
            stream.fill_normals(first, &mut whole);
            assert_eq!(normals(stream, first, count), whole);
        }
    }
}
