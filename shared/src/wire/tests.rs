//! Every message survives the wire; what is malformed is named.

use proto::v1::{order, report};

use super::orders::score_of;
use super::*;
use crate::ids::{ContextVersion, Layer, LeaseId, RunId};
use crate::messages::{
    Answer, Canary, CanaryOutcome, ContextUpdate, ExampleSet, Lease, Order, Outcome, Prepare, Prompted,
    Ready, Refusal, Refused, Report, Start, Work,
};
use crate::spec::{Init, Injection, ProjectionKind, ReadOut};
use crate::task::{Example, Loss};

fn example(text: &str, pair: Option<&str>) -> Example {
    Example { text: text.to_owned(), text_pair: pair.map(str::to_owned), label: 1, line: 7 }
}

fn prepare() -> Prepare {
    Prepare {
        run: RunId(1),
        read_out: ReadOut::MaskedLm,
        temperature: 0.05,
        template: "{text} It was {mask}.".to_owned(),
        words: vec!["bad".to_owned(), "good".to_owned()],
        injection: Injection::Add,
        tokens: 50,
        init: Init::Vocabulary,
        loss: Loss::Ce,
        projection: ProjectionKind::Normal,
        dim: 500,
        seed: u64::MAX,
        train: vec![example("a", None), example("b", Some("c"))],
        dev: vec![example("d", Some(""))],
    }
}

fn orders() -> Vec<Order> {
    let lease = |work| {
        let trace = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
        Order::Lease(Lease { id: LeaseId(9), run: RunId(1), version: ContextVersion(3), work, trace })
    };
    let score = |prompt, examples| lease(Work::Score { prompt, examples });
    let mut orders = vec![
        Order::Start(Start {
            run: RunId(1),
            projection_stds: vec![0.5, f32::MIN_POSITIVE],
            version: ContextVersion(2),
            context: vec![vec![1.0, -0.0], vec![]],
        }),
        Order::SetContext(ContextUpdate {
            run: RunId(1),
            version: ContextVersion(3),
            layer: Layer(7),
            z: vec![f32::MAX],
        }),
        lease(Work::Evaluate {
            layer: Layer(2),
            candidates: vec![vec![1.0, 2.0], vec![3.0, 4.0]],
            examples: 4..9,
            canary: None,
        }),
        lease(Work::Evaluate {
            layer: Layer(2),
            candidates: Vec::new(),
            examples: 0..0,
            canary: Some(Canary { z: vec![1.0, 2.0], example: 3 }),
        }),
        score(Prompted::Manual, ExampleSet::Train(0..3)),
        score(Prompted::Context, ExampleSet::Dev(1..2)),
        score(Prompted::Context, ExampleSet::Inline(vec![example("x", None)])),
        Order::Forget(RunId(8)),
        Order::Drain,
    ];
    let boxed = |prepare| Order::Prepare(Box::new(prepare));
    for read_out in [ReadOut::MaskedLm, ReadOut::NextToken, ReadOut::Seq2Seq, ReadOut::Similarity] {
        orders.push(boxed(Prepare { read_out, ..prepare() }));
    }
    for loss in [Loss::Ce, Loss::Hinge, Loss::Metric] {
        orders.push(boxed(Prepare { loss, ..prepare() }));
    }
    orders.push(boxed(Prepare {
        injection: Injection::Prefix,
        init: Init::None,
        projection: ProjectionKind::Uniform,
        ..prepare()
    }));
    orders
}

fn reports() -> Vec<Report> {
    let refused = |lease, refusal| Report::Refused(Refused { run: RunId(1), lease, refusal });
    vec![
        Report::Ready(Box::new(Ready {
            run: RunId(1),
            layer_stds: vec![0.1, 0.2],
            initial: vec![1.0; 6],
            initial_ids: vec![5, 6],
            label_ids: vec![7],
            train_tokens: 99,
            flops: vec![1e12],
            memory_bytes: 1 << 40,
        })),
        Report::Answer(Answer {
            lease: LeaseId(4),
            outcomes: vec![Outcome {
                losses: vec![0.5, f32::INFINITY],
                predicted: vec![0, 1],
                logits: vec![1.5],
            }],
            canary: None,
        }),
        Report::Answer(Answer {
            lease: LeaseId(5),
            outcomes: Vec::new(),
            canary: Some(CanaryOutcome { loss: -0.5, predicted: 1 }),
        }),
        refused(None, Refusal::Input("word".to_owned())),
        refused(None, Refusal::Example { line: 17, problem: "long".to_owned() }),
        refused(Some(LeaseId(0)), Refusal::Model("other".to_owned())),
        refused(None, Refusal::Quarantined("liar".to_owned())),
        refused(None, Refusal::Protocol("2".to_owned())),
        refused(Some(LeaseId(3)), Refusal::Failed("engine".to_owned())),
        Report::Heartbeat { progress: 12 },
        Report::Leaving,
    ]
}

#[test]
fn every_order_comes_back_equal() {
    for order in orders() {
        assert_eq!(Order::try_from(v1::Order::from(order.clone())), Ok(order));
    }
}

#[test]
fn every_report_comes_back_equal() {
    for report in reports() {
        assert_eq!(Report::try_from(v1::Report::from(report.clone())), Ok(report));
    }
}

#[test]
fn hello_comes_back_equal_and_needs_its_model() {
    let model = ModelIdentity {
        name: "m".to_owned(),
        revision: Some("r".to_owned()),
        layers: 2,
        ..Default::default()
    };
    let hello = Hello {
        protocol: 1,
        name: "n".to_owned(),
        version: "v".to_owned(),
        model,
        device: "cpu".to_owned(),
        dtype: "f32".to_owned(),
        max_batch_tokens: 7,
    };
    let mut sent = v1::Hello::from(hello.clone());
    assert_eq!(Hello::try_from(sent.clone()), Ok(hello));
    sent.model = None;
    assert_eq!(Hello::try_from(sent), Err(WireError::Missing("hello.model")));
}

#[test]
fn bits_of_a_nan_survive() {
    let odd = f32::from_bits(0x7fc0_1234);
    let back = to_numbers("x", &to_bytes(&[odd])).unwrap();
    assert_eq!(back[0].to_bits(), odd.to_bits());
}

/// What prost makes of bytes with a field 99 that no version of ours has, in a message that says what kind it is.
#[test]
fn a_kind_of_a_newer_version_is_told_from_what_is_missing() {
    let newer = [0x9a, 0x06, 0x02, 0x08, 0x01];
    let order = <v1::Order as prost::Message>::decode(&newer[..]).unwrap();
    let report = <v1::Report as prost::Message>::decode(&newer[..]).unwrap();
    let lease = <v1::Lease as prost::Message>::decode(&newer[..]).unwrap();
    let score = v1::Score { prompted: 1, examples: None };
    let errors = [
        Order::try_from(order).unwrap_err(),
        Report::try_from(report).unwrap_err(),
        Lease::try_from(lease).unwrap_err(),
        score_of(score).unwrap_err(),
    ];
    for (error, what) in errors.into_iter().zip(["an order", "a report", "a lease", "a score"]) {
        assert_eq!(error, WireError::UnknownKind(what));
        assert!(error.of_versions() && error.to_string().starts_with(what), "{error}");
    }
    assert!(!WireError::Missing("x").of_versions());
}

/// A field that this version does not have is passed over: whoever adds one must be able to do without an answer to it.
#[test]
fn a_field_of_a_newer_version_is_ignored() {
    let report = Report::Heartbeat { progress: 7 };
    let v1::Report { kind: Some(report::Kind::Heartbeat(sent)) } = v1::Report::from(report.clone()) else {
        panic!("a heartbeat is sent as one")
    };
    let mut bytes = prost::Message::encode_to_vec(&sent);
    bytes.extend([0x9a, 0x06, 0x02, 0x08, 0x01]);
    let read = <v1::Heartbeat as prost::Message>::decode(&bytes[..]).unwrap();
    let back = v1::Report { kind: Some(report::Kind::Heartbeat(read)) };
    assert_eq!(Report::try_from(back), Ok(report));
}

#[test]
fn half_a_number_is_refused() {
    let update = v1::SetContext { z: vec![0; 7], ..Default::default() };
    let error = ContextUpdate::try_from(update).unwrap_err();
    assert_eq!(error, WireError::Torn { field: "set_context.z", bytes: 7 });
    assert_eq!(error.to_string(), "set_context.z holds 7 bytes, which is no whole number of f32");
}

#[test]
fn unknown_names_say_which_are_known() {
    let sent = v1::Prepare { loss: "mse".to_owned(), ..prepare().into() };
    let error = Prepare::try_from(sent).unwrap_err().to_string();
    assert_eq!(error, "prepare.loss: \"mse\" is none of: ce, hinge, metric");
    let sent = v1::Prepare { read_out: "magic".to_owned(), ..prepare().into() };
    let error = Prepare::try_from(sent).unwrap_err().to_string();
    assert_eq!(error, "prepare.read_out: \"magic\" is none of: masked-lm, next-token, seq2seq, similarity");
    let error = score_of(v1::Score { prompted: 0, examples: None }).unwrap_err().to_string();
    assert_eq!(error, "score.prompted: 0 is none of: 1 (manual), 2 (context)");
    let refusal = v1::Refusal { kind: 17, ..Default::default() };
    assert!(Refusal::try_from(refusal).unwrap_err().to_string().contains("4 (failed)"));
}

#[test]
fn the_handshake_is_no_part_of_the_conversation() {
    let welcome = v1::Order { kind: Some(order::Kind::Welcome(v1::Welcome::default())) };
    assert_eq!(Order::try_from(welcome), Err(WireError::Unexpected("welcome")));
    let hello = v1::Report { kind: Some(report::Kind::Hello(v1::Hello::default())) };
    assert_eq!(Report::try_from(hello), Err(WireError::Unexpected("hello")));
}
