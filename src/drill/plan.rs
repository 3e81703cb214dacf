//! What a cycle does and when: drawn from (seed, cycle) alone, before anything happens.

use crate::simulator::RestartMode;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::ops::Range;
use std::time::Duration;

/// The moment of the last planned kill of a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Moment {
    /// Nobody commands.
    Quiet,
    /// In the middle of clients' commands.
    Commands,
    /// In the recovery that follows a kill in the middle of commands.
    Recovery,
    /// In that recovery, and in the next one again.
    SecondRecovery,
}

impl Moment {
    const ALL: [Moment; 4] = [Moment::Quiet, Moment::Commands, Moment::Recovery, Moment::SecondRecovery];
}

/// Something else that goes wrong; servers by place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server's link is cut for so long.
    CutLink { server: usize, lasts: Duration },
    /// The server restarts, with its meetings or without.
    Restart { server: usize, mode: RestartMode, down: Duration },
    /// The server reads and answers nothing for so long: what a dead or stopped scheduler sent waits in its socket.
    Hang { server: usize, lasts: Duration },
    /// The server's packets are late by so much, for so long.
    Late { server: usize, by: Duration, lasts: Duration },
    /// The server loses the events that are not sent yet.
    LoseEvents { server: usize },
    /// The server forgets which records were removed.
    ForgetRemovals { server: usize },
    /// The server ends one of its meetings by itself; `pick` chooses which.
    EndMeeting { server: usize, pick: usize },
    /// The server carries a meeting that nobody here has created.
    Orphan { server: usize },
}

/// A fault and its moment, counted from the begin of the phase that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timed {
    pub(crate) after: Duration,
    pub(crate) fault: Fault,
}

/// What both kinds of cycle have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Common {
    /// From the cycle's begin to the kill or stop.
    pub(crate) strike_after: Duration,
    /// Clients go on commanding for so long after the recovery.
    pub(crate) commands_after: Duration,
    /// The cache is emptied while nobody uses it.
    pub(crate) empty_cache: bool,
    /// From the cycle's begin; from the strike; from the last start.
    pub(crate) before: Vec<Timed>,
    pub(crate) struck: Vec<Timed>,
    pub(crate) recovering: Vec<Timed>,
    /// Drives the terminals that change by themselves.
    pub(crate) script: u64,
}

/// A cycle that kills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crash {
    pub(crate) common: Common,
    pub(crate) moment: Moment,
    /// Nobody runs for so long after the first kill.
    pub(crate) dead: Duration,
    /// From each of the next starts to its kill.
    pub(crate) recovery_kills: Vec<Duration>,
}

/// A cycle that stops the active one of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) common: Common,
    /// The stopped one is continued so long after the other commands everything.
    pub(crate) continue_after: Duration,
}

/// Kills in a recovery come so long after the start: a process needs some 20 ms to its first query, and some
/// 100 ms later all is done, on a machine with nothing else to do.
const IN_RECOVERY_MS: Range<u64> = 5..200;

/// The dice of a cycle; `stream` tells its users apart.
pub(crate) fn dice(seed: u64, cycle: u32, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_be_bytes());
    key[8..12].copy_from_slice(&cycle.to_be_bytes());
    key[12..20].copy_from_slice(&stream.to_be_bytes());
    ChaCha8Rng::from_seed(key)
}

/// The plan of a cycle that kills.
pub(crate) fn crash(seed: u64, cycle: u32, servers: usize) -> Crash {
    let mut rng = dice(seed, cycle, 1);
    let moment = *Moment::ALL.choose(&mut rng).unwrap_or(&Moment::Commands);
    let common = common(&mut rng, servers);
    let kills = match moment {
        Moment::Quiet | Moment::Commands => 0,
        Moment::Recovery => 1,
        Moment::SecondRecovery => 2,
    };
    let dead = ms(&mut rng, 0..150);
    let recovery_kills = (0..kills).map(|_| ms(&mut rng, IN_RECOVERY_MS)).collect();
    Crash { common, moment, dead, recovery_kills }
}

/// The plan of a cycle that stops.
pub(crate) fn pause(seed: u64, cycle: u32, servers: usize) -> Pause {
    let mut rng = dice(seed, cycle, 2);
    let mut common = common(&mut rng, servers);
    if rng.random_bool(0.5) {
        // Some commands of the one that is stopped reach a server's socket, and are read after the other's attach, or
        // just before it.
        let server = rng.random_range(0..servers);
        let after = common.strike_after.saturating_sub(ms(&mut rng, 1..60));
        common.before.push(Timed { after, fault: Fault::Hang { server, lasts: ms(&mut rng, 1_200..2_200) } });
    }
    Pause { common, continue_after: ms(&mut rng, 0..200) }
}

fn common(rng: &mut ChaCha8Rng, servers: usize) -> Common {
    let strike_after = ms(rng, 20..400);
    let mut common = Common {
        strike_after,
        commands_after: ms(rng, 50..300),
        empty_cache: rng.random_bool(0.1),
        before: Vec::new(),
        struck: Vec::new(),
        recovering: Vec::new(),
        script: rng.random(),
    };
    // Two in three cycles have one, some have several.
    for _ in 0..3 {
        if rng.random_bool(1.0 / 3.0) {
            let fault = fault(rng, servers);
            match rng.random_range(0..3) {
                0 => common.before.push(Timed { after: ms(rng, 0..400), fault }),
                1 => common.struck.push(Timed { after: ms(rng, 0..150), fault }),
                _ => common.recovering.push(Timed { after: ms(rng, 0..200), fault }),
            }
        }
    }
    common
}

fn fault(rng: &mut ChaCha8Rng, servers: usize) -> Fault {
    let server = rng.random_range(0..servers);
    match rng.random_range(0..11) {
        0 | 1 => Fault::CutLink { server, lasts: ms(rng, 10..300) },
        2 => Fault::Restart { server, mode: RestartMode::SameBoot, down: ms(rng, 0..200) },
        3 => Fault::Restart { server, mode: RestartMode::NewBoot, down: ms(rng, 0..200) },
        4 => Fault::Late { server, by: ms(rng, 1..40), lasts: ms(rng, 50..500) },
        5 => Fault::LoseEvents { server },
        6 => Fault::ForgetRemovals { server },
        7 | 8 => Fault::EndMeeting { server, pick: rng.random_range(0..1_000) },
        9 => Fault::Hang { server, lasts: ms(rng, 50..600) },
        _ => Fault::Orphan { server },
    }
}

fn ms(rng: &mut ChaCha8Rng, range: Range<u64>) -> Duration {
    Duration::from_micros(rng.random_range(range.start * 1_000..range.end * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_cycle_can_be_drawn_alone_and_others_are_different() {
        assert_eq!(crash(7, 40, 3), crash(7, 40, 3));
        assert_eq!(pause(7, 40, 3), pause(7, 40, 3));
        assert_ne!(crash(7, 40, 3), crash(7, 41, 3));
        assert_ne!(crash(7, 40, 3), crash(8, 40, 3));
    }

    #[test]
    fn every_moment_and_every_fault_comes_and_servers_are_there() {
        let mut moments: BTreeMap<Moment, u32> = BTreeMap::new();
        let mut faults: BTreeMap<String, u32> = BTreeMap::new();
        for cycle in 1..=1_000 {
            let plan = crash(3, cycle, 2);
            *moments.entry(plan.moment).or_default() += 1;
            let common = &plan.common;
            for timed in common.before.iter().chain(&common.struck).chain(&common.recovering) {
                let text = format!("{:?}", timed.fault);
                assert!(text.contains("server: 0") || text.contains("server: 1"), "{text}");
                let name = if text.contains("NewBoot") { "NewBoot" } else { text.split(' ').next().unwrap_or("") };
                *faults.entry(name.to_owned()).or_default() += 1;
            }
        }
        assert!(moments.len() == 4 && moments.values().all(|count| (200..300).contains(count)), "{moments:?}");
        assert!(faults.len() == 9 && faults.values().all(|count| *count > 50), "{faults:?}");
    }
}
