//! Network namespaces as hosts: a coordinator and its evaluators with addresses of their own, on one switch.
//!
//! What a proxy cannot do is done here: a cable is pulled without either side hearing of it, and packets are lost.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Case, Dice, Family, Process, binary, generations_done, until};

use crate::{alone, assert_as_whole, seed, whole};

/// Evaluators, each on a host of its own.
const EVALUATORS: usize = 3;
const FAULTS: usize = 24;
/// Generations from one fault's beginning to the next one's.
const APART: usize = 24;
const GENERATIONS: usize = FAULTS * APART + 24;

/// Hosts on a switch; they go when dropped.
struct Network {
    /// Tells this network from others on the machine.
    name: String,
}

/// `ip` or `tc`, by its words.
fn try_to(words: &str) -> Result<(), String> {
    let mut parts = words.split_whitespace();
    let program = parts.next().unwrap_or_default();
    let output = Command::new(program).args(parts).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn must(words: &str) {
    try_to(words).unwrap_or_else(|error| panic!("{error}"));
}

impl Network {
    /// A switch, itself in a namespace, and so many hosts: 10.0.0.1 and on.
    fn build(hosts: usize) -> Result<Self, String> {
        let network = Self { name: format!("z{}", std::process::id()) };
        let switch = network.switch();
        try_to(&format!("ip netns add {switch}"))?; // this alone says whether it is allowed
        must(&format!("ip -n {switch} link add switch type bridge"));
        must(&format!("ip -n {switch} link set switch up"));
        for host in 0..hosts {
            let space = network.host(host);
            must(&format!("ip netns add {space}"));
            must(&format!("ip -n {switch} link add port{host} type veth peer name eth0 netns {space}"));
            must(&format!("ip -n {switch} link set port{host} master switch up"));
            must(&format!("ip -n {space} addr add 10.0.0.{}/24 dev eth0", host + 1));
            must(&format!("ip -n {space} link set eth0 up"));
            must(&format!("ip -n {space} link set lo up"));
        }
        Ok(network)
    }

    fn switch(&self) -> String {
        format!("{}s", self.name)
    }

    fn host(&self, host: usize) -> String {
        format!("{}h{host}", self.name)
    }

    /// Pulls a host's cable at the switch, or plugs it in again.
    fn cable(&self, host: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        must(&format!("ip -n {} link set port{host} {state}", self.switch()));
    }

    /// Loses packets to a host and delays the rest; `false` where this kernel has no such thing.
    fn loss(&self, host: usize, lossy: bool) -> bool {
        let how = match lossy {
            true => "replace dev PORT root netem loss 10% delay 5ms",
            false => "del dev PORT root",
        };
        let how = how.replace("PORT", &format!("port{host}"));
        try_to(&format!("tc -n {} qdisc {how}", self.switch())).is_ok()
    }

    /// A command on a host.
    fn on(&self, host: usize, command: &Command) -> Command {
        let mut wrapped = Command::new("ip");
        wrapped.args(["netns", "exec", &self.host(host)]).arg(command.get_program()).args(command.get_args());
        wrapped.current_dir(command.get_current_dir().expect("a case's command has a folder"));
        wrapped
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..=EVALUATORS {
            let _ = try_to(&format!("ip netns del {}", self.host(host))); // it may not have come so far
        }
        let _ = try_to(&format!("ip netns del {}", self.switch()));
    }
}

#[test]
fn hosts_lose_their_cables_and_packets() {
    let _alone = alone();
    let network = match Network::build(1 + EVALUATORS) {
        Ok(network) => network,
        Err(why) => return println!("SKIPPED: no network namespaces here: {why}"),
    };
    let mut dice = Dice(seed(7));
    let case = whole(Case::masked(Family::Bert, "add").long(GENERATIONS), GENERATIONS);
    let tune = case.tune("hosts", &["--listen", "10.0.0.1:7070", "--silence", "1"]);
    let mut coordinator = Process::start(&mut network.on(0, &tune));
    coordinator.err_line("listening on");
    let start = |host: usize| {
        let mut command = Command::new(binary("zeroth-evaluator"));
        command.current_dir(case.path("")).args([
            "--coordinator",
            "http://10.0.0.1:7070",
            "--model",
            "model",
        ]);
        command.args(["--threads", "1", "--silence", "1", "--longest-pause", "1"]);
        Process::start(&mut network.on(host, &command))
    };
    let mut evaluators: Vec<Process> = (1..=EVALUATORS).map(start).collect();
    let done = |coordinator: &mut Process| {
        assert!(coordinator.is_running(), "over too soon\n{}", coordinator.report());
        generations_done(&case.path("hosts"))
    };
    let mut lossy = 0;
    for fault in 0..FAULTS {
        let begins = 1 + APART * fault;
        until("generations", || (done(&mut coordinator) >= begins).then_some(()));
        let host = dice.roll(1, EVALUATORS + 1);
        // A fault lasts a while, and less where the run comes on so fast without the host that faults would be missed.
        let (began, moment) = (Instant::now(), Duration::from_millis(dice.roll(50, 1500) as u64));
        let mut last = || {
            let enough = |done| began.elapsed() >= moment || done >= begins + APART * 3 / 4;
            until("a fault's end", || enough(done(&mut coordinator)).then_some(()));
        };
        match dice.roll(0, 4) {
            0 => {
                let killed = std::mem::replace(&mut evaluators[host - 1], start(host));
                killed.kill();
            }
            1 if network.loss(host, true) => {
                lossy += 1;
                last();
                network.loss(host, false);
            }
            2 => {
                network.cable(0, false); // the coordinator's own: everybody is lost
                last();
                network.cable(0, true);
            }
            _ => {
                network.cable(host, false);
                last();
                network.cable(host, true);
            }
        }
    }
    println!("{FAULTS} faults of hosts, {lossy} of them with packets lost");
    let ended = coordinator.wait().expect(0);
    for evaluator in evaluators {
        evaluator.signal("TERM");
        evaluator.wait().expect(0);
    }
    assert_as_whole(&case, "hosts", &ended.json(), GENERATIONS);
}
