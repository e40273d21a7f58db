//! Refusals: who is turned away, what an offence costs, work that evaluators cannot do.

use super::*;

#[test]
fn another_model_is_refused_naming_both() {
    let (mut world, _) = World::with(1);
    let Err(Refusal::Model(text)) = world.join("other") else { panic!("joined with another model") };
    assert!(text.contains("weights m,") && text.contains("weights other,"), "{text}");
}

#[test]
fn another_dtype_is_refused_naming_both_before_and_after_the_run_begins() {
    let mut world = World::new(settings());
    let early = world.join("m").unwrap(); // idle: no run yet
    let expected = Expected { dtype: Dtype::Bf16, ..Expected::default() };
    world.table.begin(world.now, prepare(), expected);
    world.settle();
    let late = world.join("m").err();
    let refused = [&world.closed[0].1, &late].map(|refusal| match refusal {
        Some(Refusal::Model(text)) => text.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(world.closed[0].0, early);
    for text in refused {
        assert!(
            text.contains("in bf16") && text.contains("in f32") && text.ends_with("--dtype bf16"),
            "{text}"
        );
    }
    let right = Hello { dtype: "bf16".to_owned(), ..hello("m") };
    assert!(world.table.join(world.now, right, false).is_ok());
}

#[test]
fn a_resumed_run_takes_only_its_own_model() {
    let mut world = World::new(settings());
    let early = world.join("other").unwrap(); // idle: no run yet
    world.table.begin(world.now, prepare(), Expected { model: Some(model("m")), ..Expected::default() });
    world.settle();
    assert!(matches!(&world.closed[..], [(id, Some(Refusal::Model(_)))] if *id == early));
    assert!(world.begun.is_empty(), "another evaluator may come");
    world.join("m").unwrap();
    assert!(world.begun[0].is_ok());
}

#[test]
fn without_its_sole_evaluator_a_run_fails() {
    let mut world = World::new(settings());
    world.table.join(world.now, hello("other"), true).unwrap();
    world.table.begin(world.now, prepare(), Expected { model: Some(model("m")), ..Expected::default() });
    world.settle();
    assert!(matches!(&world.begun[..], [Err(Refusal::Model(_))]));
}

#[test]
fn another_protocol_is_refused() {
    let mut world = World::new(settings());
    let old = Hello { protocol: 0, ..hello("m") };
    assert!(matches!(world.table.join(world.now, old, false), Err(Refusal::Protocol(_))));
}

#[test]
fn evaluators_that_find_other_statistics_are_refused() {
    let (mut world, _) = World::with(1);
    let odd = world.table.join(world.now, hello("m"), false).unwrap();
    let other = Ready { layer_stds: vec![0.5, 0.250_000_1], ..ready(RUN) };
    world.report(odd, Report::Ready(Box::new(other.clone())));
    assert!(matches!(&world.closed[..], [(id, Some(Refusal::Model(_)))] if *id == odd));
    let gpu = Hello { device: "cuda:0".to_owned(), ..hello("m") };
    let gpu = world.table.join(world.now, gpu, false).unwrap();
    world.report(gpu, Report::Ready(Box::new(other)));
    assert_eq!(world.closed.len(), 1, "another kind of device may round otherwise");
}

#[test]
fn an_answer_of_the_wrong_shape_costs_the_evaluator() {
    let (mut world, ids) = World::with(2);
    world.offer(0, generation(2));
    let lease = world.lease_of(ids[0]).unwrap();
    world.report(
        ids[0],
        Report::Answer(Answer { lease: lease.id, outcomes: Vec::new(), canary: canary(&lease) }),
    );
    assert_eq!(world.closed, [(ids[0], Some(failed("an answer with 0 outcomes, 1 expected")))]);
    world.answer_all();
    assert_eq!(world.ended[0].1.as_ref().unwrap().outcomes, expected(2, 0));
}

#[test]
fn an_answer_to_anothers_lease_costs_the_evaluator() {
    let (mut world, ids) = World::with(2);
    world.offer(0, generation(2));
    let stolen = world.lease_of(ids[1]).unwrap();
    world.answer(ids[0], &stolen);
    assert_eq!(world.closed.len(), 1);
    assert_eq!(world.closed[0].0, ids[0]);
}

#[test]
fn wrong_input_ends_the_run() {
    let mut world = World::new(settings());
    world.table.begin(world.now, prepare(), Expected::default());
    let id = world.table.join(world.now, hello("m"), false).unwrap();
    let refusal = Refusal::Input("\"great\" is not one token".to_owned());
    world.refuse(id, None, refusal.clone());
    assert_eq!(world.begun, [Err(refusal)]);
    assert!(world.closed.is_empty());
}

#[test]
fn a_failed_lease_is_tried_elsewhere_and_not_for_ever() {
    let (mut world, ids) = World::with(2);
    world.offer(0, Task::Score { prompt: Prompted::Manual, examples: ExampleSet::Dev(0..1) });
    let mut tried = Vec::new();
    while let Some((id, lease)) = world.leases.pop() {
        tried.push(id);
        world.refuse(id, Some(lease.id), failed("out of memory"));
    }
    assert_eq!(tried, [ids[0], ids[1], ids[0], ids[1], ids[0]]);
    assert!(world.ended[0].1.is_err());
}

#[test]
fn five_failures_of_the_same_work_end_the_run() {
    let (mut world, _) = World::with(1);
    world.offer(0, generation(1));
    for _ in 0..5 {
        let (id, lease) = world.leases.pop().unwrap();
        world.refuse(id, Some(lease.id), failed("out of memory"));
    }
    let reason = failed("the same work failed 5 times, the last time: out of memory");
    assert_eq!(world.ended[0].1, Err(reason.clone()));
    assert_eq!(world.table.offer(world.now, RUN, ContextVersion(0), generation(1)), Err(reason));
}
