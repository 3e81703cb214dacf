//! Pure: one server's conversation. Handshake, requests, retries, paging, gap checks, keep-alive; no
//! sockets, and time is an argument.
//!
//! ```text
//!   recovery --Request--> Session --Packet--> link
//!   recovery <--Heard---- Session <--Packet-- link
//! ```
//!
//! Calling order: any input method, then drain [`Session::poll_packet`] and [`Session::poll_heard`],
//! then arm a timer for [`Session::next_wake`].
//!
//! - [`Session`] – inputs and outputs (`conversation`), getters (`view`), every kind of end (`closing`).
//! - `handshake` – hello, welcome, identity; `keepalive` – idle probes and the dead-peer limit.
//! - `queue` – what waits for its turn, for the store or for control; `exchange` – what is in flight:
//!   windows, retries, deadlines; `routing` – which answer belongs to what.
//! - `unanswered` – request ids that outlive a connection.
//! - `pages` – gap checks of answers of many packets; `inventory`, `pull`, `takeover` – what a right
//!   answer of each is.
//! - `events` – order, repeats and acknowledgement.

mod closing;
mod conversation;
mod counters;
mod events;
mod exchange;
mod handshake;
mod inventory;
mod keepalive;
mod pages;
mod pull;
mod question;
mod queue;
mod routing;
#[cfg(test)]
mod samples;
mod settings;
mod takeover;
mod unanswered;
mod view;

pub use conversation::{Session, WakeReason};
pub use counters::{Counters, Misbehaviour};
pub use handshake::Identity;
pub use settings::Settings;
pub use view::Lengths;

use remeet_protocol::message::{
    Adopt, AdoptAnswer, Attached, Command, CommandAnswer, Event, EventGap, Failure, InventoryEntry, TakeoverClaim,
    TakeoverResult,
};
use remeet_protocol::record::Mark;
use remeet_protocol::{BootId, Change, Handle, LegId, Token};

/// Names a request to its asker; unique within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Names something handed to the store. A request that awaits it leaves only after
/// [`Session::stored`] said so: persist, then send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersistId(pub u64);

/// What may be asked of a server. Requests that need control are held until the session is attached;
/// in shared queues takeovers go before commands, and commands before pulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The whole inventory, all pages, up to its complete mark.
    Inventory,
    /// Attach with the session's token.
    Attach(Token),
    /// Take legs over; any number: split into packets here.
    Takeover(Vec<TakeoverClaim>),
    /// A whole pull of a leg, all pages; each page is heard as it comes.
    Pull {
        /// The server's name of the leg.
        handle: Handle,
        /// Ours.
        leg: LegId,
        /// The mark's revision; 0 for everything.
        since: u64,
    },
    /// A command; one of a leg is in flight at a time (the asker's duty).
    Command(Command),
    /// An adoption.
    Adopt(Adopt),
}

/// Why a request came to nothing. Whatever it asked may or may not have been done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The server answered with a failure.
    #[error("the server answered {}: {}", .0.code, .0.detail)]
    Refused(Failure),
    /// The link went down before the answer was whole.
    #[error("the link went down before the answer came")]
    LinkLost,
    /// No answer within the deadline, in spite of retries.
    #[error("no answer in time, although it was asked again")]
    NoAnswer,
    /// The answer broke a rule of SPEC.md.
    #[error("the server broke the protocol: {0}")]
    Broken(String),
}

/// A complete inventory (SPEC Q-6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The life of the table.
    pub boot: BootId,
    /// The table revision of the cut.
    pub table_revision: u64,
    /// Every leg of the cut, ascending by handle.
    pub entries: Vec<InventoryEntry>,
}

/// One page of a pull, in the order of the leg's revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledPage {
    /// The leg.
    pub leg: LegId,
    /// Changes of the page.
    pub changes: Vec<Change>,
    /// Whether the pull is a full one, whatever was asked.
    pub full: bool,
    /// Content at the pull's start, once this is the last page.
    pub complete: Option<Mark>,
}

/// Results of some of a takeover's claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeoverResults {
    /// The life of the table that answered.
    pub boot: BootId,
    /// Its revision.
    pub table_revision: u64,
    /// One result a claim.
    pub results: Vec<TakeoverResult>,
}

/// What a session tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The handshake is done: requests that need no control leave from now on.
    Up {
        /// The life of the server's table.
        boot: BootId,
        /// Its revision.
        table_revision: u64,
    },
    /// The link is down; every request that was open has been answered with [`RequestError::LinkLost`].
    Down {
        /// Why.
        reason: String,
    },
    /// A newer token has attached to the server while this one was attached: what needed control has been refused, and
    /// is until another attach is asked, whose answer tells the newer token.
    Fenced,
    /// Answer to [`Request::Inventory`].
    Inventory(Ticket, Result<Inventory, RequestError>),
    /// Answer to [`Request::Attach`].
    Attached(Ticket, Result<Attached, RequestError>),
    /// Answer to some of the claims of a [`Request::Takeover`]; every claim is answered once: by a
    /// result, or by being among the legs of an error.
    Takeover(Ticket, Result<TakeoverResults, (Vec<LegId>, RequestError)>),
    /// A page of a [`Request::Pull`], or its failure.
    Pulled(Ticket, Result<PulledPage, RequestError>),
    /// Answer to [`Request::Command`].
    Commanded(Ticket, Result<CommandAnswer, RequestError>),
    /// Answer to [`Request::Adopt`].
    Adopted(Ticket, Result<AdoptAnswer, RequestError>),
    /// An event, in order of its number and once only, for as long as the server lives by one boot id.
    Event(Event),
    /// Events were lost by the server: compare everything.
    Gap(EventGap),
    /// The server broke the protocol (counted); the owner decides on quarantine. The link is closed
    /// after this where the stream cannot be trusted.
    Misbehaved {
        /// What it did.
        reason: String,
    },
}
