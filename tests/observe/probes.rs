//! Probes tell the truth: not ready before the model is there and the coordinator has said welcome, not alive when stuck.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use tests::{Case, Coordinator, Family, Process, evaluator, evaluator_on, run};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{endless, place, stop, until};

/// A probe gives up after so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a probe hears of a service; `None` where nobody answers it.
fn probe(address: &str, service: &str) -> Option<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.ok()?);
        let request = HealthCheckRequest { service: service.to_owned() };
        Some(client.check(request).await.ok()?.into_inner().status() == ServingStatus::Serving)
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await }).ok().flatten()
}

/// Waits until a probe hears that.
fn hears(address: &str, service: &str, wanted: Option<bool>) {
    until(&format!("{wanted:?} of {service:?}"), || (probe(address, service) == wanted).then_some(()));
}

fn fifo(case: &Case, name: &str) {
    run(Command::new("mkfifo").arg(case.path(name))).expect(0);
}

const HEALTH: [&str; 2] = ["--health", "127.0.0.1:0"];
const EVALUATORS: &str = "zeroth.v1.Evaluators";

#[test]
fn an_evaluator_is_not_ready_before_its_model_is_loaded() {
    let case = Case::masked(Family::Bert, "add");
    fifo(&case, "model.gguf"); // whoever opens it waits
    let mut loading =
        Process::start(evaluator_on(&case, "./model.gguf", "http://127.0.0.1:9", "a").args(HEALTH));
    let health = place(&mut loading, "health");
    hears(&health, "", Some(true));
    hears(&health, "startup", Some(false));
    hears(&health, EVALUATORS, Some(false));
    stop(loading, 0);
}

#[test]
fn an_evaluator_is_ready_while_it_is_welcome() {
    let case = endless();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free); // nobody listens there now
    let mut worker = Process::start(evaluator(&case, &format!("http://{address}"), "a").args(HEALTH));
    let health = place(&mut worker, "health");
    hears(&health, "startup", Some(true));
    assert_eq!([probe(&health, ""), probe(&health, EVALUATORS)], [Some(true), Some(false)]);
    let coordinator = Coordinator::start_at(&case, "run", &address, &[]);
    hears(&health, EVALUATORS, Some(true));
    coordinator.process.kill();
    hears(&health, EVALUATORS, Some(false));
    assert_eq!([probe(&health, ""), probe(&health, "startup")], [Some(true), Some(true)]);
    stop(worker, 0);
}

/// The run's own loop waits for a file that opens for nobody: the ports answer, the run does not go on.
#[test]
fn a_coordinator_whose_loop_is_stuck_is_not_alive() {
    let case = endless();
    let mut coordinator =
        Coordinator::start(&case, "run", &["--stuck-after", "1", "--health", "127.0.0.1:0"]);
    let health = place(&mut coordinator.process, "health");
    for service in ["", EVALUATORS, "zeroth.v1.Runs"] {
        hears(&health, service, Some(true));
    }
    hears(&coordinator.address, "", Some(true));
    fifo(&case, "run/events.jsonl");
    let _worker = Process::start(&mut evaluator(&case, &coordinator.url(), "a"));
    for service in ["", EVALUATORS, "zeroth.v1.Runs"] {
        hears(&health, service, Some(false));
    }
    coordinator.process.kill();
}

/// A process that does not run at all says nothing, and says that it lives when it does.
#[test]
fn a_coordinator_that_is_stopped_answers_no_probe() {
    let case = endless();
    let mut coordinator = Coordinator::start(&case, "run", &HEALTH);
    let health = place(&mut coordinator.process, "health");
    hears(&health, "", Some(true));
    coordinator.process.signal("STOP");
    hears(&health, "", None);
    coordinator.process.signal("CONT");
    hears(&health, "", Some(true));
    stop(coordinator.process, 130);
}

/// Probes bring no certificate: the plain port answers them, beside one that asks for both.
#[test]
fn a_plain_port_answers_beside_mutual_tls() {
    let case = endless();
    let tls = |name: &str| tests::root().join("coordinator/tests/tls").join(name).display().to_string();
    let (cert, key, ca) = (tls("server.pem"), tls("server.key"), tls("ca.pem"));
    let more = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca, "--health", "127.0.0.1:0"];
    let mut coordinator = Coordinator::start(&case, "run", &more);
    let health = place(&mut coordinator.process, "health");
    hears(&health, "", Some(true));
    assert_eq!(probe(&coordinator.address, ""), None);
    stop(coordinator.process, 130);
}

/// A port that is taken is the user's to choose anew.
#[test]
fn a_port_that_is_taken_is_told() {
    let case = endless();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--metrics", "--health"] {
        run(&mut case.tune("run", &[option, &address])).expect_refusal(&[option, &address, "port 0"]);
        let mut worker = evaluator(&case, "http://127.0.0.1:9", "a");
        run(worker.args([option, &address])).expect_refusal(&[option, &address]);
    }
    run(&mut case.tune("run", &["--otlp", "collector:4317"])).expect_refusal(&["--otlp", "http://"]);
}
