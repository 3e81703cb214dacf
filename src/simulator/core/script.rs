//! The seeded script: terminals join, leave, change what they decode and what they tell about themselves.
//!
//! The choice for a leg depends on the seed and the leg's name only, not on the order in which legs were
//! started, so a run can be repeated.

use super::Core;
use super::leg::Leg;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{AddTerminal, EndCause, SetDecode, SetExtra, WindowSetting};
use remeet_protocol::record::{DisplayMode, Mark, MediaCodec, Number};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{DomainId, Handle, LegId, MeetingId};
use serde::{Deserialize, Serialize};

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A terminal joins.
    Join,
    /// A terminal hangs up, or goes off the roster with its windows and entries.
    Leave,
    /// A terminal decodes something else.
    Decode,
    /// A terminal tells something else about itself.
    Extra,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Join, Kind::Leave, Kind::Decode, Kind::Extra];
}

/// What the script shall change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Drives every choice.
    pub seed: u64,
    /// The part of the live legs to change, 0 to 1; counts only without `meetings`.
    #[serde(default)]
    pub fraction: f64,
    /// Exactly the legs of these meetings.
    #[serde(default)]
    pub meetings: Option<Vec<MeetingId>>,
    /// The kinds: each chosen leg gets one change of each. Empty means all.
    #[serde(default)]
    pub kinds: Vec<Kind>,
}

/// What the script did to a leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegChanged {
    /// Our name of it.
    pub leg: LegId,
    /// The server's name of it.
    pub handle: Handle,
    /// The revision before.
    pub previous: u64,
    /// The content after.
    pub mark: Mark,
    /// Each change, for people: `join 9123`.
    pub changes: Vec<String>,
}

impl Core {
    /// Runs the script once. Answers what it changed, in order of handle.
    pub fn change(&mut self, now_ms: u64, script: &Script) -> Vec<LegChanged> {
        let kinds = if script.kinds.is_empty() { Kind::ALL.to_vec() } else { script.kinds.clone() };
        let live = self.table.legs().filter(|leg| leg.is_live());
        let mut chosen: Vec<(u64, Handle)> = match &script.meetings {
            Some(meetings) => {
                live.filter(|leg| meetings.contains(&leg.head.id.meeting)).map(|leg| (0, leg.head.handle)).collect()
            }
            None => live.map(|leg| (rng_of(script.seed, &leg.head.id).random(), leg.head.handle)).collect(),
        };
        if script.meetings.is_none() {
            chosen.sort_unstable();
            chosen.truncate(part_of(chosen.len(), script.fraction));
        }
        chosen.sort_unstable_by_key(|(_, handle)| *handle);
        let changed = chosen.into_iter().filter_map(|(_, handle)| {
            let leg = self.table.leg(handle)?;
            let mut rng = rng_of(script.seed.wrapping_add(1), &leg.head.id);
            let mut kinds = kinds.clone();
            kinds.shuffle(&mut rng);
            self.change_leg(now_ms, handle, &kinds, &mut rng)
        });
        changed.collect()
    }

    /// The server's own life: so many changes on legs of its choice.
    pub fn live(&mut self, now_ms: u64, changes: u32) {
        let mut rng = self.rng.clone();
        for _ in 0..changes {
            let from = Handle(rng.random_range(0..self.table.next_handle().0));
            let Some(handle) = self.table.live_from(from) else { break };
            let kind = *Kind::ALL.choose(&mut rng).unwrap_or(&Kind::Extra);
            self.change_leg(now_ms, handle, &[kind], &mut rng);
        }
        self.rng = rng;
    }

    fn change_leg(&mut self, now_ms: u64, handle: Handle, kinds: &[Kind], rng: &mut ChaCha8Rng) -> Option<LegChanged> {
        let domain = self.settings.domain;
        let leg = self.table.leg_mut(handle)?;
        let (id, previous) = (leg.head.id, leg.head.mark.revision);
        let changes: Vec<_> = kinds.iter().filter_map(|kind| leg.live_through(now_ms, *kind, domain, rng)).collect();
        let mark = leg.head.mark;
        self.publish(handle, EndCause::None);
        Some(LegChanged { leg: id, handle, previous, mark, changes })
    }
}

impl Leg {
    /// One change of a kind, if the roster allows it.
    fn live_through(&mut self, now_ms: u64, kind: Kind, domain: DomainId, rng: &mut ChaCha8Rng) -> Option<String> {
        if kind == Kind::Join {
            let number: Number = Text::cut(&format!("9{:09}", rng.random_range(0..1_000_000_000_u32)));
            let name = Text::cut(&format!("Terminal {number}"));
            let op = AddTerminal { number: number.clone(), home_domain: domain, name };
            return self.add_terminal(now_ms, &op).is_ok().then(|| format!("join {number}"));
        }
        let roster: Vec<Number> = self.roster().filter(|row| row.in_meeting).map(|row| row.number.clone()).collect();
        let number = roster.choose(rng)?.clone();
        match kind {
            Kind::Join => None,
            Kind::Leave if rng.random() => {
                self.remove_terminal(&number).ok().map(|()| format!("leave the roster {number}"))
            }
            Kind::Leave => self.hang_up(now_ms, &number).ok().map(|()| format!("hang up {number}")),
            Kind::Decode => {
                let windows = (0..rng.random_range(1..=4_u8)).map(|window| WindowSetting {
                    window,
                    source: roster.choose(rng).cloned().unwrap_or_default(),
                    channel: rng.random_range(0..2),
                    video: true,
                    audio: window == 0,
                });
                let windows = windows.collect();
                let op = SetDecode {
                    number: number.clone(),
                    display_mode: DisplayMode::from(rng.random_range(0..=5_u8)),
                    output: Text::cut("1"),
                    codec: *[MediaCodec::H264, MediaCodec::H265, MediaCodec::Svac2].choose(rng)?,
                    windows,
                };
                self.set_decode(&op).ok().map(|()| format!("decode {number}"))
            }
            Kind::Extra => {
                let key = *["firmware", "location", "temperature", "uptime"].choose(rng)?;
                let remove = rng.random_bool(0.2);
                let value: u32 = rng.random();
                let value = (!remove).then(|| Blob::new(value.to_string().into_bytes()).unwrap_or_default());
                let op = SetExtra { number: number.clone(), key: Text::cut(key), value };
                self.set_extra(&op).ok().map(|()| format!("extra {number} {key}"))
            }
        }
    }
}

/// `fraction` of `legs`, rounded, and at least one leg if any part was asked for.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // LEGS_MAX is exact
fn part_of(legs: usize, fraction: f64) -> usize {
    if fraction.is_nan() || fraction <= 0.0 {
        return 0;
    }
    ((legs as f64 * fraction.min(1.0)).round() as usize).max(1)
}

fn rng_of(seed: u64, leg: &LegId) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_be_bytes());
    key[8..24].copy_from_slice(&leg.meeting.bytes());
    key[24..26].copy_from_slice(&leg.leg.to_be_bytes());
    ChaCha8Rng::from_seed(key)
}
