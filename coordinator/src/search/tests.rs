//! The search alone, with losses made by the test.

use super::*;

fn plan() -> Plan {
    Plan {
        layers: 3,
        tuned: 3,
        dim: 5,
        population: 6,
        sigma: 0.5,
        covariance: crate::cma::Variant::Full,
        learning: crate::cma::LearningRates::Fixed,
        bounds: None,
        reevaluate: false,
        budget: 6 * 20,
        examples: 1,
        seed: 7,
        incumbent: Incumbent::Best,
        select: Select::Metric,
        dev_every: 1,
        loss: Loss::Ce,
        metric: Metric::Accuracy,
        racing: false,
    }
}

/// Losses of one example a candidate: squared distance of `z` from ones.
fn gathered(proposal: &Proposal) -> Gathered {
    let loss = |z: &Vec<f32>| vec![z.iter().map(|x| (x - 1.0).powi(2)).sum::<f32>()];
    let losses: Vec<Vec<f32>> = proposal.candidates().iter().map(loss).collect();
    Gathered { predicted: vec![vec![0]; losses.len()], losses, evaluators: 1, missing: 0 }
}

/// The next population, or the one `ahead` generations after it.
fn drawn(search: &mut Search, plan: &Plan, ahead: u64) -> Option<Proposal> {
    let asked = search.asking(plan, ahead)?.ask().unwrap();
    Some(search.asked(asked))
}

fn accepted(search: &mut Search, plan: &Plan, proposal: Proposal) -> Accepted {
    let gathered = gathered(&proposal);
    search.accept(plan, RunId(1), proposal, &gathered, &[0]).unwrap()
}

/// A generation, one thing after the other.
fn step(search: &mut Search, plan: &Plan) -> Option<Generation> {
    let proposal = drawn(search, plan, 0)?;
    let Accepted { generation, telling, .. } = accepted(search, plan, proposal);
    search.told(telling.tell().unwrap());
    Some(generation)
}

#[test]
fn layers_take_turns_until_the_budget_is_spent() {
    let plan = plan();
    let mut search = Search::new(&plan).unwrap();
    let generations: Vec<Generation> = std::iter::from_fn(|| step(&mut search, &plan)).collect();
    let layers: Vec<u32> = generations.iter().take(4).map(|g| g.layer.0).collect();
    assert_eq!(layers, [0, 1, 2, 0]);
    assert_eq!((generations.len(), search.calls()), (20, 120));
    assert_eq!(generations[3].sweep, 2);
}

#[test]
fn every_layer_improves_and_the_context_follows() {
    let plan = Plan { budget: 6 * 3 * 60, ..plan() };
    let mut search = Search::new(&plan).unwrap();
    while step(&mut search, &plan).is_some() {}
    assert_eq!(search.context().version().0, 180);
    for z in search.context().zs() {
        let distance: f32 = z.iter().map(|x| (x - 1.0).powi(2)).sum();
        assert!(distance < 0.5, "started 5 away from the optimum, now {distance}");
    }
}

#[test]
fn a_search_read_back_goes_on_with_the_same_bits() {
    let plan = plan();
    let mut through = Search::new(&plan).unwrap();
    (0..7).for_each(|_| drop(step(&mut through, &plan)));
    let config = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(&through, config).unwrap();
    let (mut resumed, _): (Search, _) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
    while let Some(expected) = step(&mut through, &plan) {
        assert_eq!(step(&mut resumed, &plan).unwrap(), expected);
    }
    assert_eq!(resumed, through);
}

/// Populations are drawn before the generation below has its losses, and losses are learnt after the next one has its
/// own: every number is as it is one thing after the other, whatever the incumbent, and so is a search written down in
/// between.
#[test]
fn what_runs_beside_an_evaluation_changes_no_bit() {
    for (tuned, incumbent) in
        [(3, Incumbent::Best), (3, Incumbent::Mean), (2, Incumbent::GenerationBest), (1, Incumbent::Mean)]
    {
        let plan = Plan { tuned, incumbent, ..plan() };
        let mut plain = Search::new(&plan).unwrap();
        let mut search = Search::new(&plan).unwrap();
        let mut telling: Option<Telling> = None;
        let mut ahead = None;
        while let Some(current) = ahead.take().or_else(|| drawn(&mut search, &plan, 0)) {
            let home = tuned == 3 || tuned == 2 && telling.is_none();
            assert_eq!(
                drawn(&mut search, &plan, 1).is_some(),
                home && search.affordable(&plan) > 1,
                "not of a layer that has yet to learn"
            );
            telling.take().map(|telling| search.told(telling.tell().unwrap()));
            let written = bincode::serde::encode_to_vec(&search, bincode::config::standard()).unwrap();
            ahead = drawn(&mut search, &plan, 1);
            assert_eq!(ahead.is_some(), tuned > 1 && search.affordable(&plan) > 1);

            let config = bincode::config::standard();
            let (mut resumed, _): (Search, _) = bincode::serde::decode_from_slice(&written, config).unwrap();
            assert_eq!(drawn(&mut resumed, &plan, 0).unwrap(), current, "drawn again after a resume");

            let now = accepted(&mut search, &plan, current);
            let (z, layer) = (now.update.z.clone(), now.generation.layer);
            assert_eq!(Some(now.generation), step(&mut plain, &plan));
            assert_eq!(z, plain.context().zs()[layer.index()]);
            telling = Some(now.telling);
            if tuned == 1 {
                telling.take().map(|telling| search.told(telling.tell().unwrap()));
            }
        }
        telling.map(|telling| search.told(telling.tell().unwrap()));
        assert_eq!(search, plain);
    }
}

#[test]
fn dev_metric_selects_then_dev_loss_and_the_first_among_equals_stays() {
    let plan = plan();
    let mut search = Search::new(&plan).unwrap();
    let score = |metric, loss| DevScore { metric, loss };
    assert!(search.select(&plan, score(0.5, 1.0)));
    assert!(!search.select(&plan, score(0.5, 1.0)));
    assert!(!search.select(&plan, score(0.4, 0.1)));
    assert!(!search.select(&plan, score(0.9, f64::NAN)));
    assert!(search.select(&plan, score(0.5, 0.9)));
    assert!(search.select(&plan, score(0.6, 2.0)));
    assert_eq!(search.selected().unwrap().score, score(0.6, 2.0));
}

#[test]
fn by_loss_the_metric_does_not_count() {
    let plan = Plan { select: Select::Loss, ..plan() };
    let mut search = Search::new(&plan).unwrap();
    let score = |metric, loss| DevScore { metric, loss };
    assert!(search.select(&plan, score(0.9, 1.0)));
    assert!(!search.select(&plan, score(1.0, 1.0)));
    assert!(search.select(&plan, score(0.2, 0.5)));
    assert!(!search.select(&plan, score(1.0, f64::NAN)));
    assert_eq!(search.selected().unwrap().score, score(0.2, 0.5));
}

#[test]
fn dev_is_scored_every_few_generations_and_at_the_end() {
    let plan = Plan { dev_every: 3, ..plan() };
    let mut search = Search::new(&plan).unwrap();
    let mut scored = Vec::new();
    while let Some(generation) = step(&mut search, &plan) {
        scored.extend(search.wants_dev(&plan).then_some(generation.number));
    }
    assert_eq!(scored, [3, 6, 9, 12, 15, 18, 20]);
}

#[test]
fn bbt_tunes_the_input_layer_alone() {
    let plan = Plan { tuned: 1, ..plan() };
    let mut search = Search::new(&plan).unwrap();
    while let Some(generation) = step(&mut search, &plan) {
        assert_eq!(generation.layer, Layer(0));
    }
    assert!(search.context().zs()[1..].iter().flatten().all(|&x| x == 0.0));
}

/// Whatever is learnt of the covariance, layers improve, and a search read back goes on with the same bits.
#[test]
fn every_variant_searches() {
    use crate::cma::{LearningRates, Variant};
    let config = bincode::config::standard();
    let kinds = [
        (Variant::Separable, LearningRates::Fixed, true),
        (Variant::DiagonalStart { generations: None }, LearningRates::Fixed, false),
        (Variant::LimitedMemory, LearningRates::Fixed, false),
        (Variant::Full, LearningRates::Adapted, true),
    ];
    for (covariance, learning, reevaluate) in kinds {
        let plan = Plan { budget: 6 * 3 * 40, covariance, learning, reevaluate, ..plan() };
        let mut through = Search::new(&plan).unwrap();
        (0..10).for_each(|_| drop(step(&mut through, &plan)));
        let bytes = bincode::serde::encode_to_vec(&through, config).unwrap();
        let mut read: Search = bincode::serde::decode_from_slice(&bytes, config).unwrap().0;
        while let Some(generation) = step(&mut through, &plan) {
            assert_eq!(Some(generation), step(&mut read, &plan));
        }
        assert_eq!(through, read);
        for z in through.context().zs() {
            let distance: f32 = z.iter().map(|x| (x - 1.0).powi(2)).sum();
            assert!(distance < 4.0, "{covariance}: started 5 away from the optimum, now {distance}");
        }
    }
}

/// The optimum lies beyond them: all that is evaluated keeps within, and comes to lie near the bound.
#[test]
fn nothing_leaves_the_bounds() {
    for incumbent in [Incumbent::Best, Incumbent::Mean] {
        let plan = Plan { bounds: Some([-0.25, 0.5]), incumbent, budget: 6 * 3 * 60, ..plan() };
        let mut search = Search::new(&plan).unwrap();
        while let Some(proposal) = drawn(&mut search, &plan, 0) {
            let candidates = proposal.candidates();
            let Accepted { telling, .. } = accepted(&mut search, &plan, proposal);
            search.told(telling.tell().unwrap());
            let all = candidates.iter().chain(search.context().zs()).flatten();
            assert!(all.into_iter().all(|x| (-0.25..=0.5).contains(x)));
        }
        assert!(search.context().zs().iter().flatten().all(|&x| x > 0.4), "{:?}", search.context().zs());
    }
}

/// A layer's best point is the first candidate of its next generation, and keeps its place only if it is still the best.
#[test]
fn the_best_point_is_evaluated_again() {
    let plan = Plan { reevaluate: true, tuned: 1, ..plan() };
    let mut search = Search::new(&plan).unwrap();
    for generation in 0..8 {
        let before = search.context().zs()[0].clone();
        let proposal = drawn(&mut search, &plan, 0).unwrap();
        let candidates = proposal.candidates();
        assert_eq!(candidates[0] == before, generation > 0);
        let Accepted { generation, telling, .. } = accepted(&mut search, &plan, proposal);
        search.told(telling.tell().unwrap());
        let best = smallest(&generation.losses).unwrap();
        assert_eq!(search.context().zs()[0], candidates[best]);
        assert_eq!(generation.best, generation.losses[best]);
    }
}

#[test]
fn what_is_learnt_is_said_unless_it_is_all() {
    use crate::cma::Variant;
    let said =
        |covariance, dim| Plan { covariance, dim, budget: 8000, tuned: 24, population: 20, ..plan() }.said();
    assert_eq!(said(Variant::Full, 500), None);
    assert_eq!(said(Variant::Separable, 500).unwrap(), "separable: it was named");
    let auto = |dim| said(Variant::Auto, dim).unwrap();
    assert!(auto(500).starts_with("limited-memory: in 16 generations a full covariance would change by"));
    assert!(auto(5).starts_with("full: "));
    assert!(auto(50_000).starts_with("limited-memory: a full covariance would take"));
}
