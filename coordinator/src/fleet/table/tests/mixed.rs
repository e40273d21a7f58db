//! Evaluators of several models in one fleet: each serves the runs whose model it has, and none is sent away for others.

use shared::messages::ModelIdentity;

use super::*;

fn mixed() -> World {
    World::new(Settings { mixed: true, ..settings() })
}

fn called(name: &str, weights: &str) -> Hello {
    Hello { model: ModelIdentity { name: name.to_owned(), ..model(weights) }, ..hello(weights) }
}

fn begin(world: &mut World, run: u64, expected: Expected) {
    world.table.begin(world.now, Prepare { run: RunId(run), ..prepare() }, expected);
    world.settle();
}

/// Who has been asked to prepare a run.
fn asked(world: &World, run: u64) -> Vec<EvaluatorId> {
    let of = |order: &Order| matches!(order, Order::Prepare(prepare) if prepare.run == RunId(run));
    world.orders.iter().filter(|(_, order)| of(order)).map(|(id, _)| *id).collect()
}

#[test]
fn each_serves_the_runs_of_its_model_and_stays_for_others() {
    let mut world = mixed();
    let join = |world: &mut World, weights| world.table.join(world.now, hello(weights), false).unwrap();
    let early = join(&mut world, "m");
    begin(&mut world, 1, Expected { model: Some(model("m")), ..Expected::default() });
    begin(&mut world, 2, Expected { model: Some(model("other")), ..Expected::default() });
    begin(&mut world, 3, Expected { dtype: Dtype::Bf16, ..Expected::default() });
    let late = join(&mut world, "other");
    world.settle();
    assert_eq!([asked(&world, 1), asked(&world, 2), asked(&world, 3)], [vec![early], vec![late], vec![]]);
    assert!(world.closed.is_empty());
    for (id, run) in [(early, 1), (late, 2)] {
        world.report(id, Report::Ready(Box::new(ready(RunId(run)))));
        world.table.start(world.now, Start { run: RunId(run), ..first_start() }).unwrap();
        let job = world.table.offer(world.now, RunId(run), ContextVersion(0), generation(3)).unwrap();
        world.settle();
        assert!(world.leases.iter().all(|(holder, lease)| *holder == id && lease.run == RunId(run)));
        world.answer_all();
        assert_eq!(
            world.ended.pop(),
            Some((job, Ok(Collected { outcomes: expected(3, 0), evaluators: 1, missing: 0 })))
        );
    }
}

#[test]
fn a_model_that_is_only_known_by_name_is_taken_from_the_first_evaluator_of_that_name() {
    let mut world = mixed();
    let wrong = world.table.join(world.now, called("bert", "m"), false).unwrap();
    begin(&mut world, 1, Expected { named: Some("roberta".to_owned()), ..Expected::default() });
    assert!(asked(&world, 1).is_empty(), "{wrong} holds another");
    let right = world.table.join(world.now, called("roberta", "r"), false).unwrap();
    let namesake = world.table.join(world.now, called("roberta", "s"), false).unwrap();
    world.settle();
    assert_eq!(asked(&world, 1), [right], "{namesake} is called so, but holds other weights");
    assert!(world.closed.is_empty());
}
