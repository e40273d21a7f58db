//! A coordinator, its evaluators, each behind a line of its own, and what is done to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Case, Coordinator, DEADLINE, Dice, Line, Process, Proxy, evaluator, until};

use crate::faults::{Aim, Fault, draw};

/// Arguments of both programs: who is silent for a second is lost.
const IMPATIENT: [&str; 2] = ["--silence", "1"];

/// What each line adds to a piece: a run that would be over in a moment lasts for its faults.
const LINE: Duration = Duration::from_millis(2);

/// One evaluator and its line.
struct Site {
    name: String,
    proxy: Proxy,
    /// `None` while nobody is there.
    process: Option<Process>,
    /// What that held when it had just come.
    held: Held,
    /// When, and from what, it recovers.
    struck: Option<(Instant, Fault)>,
}

impl Site {
    /// Starts an evaluator there.
    fn dial(&mut self, case: &Case) {
        let mut command: Command = evaluator(case, &self.proxy.url(), &self.name);
        command.args(IMPATIENT).args(["--longest-pause", "1"]);
        let mut process = Process::start(&mut command);
        process.err_line("coordinator"); // welcomed or not: from here on it knows its signals
        self.held = Held::by(&process);
        self.process = Some(process);
    }

    /// Has the evaluator leave, if it has not yet: exit code 0 either way.
    fn send_away(&mut self) {
        let process = self.process.take().expect("somebody is there");
        process.signal("TERM");
        process.wait().expect(0);
    }
}

/// What a process holds of its machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) threads: usize,
    pub(crate) files: usize,
}

impl Held {
    pub(crate) fn by(process: &Process) -> Self {
        let count = |what: &str| {
            let entries = fs::read_dir(format!("/proc/{}/{what}", process.id())).expect("it is running");
            entries.count()
        };
        Self { threads: count("task"), files: count("fd") }
    }
}

/// The trace's growth, read piece by piece.
#[derive(Default)]
struct Progress {
    read: usize,
    done: usize,
}

pub(crate) struct Cluster<'a> {
    case: &'a Case,
    folder: String,
    coordinator: Option<Coordinator>,
    sites: Vec<Site>,
    dice: Dice,
    progress: Progress,
    /// How often each kind has struck.
    account: BTreeMap<&'static str, usize>,
    /// A checkpoint that was damaged: as long as it lies beside the newest, that one must stay whole.
    damaged: Option<Vec<u8>>,
}

impl<'a> Cluster<'a> {
    /// A coordinator, alone.
    pub(crate) fn start(case: &'a Case, folder: &str, seed: u64) -> Self {
        Self {
            case,
            folder: folder.to_owned(),
            coordinator: Some(Coordinator::start(case, folder, &IMPATIENT)),
            sites: Vec::new(),
            dice: Dice(seed),
            progress: Progress::default(),
            account: BTreeMap::new(),
            damaged: None,
        }
    }

    /// One more evaluator.
    pub(crate) fn join(&mut self) {
        let name = format!("e{}", self.sites.len());
        let proxy = Proxy::start(&self.coordinator().address);
        proxy.slow(LINE, None);
        let mut site = Site { name, proxy, process: None, held: Held { threads: 0, files: 0 }, struck: None };
        site.dial(self.case);
        self.sites.push(site);
    }

    pub(crate) fn coordinator(&mut self) -> &mut Coordinator {
        self.coordinator.as_mut().expect("it is there between two faults")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.case.path(&self.folder)
    }

    /// Generations in the trace; a resume takes some away.
    pub(crate) fn done(&mut self) -> usize {
        let text = fs::read(self.path().join("events.jsonl")).unwrap_or_default();
        let Progress { read, done } = &mut self.progress;
        if text.len() < *read {
            (*read, *done) = (0, 0);
        }
        let new = &text[*read..];
        let whole = new.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let is_generation = |line: &&[u8]| line.windows(21).any(|part| part == br#""event":"generation","#);
        *done += new[..whole].split(|&byte| byte == b'\n').filter(is_generation).count();
        *read += whole;
        *done
    }

    /// Lets time pass until the run is so far; whoever is due recovers meanwhile.
    pub(crate) fn run_to(&mut self, generation: usize) {
        let began = Instant::now();
        loop {
            self.recover(|due| due <= Instant::now());
            if self.done() >= generation {
                return;
            }
            let coordinator = &mut self.coordinator().process;
            assert!(
                coordinator.is_running(),
                "it ended before generation {generation}\n{}",
                coordinator.report()
            );
            for process in self.sites.iter_mut().filter_map(|site| site.process.as_mut()) {
                assert!(process.is_running(), "an evaluator ended\n{}", process.report());
            }
            assert!(began.elapsed() < DEADLINE, "no generation {generation} within {DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next fault strikes.
    pub(crate) fn strike(&mut self, aim: Aim) {
        let fault = draw(&mut self.dice, aim);
        match fault {
            Fault::KillCoordinator
            | Fault::StopCoordinator
            | Fault::TruncateCheckpoint
            | Fault::RemoveCheckpoint => {
                self.end_coordinator(fault);
                self.resume();
            }
            Fault::FreezeCoordinator(lasts) => {
                self.strikes(fault);
                self.coordinator().process.signal("STOP");
                std::thread::sleep(lasts); // the fault's own time: nothing can be awaited
                self.coordinator().process.signal("CONT");
            }
            _ => self.strike_a_site(fault),
        }
    }

    /// Strikes an evaluator or its line; one of them stays unharmed.
    fn strike_a_site(&mut self, fault: Fault) {
        let harmed = self.sites.iter().filter(|site| site.struck.is_some()).count();
        if harmed + 1 >= self.sites.len() {
            let first = self.sites.iter().filter_map(|site| site.struck.map(|(due, _)| due)).min();
            self.recover(|due| Some(due) == first);
        }
        let whole: Vec<usize> = (0..self.sites.len()).filter(|&i| self.sites[i].struck.is_none()).collect();
        self.strikes(fault);
        let site = &mut self.sites[whole[self.dice.roll(0, whole.len())]];
        let lasts = match fault {
            Fault::Kill(lasts) => {
                site.process.take().expect("it is whole").kill();
                lasts
            }
            Fault::Leave(lasts) => {
                site.send_away();
                lasts
            }
            Fault::Freeze(lasts) => {
                site.process.as_ref().expect("it is whole").signal("STOP");
                lasts
            }
            Fault::Silence(lasts) | Fault::Stutter(lasts) => {
                site.proxy.set(Line::Silent);
                lasts
            }
            Fault::Partition(lasts) => {
                site.proxy.set(Line::Down);
                lasts
            }
            Fault::Slow(lasts) => {
                site.proxy.slow(Duration::from_millis(40), Some(50_000));
                lasts
            }
            _ => {
                site.proxy.cut();
                return;
            }
        };
        site.struck = Some((Instant::now() + lasts, fault));
    }

    /// Everybody who is due recovers.
    pub(crate) fn recover(&mut self, is_due: impl Fn(Instant) -> bool) {
        for site in &mut self.sites {
            let Some((_, fault)) = site.struck.take_if(|(due, _)| is_due(*due)) else {
                continue;
            };
            match fault {
                Fault::Kill(_) | Fault::Leave(_) => {
                    site.dial(self.case);
                }
                Fault::Freeze(_) => site.process.as_ref().expect("it is frozen").signal("CONT"),
                _ => {
                    site.proxy.set(Line::Up);
                    site.proxy.slow(LINE, None);
                }
            }
        }
    }

    /// Ends the coordinator, and does to its checkpoint what the fault says.
    pub(crate) fn end_coordinator(&mut self, fault: Fault) {
        if fault == Fault::StopCoordinator {
            self.recover(|_| true); // nobody shall find an old farewell when it wakes
        }
        let Coordinator { process, .. } = self.coordinator.take().expect("it is running");
        if fault == Fault::StopCoordinator {
            process.signal("TERM");
            process.wait().expect(130);
            self.sites.iter_mut().for_each(Site::send_away); // whom it could reach has gone already
        } else {
            process.kill();
        }
        let newest = self.path().join("checkpoint.bin");
        let mut struck = fault;
        match fault {
            Fault::TruncateCheckpoint if self.may_damage() => {
                let whole = fs::read(&newest).expect("a checkpoint");
                let cut = whole[..self.dice.roll(0, whole.len())].to_vec();
                fs::write(&newest, &cut).expect("a folder of the test's own");
                self.damaged = Some(cut);
            }
            Fault::RemoveCheckpoint if self.may_damage() => {
                fs::remove_file(&newest).expect("a checkpoint");
            }
            Fault::StopCoordinator => {}
            _ => struck = Fault::KillCoordinator,
        }
        self.strikes(struck);
    }

    fn strikes(&mut self, fault: Fault) {
        *self.account.entry(fault.name()).or_default() += 1;
    }

    /// Two checkpoints are there, none of them damaged: one may go.
    fn may_damage(&self) -> bool {
        let read = |name: &str| fs::read(self.path().join(name)).unwrap_or_default();
        let files = [read("checkpoint.bin"), read("checkpoint.bin.previous")];
        !files.iter().any(|file| file.is_empty() || Some(file) == self.damaged.as_ref())
    }

    /// Starts the coordinator again; all lines lead to it.
    pub(crate) fn resume(&mut self) {
        let more = ["--resume", IMPATIENT[0], IMPATIENT[1]];
        let coordinator = Coordinator::start(self.case, &self.folder, &more);
        for site in &mut self.sites {
            site.proxy.lead_to(&coordinator.address);
            if site.process.is_none() && site.struck.is_none() {
                site.dial(self.case);
            }
        }
        self.coordinator = Some(coordinator);
    }

    /// The only evaluator leaves; after a while another comes.
    pub(crate) fn leave_alone(&mut self, pause: Duration) {
        self.sites[0].send_away();
        let waits = "waiting for an evaluator";
        self.coordinator.as_mut().expect("it is running").process.nth_err_line(waits, 1);
        std::thread::sleep(pause); // it must not say so again
        self.sites[0].dial(self.case);
    }

    /// Cuts all lines and waits until the coordinator holds no more than before anybody came; then mends them.
    pub(crate) fn expect_nothing_held(&mut self, before: Held) {
        self.recover(|_| true);
        self.sites.iter().for_each(|site| site.proxy.set(Line::Down));
        let coordinator = &mut self.coordinator.as_mut().expect("it is running").process;
        until(&format!("as few files as before: {before:?}"), || {
            assert!(coordinator.is_running(), "over too soon\n{}", coordinator.report());
            // the trace is open now
            (Held::by(coordinator).files <= before.files + 1).then_some(())
        });
        let now = Held::by(coordinator);
        // threads for what blocks are kept for a while, and are as many as there were jobs at once
        assert!(now.threads <= before.threads + 8, "{before:?} before, {now:?} now");
        for site in &self.sites {
            let (before, process) = (site.held, site.process.as_ref().expect("everybody has recovered"));
            // a connection, the thread that computes for it, and what may still be ending
            until("an evaluator to hold no more than at its first connection", || {
                let now = Held::by(process);
                (now.threads <= before.threads + 4 && now.files <= before.files + 4).then_some(())
            });
        }
        println!("held by the coordinator: {before:?} before anybody came, {now:?} after all faults");
        coordinator.err_line("waiting for an evaluator");
        self.sites.iter().for_each(|site| site.proxy.set(Line::Up));
    }

    /// Mends everything and waits for the end; gives what the coordinator has printed. Nobody is left behind.
    pub(crate) fn finish(mut self) -> serde_json::Value {
        self.recover(|_| true);
        let Coordinator { process, .. } = self.coordinator.take().expect("it is running");
        let ended = process.wait().expect(0);
        self.sites.iter_mut().for_each(Site::send_away); // who was not reached would wait for the next coordinator
        assert_eq!(left_behind(self.case), Vec::<String>::new(), "processes are left");
        let kinds: Vec<String> = self.account.iter().map(|(name, times)| format!("{times} {name}")).collect();
        if !kinds.is_empty() {
            println!("{} faults: {}", self.account.values().sum::<usize>(), kinds.join(", "));
        }
        ended.json()
    }
}

/// Processes at work in the case's folder.
fn left_behind(case: &Case) -> Vec<String> {
    let folder = fs::canonicalize(case.path("")).expect("the case's folder");
    let processes = fs::read_dir("/proc").expect("this is Linux").flatten();
    let there = processes
        .filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|place| place == folder));
    there.map(|process| format!("{:?}", process.file_name())).collect()
}
