//! Fleet, server and dialler over a real socket, with a fake worker: the wire changes nothing, and what breaks
//! on it is told or mended.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test's helpers, too, end by panicking

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coordinator::fleet::Expected;
use coordinator::serve::ServeOptions;
use coordinator::serve::cli::connect;
use evaluator::dial::{self, DialError, DialOptions};
use proto::client::{Files, Security};
use proto::v1::ListRequest;
use proto::v1::runs_client::RunsClient;
use shared::messages::Hello;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

mod house;

use house::{House, dial, dial_as, fake, hello, in_process, options, prepare, short_run, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wire_changes_no_bit_and_drained_evaluators_end_well() {
    let house = House::open(ServeOptions::default()).await;
    let (one, _) = dial(options(house.address, "m"), Duration::ZERO);
    let (two, _) = dial(options(house.address, "m"), Duration::from_millis(3));
    let over_the_wire = short_run(&house.fleet).await;
    assert_eq!(over_the_wire, in_process().await);
    within(house.fleet.drain()).await;
    within(one).await.unwrap().unwrap();
    within(two).await.unwrap().unwrap();
    house.close().await;
}

/// Passes bytes on between a dialler and `target`, each connection until it is cut.
async fn proxy(target: SocketAddr) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, mut cuts) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(target).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = cuts.recv() => {}
            }
        }
    });
    (address, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_cut_in_the_middle_is_dialled_again_and_the_run_goes_on() {
    let house = House::open(ServeOptions::default()).await;
    let (address, cut) = proxy(house.address).await;
    let (dialled, started) = dial(options(address, "m"), Duration::from_millis(30));
    let cutting = tokio::spawn(async move {
        for _ in 0..2 {
            sleep(Duration::from_millis(150)).await;
            cut.send(()).await.unwrap();
        }
        cut // dropped now, it would cut for ever
    });
    let through_cuts = short_run(&house.fleet).await;
    let _cut = within(cutting).await.unwrap();
    assert_eq!(through_cuts, in_process().await);
    assert!(started.load(Ordering::SeqCst) >= 2, "the stream was not cut");
    within(house.fleet.drain()).await;
    within(dialled).await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_model_is_refused() {
    let house = House::open(ServeOptions::default()).await;
    let (_right, _) = dial(options(house.address, "m"), Duration::ZERO);
    within(house.fleet.begin(prepare(), Expected::default())).await.unwrap();
    let (wrong, started) = dial(options(house.address, "other"), Duration::ZERO);
    let error = within(wrong).await.unwrap().unwrap_err();
    assert!(matches!(&error, DialError::Refused { reason, .. } if reason.contains("other")), "{error}");
    assert_eq!(started.load(Ordering::SeqCst), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluator_dropped_later_is_told_why() {
    let house = House::open(ServeOptions::default()).await;
    let (early, _) = dial(options(house.address, "other"), Duration::ZERO);
    let mut status = house.fleet.status();
    within(status.wait_for(|status| !status.evaluators.is_empty())).await.unwrap();
    let fleet = house.fleet.clone();
    let begin = tokio::spawn(async move {
        fleet.begin(prepare(), Expected { model: Some(hello("m").model), ..Expected::default() }).await
    });
    let error = within(early).await.unwrap().unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    begin.abort();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluator_that_lies_is_sent_away_and_changes_no_bit() {
    let house = House::open(ServeOptions::default()).await;
    let named = |name: &str| {
        let options = options(house.address, "m");
        DialOptions { hello: Hello { name: name.to_owned(), ..options.hello }, ..options }
    };
    let pause = Duration::from_millis(20); // long enough for all to have a part
    let honest = ["one", "two"].map(|name| dial(named(name), pause).0);
    let (liar, _) = dial_as(named("liar"), pause, 0.25);
    let mut status = house.fleet.status();
    within(status.wait_for(|status| status.evaluators.len() == 3)).await.unwrap();
    let with_a_liar = short_run(&house.fleet).await;
    assert_eq!(with_a_liar, in_process().await);
    let again = dial(named("liar"), pause).0;
    for dialled in [liar, again] {
        let error = within(dialled).await.unwrap().unwrap_err();
        let told = "evaluator liar is quarantined";
        assert!(
            matches!(&error, DialError::Quarantined { reason, .. } if reason.starts_with(told)),
            "{error}"
        );
        assert!(!error.of_configuration(), "another machine may do");
    }
    within(status.wait_for(|status| status.quarantined.len() == 1)).await.unwrap();
    within(house.fleet.drain()).await;
    for dialled in honest {
        within(dialled).await.unwrap().unwrap();
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_asked_for() {
    let house = House::open(ServeOptions::default().with_token("open sesame?no:one-word")).await;
    let try_with = async |token: Option<&str>| {
        let mut options = options(house.address, "m");
        if let Some(token) = token {
            options.security = Security::default().with_token(token).unwrap();
        }
        let (dialled, _) = dial(options, Duration::ZERO);
        within(dialled).await.unwrap()
    };
    for wrong in [None, Some("guess")] {
        let error = try_with(wrong).await.unwrap_err();
        assert!(
            matches!(&error, DialError::Refused { reason, .. } if reason.contains("--token-file")),
            "{error}"
        );
    }
    let mut right = options(house.address, "m");
    right.security = Security::default().with_token("open sesame?no:one-word").unwrap();
    let (dialled, _) = dial(right, Duration::ZERO);
    within(house.fleet.begin(prepare(), Expected::default())).await.unwrap();
    within(house.fleet.drain()).await;
    within(dialled).await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_on_ones_own_wish_gives_the_leases_back() {
    let house = House::open(ServeOptions::default()).await;
    let (leave, left) = oneshot::channel::<()>();
    let start = |orders, reports| tokio::spawn(fake(orders, reports, Duration::from_secs(60), 0.0));
    let slow = tokio::spawn(dial::run(options(house.address, "m"), start, async move {
        let _ = left.await;
    }));
    let fleet = house.fleet.clone();
    let run = tokio::spawn(async move { short_run(&fleet).await });
    let mut status = house.fleet.status();
    within(status.wait_for(|status| status.evaluators.iter().any(|e| e.leases > 0))).await.unwrap();
    leave.send(()).unwrap();
    within(slow).await.unwrap().unwrap();
    let (_quick, _) = dial(options(house.address, "m"), Duration::ZERO);
    assert_eq!(within(run).await.unwrap(), in_process().await);
    house.close().await;
}

#[tokio::test]
async fn nobody_there_is_given_up() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = DialOptions { give_up_after: Some(Duration::from_millis(500)), ..options(free, "m") };
    let error = within(dial(options, Duration::ZERO).0).await.unwrap().unwrap_err();
    assert!(matches!(error, DialError::GaveUp { .. }), "{error}");
    let nonsense = DialOptions { url: "ftp://x".to_owned(), ..self::options(free, "m") };
    let error = within(dial(nonsense, Duration::ZERO).0).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "coordinator address ftp://x: must begin with http:// or https://");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_who_takes_part() {
    let house = House::open(ServeOptions::default()).await;
    let (_worker, _) = dial(options(house.address, "m"), Duration::ZERO);
    short_run(&house.fleet).await;
    let url = format!("http://{}", house.address);
    let (channel, token) = connect(&Files::default(), &url).await.unwrap();
    let mut client = RunsClient::with_interceptor(channel, token);
    let list = async { client.list(ListRequest {}).await.unwrap().into_inner() };
    let list = within(list).await;
    assert_eq!((list.runs.len(), list.evaluators.len()), (1, 1));
    assert_eq!(list.evaluators[0].name, "fake");
    house.close().await;
}
