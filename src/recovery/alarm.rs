//! Alarms: what an operator must know. An error in the log and an entry in `remeet status`.

use super::Output;
use super::core::Core;
use crate::model::StoredState;
use remeet_protocol::{LegId, ServerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Conditions that are remembered as told. Beyond it each round tells of them again.
const CONDITIONS_MAX: usize = 10_000;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmKind {
    /// Two servers claim one leg, or a leg closed by absence is live.
    Conflict,
    /// A live leg without a recovery key.
    Orphan,
    /// A leg is gone although nobody ended it.
    Vanished,
    /// A recovery key from the database was refused.
    BadKey,
    /// A leg's back-fill is quarantined.
    Quarantine,
    /// A newer token has attached to a server.
    StaleToken,
    /// The database has lost terms that a server knows.
    DatabaseWentBack,
    /// The lease was not renewed in time.
    LeaseLapsed,
    /// A server broke the protocol.
    Misbehaviour,
    /// A stored row cannot be read.
    BadRow,
    /// The cache disagreed with the database.
    CacheDisagrees,
}

impl AlarmKind {
    /// Whether it is a condition: it stands until it is over, and is told once. The others are told each time.
    #[must_use]
    pub fn stands(self) -> bool {
        use AlarmKind::{BadKey, BadRow, Conflict, Orphan, Quarantine};
        matches!(self, Conflict | Orphan | BadKey | Quarantine | BadRow)
    }
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// The server, if one.
    pub server: Option<ServerId>,
    /// The leg, if one.
    pub leg: Option<LegId>,
    /// What happened and what to do.
    pub text: String,
}

type Condition = (AlarmKind, Option<ServerId>, Option<LegId>);

/// What stands and was told, with its text.
#[derive(Debug, Default)]
pub(super) struct Conditions(BTreeMap<Condition, String>);

impl Conditions {
    /// Whether the alarm says something new.
    fn rises(&mut self, alarm: &Alarm) -> bool {
        let condition = (alarm.kind, alarm.server, alarm.leg);
        match self.0.get_mut(&condition) {
            Some(text) if *text == alarm.text => false,
            Some(text) => {
                text.clone_from(&alarm.text);
                true
            }
            None => {
                if self.0.len() < CONDITIONS_MAX {
                    self.0.insert(condition, alarm.text.clone());
                }
                true
            }
        }
    }

    fn of(&self, server: ServerId) -> Vec<Condition> {
        self.0.keys().filter(|(_, of, _)| *of == Some(server)).copied().collect()
    }
}

impl Core {
    /// Tells the operator: of a happening each time, of a condition once until it changes or is over.
    pub(super) fn raise(&mut self, alarm: Alarm) {
        if alarm.kind.stands() {
            if let Some(round) = alarm.server.and_then(|server| self.round(server)) {
                round.raised.insert((alarm.kind, alarm.leg));
            }
            if !self.conditions.rises(&alarm) {
                return;
            }
        }
        self.put(Output::Alarm(alarm));
    }

    /// A condition is over, if it stood.
    pub(super) fn condition_over(&mut self, kind: AlarmKind, server: Option<ServerId>, leg: Option<LegId>) {
        if let Some(text) = self.conditions.0.remove(&(kind, server, leg)) {
            self.put(Output::AlarmOver(Alarm { kind, server, leg, text }));
        }
    }

    /// A round has compared everything of the server: what it did not find again is over.
    pub(super) fn settle_conditions(&mut self, server: ServerId, raised: &BTreeSet<(AlarmKind, Option<LegId>)>) {
        for (kind, of, leg) in self.conditions.of(server) {
            let known = leg.and_then(|leg| self.legs.get(&leg)).filter(|known| known.row.state != StoredState::Ended);
            let over = match kind {
                AlarmKind::Orphan | AlarmKind::Conflict => true,
                // A round in which its server was busy did not try the key.
                AlarmKind::BadKey => known.is_none_or(|leg| leg.takes_commands()),
                AlarmKind::Quarantine => known.is_none_or(|known| known.row.quarantine.is_none()),
                // A row that could not be read is not read again as long as nothing asks for its leg.
                AlarmKind::BadRow => leg.is_some_and(|leg| self.legs.contains_key(&leg)),
                // No condition: not among them.
                _ => false,
            };
            if over && !raised.contains(&(kind, leg)) {
                self.condition_over(kind, of, leg);
            }
        }
    }
}
