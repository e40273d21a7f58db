//! Races on tables of losses, against the whole table; and what the optimiser learns of either.

use faer::{Mat, Side};
use shared::random::{Domain, Stream};
use shared::task::loss::population_loss;
use shared::task::loss::{Loss, Metric};

use super::*;
use crate::cma::{Options, Params, State, normals};

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

const DIM: usize = 10;

/// An optimiser that has made some generations, its next candidates, and the covariance that they were drawn with.
fn asked(population: usize, seed: u64) -> (State, Vec<Vec<f64>>, Mat<f64>) {
    let options = Options { population: Some(population), ..Options::new(DIM, 0.5) };
    let mut state = State::new(&options).unwrap();
    let count = population * DIM;
    let ask = |state: &mut State| {
        let from = state.generation() * count as u64;
        state.ask(&normals(Stream::new(seed, Domain::Search, 2), from, count)).unwrap()
    };
    for _ in 0..4 {
        let candidates = ask(&mut state);
        let loss =
            |x: &Vec<f64>| x.iter().enumerate().map(|(i, v)| 3f64.powi(i as i32) * (v - 1.0).powi(2)).sum();
        state.tell(&candidates, &candidates.iter().map(loss).collect::<Vec<f64>>()).unwrap();
    }
    let candidates = ask(&mut state);
    let covariance = matrix(&state);
    (state, candidates, covariance)
}

fn matrix(state: &State) -> Mat<f64> {
    Mat::from_fn(DIM, DIM, |i, j| state.covariance(i, j))
}

/// `1/2 sum |w_i - w_p(i)|`: how much weight candidates have got from one another, by the ranks that they have got.
fn moved(params: &Params, one: &[usize], other: &[usize]) -> f64 {
    let rank = |of: &[usize], row| of.iter().position(|&other| other == row).unwrap();
    let rows = 0..params.population;
    let moved = rows.map(|row| (params.weights[rank(one, row)] - params.weights[rank(other, row)]).abs());
    moved.sum::<f64>() / 2.0
}

/// docs/method.md, "What is exact" and "What is not": of one generation, told raced and whole.
#[test]
fn a_raced_generation_teaches_the_same_but_for_a_bounded_part_of_the_covariance() {
    let (mut other, mut same) = (0, 0);
    for seed in 0..400 {
        let table = table(Loss::Ce, seed);
        let (before, candidates, drawn) = asked(table.len(), seed);
        let mu = before.params().mu;
        let (race, _) = race(Loss::Ce, &table, mu);
        let estimated = race.gathered().losses;
        let told = |rows: &[Vec<f32>]| {
            let losses: Vec<f64> = rows.iter().map(|row| mean(row)).collect();
            let mut state = before.clone();
            state.tell(&candidates, &losses).unwrap();
            state
        };
        let (raced, whole) = (told(&estimated), told(&table));
        let bits = |vector: &[f64]| vector.iter().map(|x| x.to_bits()).collect::<Vec<u64>>();
        assert_eq!(bits(raced.mean()), bits(whole.mean()), "mean, table {seed}");
        assert_eq!(raced.sigma().to_bits(), whole.sigma().to_bits(), "sigma, table {seed}");
        assert_eq!(bits(raced.path_sigma()), bits(whole.path_sigma()), "p_sigma, table {seed}");
        assert_eq!(bits(raced.path_c()), bits(whole.path_c()), "p_c, table {seed}");
        assert_eq!(raced.best(), whole.best(), "the best candidate, table {seed}");

        let order =
            |rows: &[Vec<f32>]| ranked(Loss::Ce, rows).into_iter().map(|(row, _)| row).collect::<Vec<_>>();
        let (one, two) = (order(&estimated), order(&table));
        if one == two {
            assert_eq!(matrix(&raced), matrix(&whole), "C, table {seed}");
            same += 1;
            continue;
        }
        other += 1;
        assert_eq!(one[..mu], two[..mu], "table {seed}");
        let off = matrix(&raced) - matrix(&whole);
        assert!(off.norm_max() > 0.0, "the worse half's order makes no difference, table {seed}");
        // In the norm of the C that the candidates were drawn with: neither bound C - off nor bound C + off has a
        // direction of negative length.
        let params = before.params();
        let bound = DIM as f64 * params.c_mu * moved(params, &one, &two);
        for sign in [1.0, -1.0] {
            let left = Mat::from_fn(DIM, DIM, |i, j| bound * drawn[(i, j)] + sign * off[(i, j)]);
            assert!(left.llt(Side::Lower).is_ok(), "C is off by more than {bound} of it, table {seed}");
        }
    }
    assert!(other > 30 && same > 30, "{other} races with another order, {same} with the same");
}

/// The shares of C that docs/method.md gives, rounded up as a bound is.
#[test]
fn the_worse_half_turned_round_moves_as_much_as_the_docs_say() {
    for (dim, population, percent) in [(200, 10, "1.2"), (100, 10, "2.3"), (500, 20, "1.0")] {
        let params =
            Params::new(&Options { population: Some(population), ..Options::new(dim, 1.0) }).unwrap();
        let order: Vec<usize> = (0..population).collect();
        let mut turned = order.clone();
        turned[params.mu..].reverse();
        let bound = dim as f64 * params.c_mu * moved(&params, &order, &turned);
        assert_eq!(format!("{:.1}", (1000.0 * bound).ceil() / 10.0), percent, "{dim}, {population}");
    }
}
