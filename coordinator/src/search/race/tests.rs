//! Races on tables of losses, against the whole table.

use shared::random::{Domain, Stream};
use shared::task::loss::population_loss;
use shared::task::loss::{Loss, Metric};

use super::*;

const LOSSES: [Loss; 3] = [Loss::Ce, Loss::Hinge, Loss::Metric];

/// A table of losses, `[candidates][examples]`: hard examples first, candidates of unlike quality, many ties, here and
/// there a NaN or an infinite loss.
fn table(loss: Loss, seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = vec![0.0; 4];
    Stream::new(seed, Domain::Search, 0).fill_normals(0, &mut numbers);
    let pick = |i: usize, from: usize, to: usize| from + (numbers[i].abs() * 1e6) as usize % (to - from);
    let (candidates, examples) = (pick(0, 4, 14), pick(1, 1, 40));
    let (grain, faults) = ([0.0, 0.25, 1.0][pick(2, 0, 3)], pick(3, 0, 4) == 0);
    let mut noise = vec![0.0; candidates * examples];
    Stream::new(seed, Domain::Search, 1).fill_normals(0, &mut noise);
    let cell = |at: usize| {
        let (candidate, example) = (at / examples, at % examples);
        let hard = (-(example as f64) / 4.0).exp();
        let x = (noise[at] + 0.3 * candidate as f64).abs() * hard;
        let x = if grain > 0.0 { (x / grain).round() * grain } else { x };
        match loss {
            _ if faults && at % 23 == 5 => [f32::NAN, f32::INFINITY][candidate % 2],
            Loss::Metric if x < 0.1 => -1.0,
            Loss::Metric => 0.0,
            Loss::Ce | Loss::Hinge => x as f32,
        }
    };
    (0..candidates).map(|c| (0..examples).map(|e| cell(c * examples + e)).collect()).collect()
}

/// Runs a race; also how many examples it asked for, candidates times.
fn race(loss: Loss, table: &[Vec<f32>], mu: usize) -> (Race, u64) {
    let mut race = Race::new(loss, table.len(), mu, table[0].len());
    let mut asked = 0;
    while let Some(stage) = race.next() {
        let range = stage.examples.start as usize..stage.examples.end as usize;
        assert!(!range.is_empty() && !stage.candidates.is_empty());
        asked += (range.len() * stage.candidates.len()) as u64;
        let losses = stage.candidates.iter().map(|&c| table[c][range.clone()].to_vec()).collect();
        let predicted = vec![vec![0; range.len()]; stage.candidates.len()];
        race.take(&stage, Gathered { losses, predicted, evaluators: 1, missing: 0 });
    }
    (race, asked)
}

/// Rows and losses, best first, as `cma::State::tell` ranks them.
fn ranked(loss: Loss, rows: &[Vec<f32>]) -> Vec<(usize, u64)> {
    let (predicted, labels) = (vec![0; rows[0].len()], vec![0; rows[0].len()]);
    let of = |row: &Vec<f32>| population_loss(loss, Metric::Accuracy, row, &predicted, &labels);
    let known = |loss: f64| if loss.is_finite() { loss } else { f64::INFINITY };
    let mut ranked: Vec<(usize, f64)> = rows.iter().map(|row| known(of(row))).enumerate().collect();
    ranked.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap());
    ranked.into_iter().map(|(row, loss)| (row, loss.to_bits())).collect()
}

#[test]
fn the_better_half_its_order_and_its_losses_are_those_of_the_whole_table() {
    for loss in LOSSES {
        let (mut asked, mut all) = (0, 0);
        for seed in 0..3_000 {
            let table = table(loss, seed);
            let mu = table.len() / 2;
            let (race, cost) = race(loss, &table, mu);
            let seen = race.seen();
            let whole = ranked(loss, &table);
            let raced = ranked(loss, &race.gathered().losses);
            assert_eq!(raced[..mu], whole[..mu], "{loss:?}, table {seed}");
            // Of what was seen whole, nothing has changed: what is left out is exactly what is not counted.
            assert_eq!(cost, seen.iter().map(|&seen| u64::from(seen)).sum::<u64>());
            (asked, all) = (asked + cost, all + (table.len() * table[0].len()) as u64);
        }
        assert!(asked < all, "{loss:?}: no race has saved anything");
    }
}

#[test]
fn stages_are_a_half_then_the_promising_whole_then_the_rest_in_turn() {
    // Four candidates, eight examples, all of the loss in the first half but for candidate 2.
    let rows = [[1.0; 8], [3.0; 8], [2.0; 8], [9.0; 8]];
    let mut race = Race::new(Loss::Ce, 4, 2, 8);
    let mut stages = Vec::new();
    while let Some(stage) = race.next() {
        let losses = stage.candidates.iter().map(|&c| rows[c][..stage.examples.len()].to_vec()).collect();
        let predicted = vec![vec![1; stage.examples.len()]; stage.candidates.len()];
        race.take(&stage, Gathered { losses, predicted, evaluators: 1, missing: 0 });
        stages.push((stage.candidates, stage.examples));
    }
    assert_eq!(stages, [(vec![0, 1, 2, 3], 0..4), (vec![0, 2], 4..8), (vec![1], 4..6)]);
    assert_eq!(race.seen(), [8, 6, 8, 4]);
    // Candidate 3 is estimated by what the complete ones lost on the other half.
    let gathered = race.gathered();
    assert_eq!(gathered.losses[3], [9.0, 9.0, 9.0, 9.0, 1.5, 1.5, 1.5, 1.5]);
    assert!(gathered.predicted.iter().all(|row| row.len() == 8));
}

#[test]
fn a_tie_with_the_last_of_the_better_half_is_no_reason_to_end() {
    // Candidate 0 could still tie with candidates 1 and 2 and would win by its index.
    let mut rows = vec![vec![0.0; 4], vec![1.0, 1.0, 0.0, 2.0], vec![1.0, 1.0, 0.0, 2.0], vec![8.0; 4]];
    rows[0] = vec![4.0, 0.0, 0.0, 0.0];
    let (race, _) = race(Loss::Ce, &rows, 2);
    assert_eq!(race.seen(), [4, 4, 4, 2]);
}
