//! Which fault strikes next: drawn from a seed, so that a run of chaos can be made again.

use std::time::Duration;

use tests::Dice;

/// One fault, and how long it lasts where it lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// SIGKILL of an evaluator; another is started in its place.
    Kill(Duration),
    /// SIGTERM of an evaluator, which must leave with exit code 0; another is started in its place.
    Leave(Duration),
    /// SIGSTOP of an evaluator, then SIGCONT.
    Freeze(Duration),
    /// Its connections are ended; it may dial again at once.
    Cut,
    /// Its line carries nothing, and nobody is told: half-open.
    Silence(Duration),
    /// Its line is down.
    Partition(Duration),
    /// Its line is slow and narrow.
    Slow(Duration),
    /// Its line loses what it carries for moments.
    Stutter(Duration),
    /// SIGKILL of the coordinator; it is resumed.
    KillCoordinator,
    /// SIGSTOP of the coordinator, then SIGCONT.
    FreezeCoordinator(Duration),
    /// SIGTERM of the coordinator, which must end with 130; it is resumed.
    StopCoordinator,
    /// SIGKILL of the coordinator; before it is resumed, its checkpoint is cut somewhere.
    TruncateCheckpoint,
    /// SIGKILL of the coordinator; before it is resumed, its checkpoint's newest file is removed.
    RemoveCheckpoint,
}

/// What may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Evaluators and their lines.
    Evaluators,
    /// The coordinator too.
    All,
}

/// Draws the next fault.
pub(crate) fn draw(dice: &mut Dice, aim: Aim) -> Fault {
    let lasting = |dice: &mut Dice, most: usize| Duration::from_millis(dice.roll(50, most) as u64);
    if aim == Aim::All && dice.roll(0, 6) == 0 {
        return match dice.roll(0, 5) {
            0 => Fault::KillCoordinator,
            4 => Fault::FreezeCoordinator(lasting(dice, 2000)),
            1 => Fault::StopCoordinator,
            2 => Fault::TruncateCheckpoint,
            _ => Fault::RemoveCheckpoint,
        };
    }
    match dice.roll(0, 8) {
        0 => Fault::Kill(lasting(dice, 400)),
        1 => Fault::Leave(lasting(dice, 400)),
        2 => Fault::Freeze(lasting(dice, 2500)), // the longest of them are taken for dead
        3 => Fault::Cut,
        4 => Fault::Silence(lasting(dice, 2500)),
        5 => Fault::Partition(lasting(dice, 1500)),
        6 => Fault::Slow(lasting(dice, 1500)),
        _ => Fault::Stutter(lasting(dice, 300)),
    }
}

impl Fault {
    /// Its name, for the account at the end.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Leave(_) => "leave",
            Self::Freeze(_) => "freeze",
            Self::Cut => "cut",
            Self::Silence(_) => "half-open",
            Self::Partition(_) => "partition",
            Self::Slow(_) => "slow",
            Self::Stutter(_) => "stutter",
            Self::KillCoordinator => "kill coordinator",
            Self::FreezeCoordinator(_) => "freeze coordinator",
            Self::StopCoordinator => "stop coordinator",
            Self::TruncateCheckpoint => "truncate checkpoint",
            Self::RemoveCheckpoint => "remove checkpoint",
        }
    }
}
