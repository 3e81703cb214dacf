//! What the simulation's checks must notice the lack of. Tests switch guards off, one at a time; in a build without the
//! feature `weaken`, which only tests ask for, every guard holds and nothing of this is left.

/// A guard: where it stands in the code, [`holds`] asks for it by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the text of each is in `text`")]
pub enum Guard {
    ServerToken,
    TakeoverProof,
    ExecutedMemory,
    LostIntents,
    Tombstones,
    StoredBeforeSent,
    SelfStop,
    AcknowledgedAfterStored,
    ClientCommandIds,
    FirstPassFromDatabase,
    KeyGeneration,
    WholeInventory,
    UnansweredStart,
    TableRevision,
    OwnServersEvents,
    EventsInOrder,
    EndTellsLast,
    EndedStaysEnded,
    TermOfStates,
    TermOfContents,
    TermOfIntents,
    TermOfAnswers,
    StoredVersion,
    RaisedVersion,
    RecordRevision,
    CachedEpoch,
}

impl Guard {
    /// All of them.
    pub const ALL: [Guard; 26] = [
        Guard::ServerToken,
        Guard::TakeoverProof,
        Guard::ExecutedMemory,
        Guard::LostIntents,
        Guard::Tombstones,
        Guard::StoredBeforeSent,
        Guard::SelfStop,
        Guard::AcknowledgedAfterStored,
        Guard::ClientCommandIds,
        Guard::FirstPassFromDatabase,
        Guard::KeyGeneration,
        Guard::WholeInventory,
        Guard::UnansweredStart,
        Guard::TableRevision,
        Guard::OwnServersEvents,
        Guard::EventsInOrder,
        Guard::EndTellsLast,
        Guard::EndedStaysEnded,
        Guard::TermOfStates,
        Guard::TermOfContents,
        Guard::TermOfIntents,
        Guard::TermOfAnswers,
        Guard::StoredVersion,
        Guard::RaisedVersion,
        Guard::RecordRevision,
        Guard::CachedEpoch,
    ];

    /// What it sees to, and the design's rule.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Guard::ServerToken => "a server admits only the highest token (rule 2)",
            Guard::TakeoverProof => "a server gives a leg only for the proof of its key (rule 3)",
            Guard::ExecutedMemory => "a server remembers what it executed (rule 11)",
            Guard::LostIntents => "numbers of intents that the database lost are not used again (rules 8 and 11)",
            Guard::Tombstones => "an ended leg stays known until its end is acknowledged (rule 9)",
            Guard::StoredBeforeSent => "an intent is stored before it is sent (rule 12)",
            Guard::SelfStop => "no command leaves after the lease could have run out (rule 5)",
            Guard::AcknowledgedAfterStored => "an event is acknowledged after it is stored",
            Guard::ClientCommandIds => "a client's command runs once (rule 11)",
            Guard::FirstPassFromDatabase => "a term's first pass takes keys from the database (rule 10)",
            Guard::KeyGeneration => "a cached key counts only in the generation that is known (rule 10)",
            Guard::WholeInventory => "an inventory of which a packet is missing is none (rule 8)",
            Guard::UnansweredStart => "a leg whose start is unanswered has not vanished (rule 8)",
            Guard::TableRevision => "absence counts only above the leg's table revision (rule 8)",
            Guard::OwnServersEvents => "events are of the leg's own server (rule 16)",
            Guard::EventsInOrder => "held events are taken in their order (rule 15)",
            Guard::EndTellsLast => "a meeting's end is told when its last leg's is stored (rule 15)",
            Guard::EndedStaysEnded => "a read from before an end brings nothing back (rule 9)",
            Guard::TermOfStates => "changes of state check the term (rule 4)",
            Guard::TermOfContents => "content checks the term (rule 4)",
            Guard::TermOfIntents => "intents check the term (rule 4)",
            Guard::TermOfAnswers => "answers check the term (rule 4)",
            Guard::StoredVersion => "a change of state compares the row that the plan saw (rule 4)",
            Guard::RaisedVersion => "an unknown commit is read again by a write that raises versions (rule 12)",
            Guard::RecordRevision => "a record is written over a lower revision only (rule 13)",
            Guard::CachedEpoch => "a lower epoch loses in the cache (rule 4)",
        }
    }
}

/// Whether the guard holds.
#[cfg(not(feature = "weaken"))]
#[must_use]
pub const fn holds(_: Guard) -> bool {
    true
}

#[cfg(feature = "weaken")]
pub use weak::{holds, weaken};

#[cfg(feature = "weaken")]
mod weak {
    use super::Guard;
    use std::cell::Cell;

    thread_local! {
        static OFF: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    /// Whether the guard holds on this thread.
    #[must_use]
    pub fn holds(guard: Guard) -> bool {
        OFF.get() != Some(guard)
    }

    /// From now on this guard, and no other, is off on this thread.
    pub fn weaken(guard: Option<Guard>) {
        OFF.set(guard);
    }
}
