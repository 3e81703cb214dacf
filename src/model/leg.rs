//! A leg as it is stored: its control row, its recovery key, its content.

use remeet_protocol::message::{EndCause, MeetingState};
use remeet_protocol::record::{Mark, Number};
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, Change, DomainId, Epoch, Handle, LegId, Secret, ServerId};
use serde::{Deserialize, Serialize};

/// The stored state of a leg (design §2). *Recovering* and *unreachable* are never stored: in-meeting
/// under an older epoch reads as recovering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredState {
    /// Made by a client, not started.
    Created,
    /// The start's intent is committed; the server's answer is not.
    Starting,
    /// An orphan's new key is committed; the server's answer is not.
    Adopting,
    /// The server accepted the start, the takeover or the adoption of `epoch`.
    InMeeting,
    /// The end's intent is committed; the end is not.
    Ending,
    /// Over. Absorbing (rule 9).
    Ended,
}

impl StoredState {
    /// Every state with its name in the database.
    pub const ALL: [(StoredState, &'static str); 6] = [
        (StoredState::Created, "created"),
        (StoredState::Starting, "starting"),
        (StoredState::Adopting, "adopting"),
        (StoredState::InMeeting, "in-meeting"),
        (StoredState::Ending, "ending"),
        (StoredState::Ended, "ended"),
    ];

    /// Its name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }

    /// The state of a meeting whose legs all stand so, whatever the term and the links are.
    #[must_use]
    pub fn of_meeting(self) -> MeetingState {
        match self {
            StoredState::Created => MeetingState::Created,
            StoredState::Starting => MeetingState::Starting,
            StoredState::Adopting => MeetingState::Adopting,
            StoredState::InMeeting => MeetingState::InMeeting,
            StoredState::Ending => MeetingState::Ending,
            StoredState::Ended => MeetingState::Ended,
        }
    }

    /// From its name in the database.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(state, _)| *state)
    }

    /// The one list of legal transitions (rule 4: in-meeting replaces only starting, adopting or
    /// in-meeting, ending becomes only ended; rule 9: ended is absorbing).
    #[must_use]
    pub fn may_become(self, next: StoredState) -> bool {
        use StoredState::{Adopting, Created, Ended, Ending, InMeeting, Starting};
        match self {
            Created => matches!(next, Starting | Ended),
            Starting => matches!(next, Starting | InMeeting | Ending | Ended),
            Adopting => matches!(next, Adopting | InMeeting | Ended),
            InMeeting => matches!(next, InMeeting | Ending | Ended),
            Ending => matches!(next, Ended),
            Ended => false,
        }
    }
}

/// The control row of a leg: what the plan and every compare-and-set look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLeg {
    /// Its name.
    pub leg: LegId,
    /// The domain of its server.
    pub domain: DomainId,
    /// Its server.
    pub server: ServerId,
    /// State.
    pub state: StoredState,
    /// Why it ended, if it did.
    pub cause: EndCause,
    /// The term under which the server accepted it last; 0 before.
    pub epoch: Epoch,
    /// The life of the server's table that the handle belongs to, once known.
    pub boot: Option<BootId>,
    /// The server's name of it, once known.
    pub handle: Option<Handle>,
    /// The server's table revision at the last start or takeover answer (rule 8).
    pub table_revision: u64,
    /// Up to where its content is stored.
    pub mark: Mark,
    /// Generation of its recovery key.
    pub generation: u64,
    /// The highest intent number committed.
    pub intent: u64,
    /// An operator marked it to be recovered first.
    pub first: bool,
    /// Why its back-fill is quarantined, if it is. Control of the leg goes on.
    pub quarantine: Option<String>,
    /// Raised by every change of state, boot id or handle, and by settling an unknown commit; not by
    /// marks, intents, quarantine or the operator's mark. What compare-and-set compares.
    pub version: u64,
    /// People's number of the meeting, from the recovery key.
    pub number: Number,
    /// People's title of the meeting, from the recovery key.
    pub title: Text<256>,
}

impl StoredLeg {
    /// The control row of a new leg, which no server knows yet.
    #[must_use]
    pub fn new(key: &RecoveryKey, state: StoredState) -> Self {
        Self {
            leg: key.leg,
            domain: key.domain,
            server: key.server,
            state,
            cause: EndCause::None,
            epoch: Epoch(0),
            boot: None,
            handle: None,
            table_revision: 0,
            mark: Mark::default(),
            generation: key.generation,
            intent: 0,
            first: false,
            quarantine: None,
            version: 1,
            number: key.number.clone(),
            title: key.title.clone(),
        }
    }
}

/// The recovery key: committed before the server is told to start (design §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryKey {
    /// The leg that it opens.
    pub leg: LegId,
    /// The domain of its server.
    pub domain: DomainId,
    /// Its server.
    pub server: ServerId,
    /// The secret that proofs are made with.
    pub secret: Secret,
    /// Rises with every write of the key.
    pub generation: u64,
    /// People's number.
    pub number: Number,
    /// People's title.
    pub title: Text<256>,
    /// Number of who created the meeting.
    pub creator: Number,
    /// Name of who created it.
    pub creator_name: Text<64>,
    /// When the key was made: milliseconds since 1970 UTC.
    pub made_at_ms: u64,
}

/// Everything stored of a leg's content, read in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegContent {
    /// The leg.
    pub leg: LegId,
    /// Where the leg that it is of lives, in the same snapshot: the life of the server's table, and its name there.
    pub place: Option<(BootId, Handle)>,
    /// The mark in the same snapshot.
    pub mark: Mark,
    /// Its records (present ones only), each with the revision that wrote it.
    pub changes: Vec<Change>,
}

impl LegContent {
    /// Whether it is of the leg that lives there. Content of an earlier life would be taken for newer than whatever
    /// follows.
    #[must_use]
    pub fn is_of(&self, boot: BootId, handle: Handle) -> bool {
        self.place == Some((boot, handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_9_ended_is_absorbing_and_rule_4_ending_becomes_only_ended() {
        for (next, _) in StoredState::ALL {
            assert!(!StoredState::Ended.may_become(next));
            assert_eq!(StoredState::Ending.may_become(next), next == StoredState::Ended);
        }
    }

    #[test]
    fn rule_4_in_meeting_replaces_only_starting_adopting_or_in_meeting() {
        for (state, _) in StoredState::ALL {
            let may = matches!(state, StoredState::Starting | StoredState::Adopting | StoredState::InMeeting);
            assert_eq!(state.may_become(StoredState::InMeeting), may, "{state:?}");
        }
    }
}
