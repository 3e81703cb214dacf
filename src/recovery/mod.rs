//! Pure: what to do so that every live meeting comes back, and stays.
//!
//! No sockets, no database; time and randomness are arguments. A driver gives [`Input`]s and carries out
//! [`Output`]s, so that a seeded simulation can run these very decisions.
//!
//! ```text
//!                Input::Heard ----+        +---- Output::Ask (after a persist) --> session
//!   session -->                   |        |
//!   store   -->  Input::Written --+-> Core +---- Output::Persist ---------------> store
//!   cache   -->  Input::Read -----+        +---- Output::Read, Output::Cache ---> store, cache
//!   clients -->  Input::Command --+        +---- Output::Answer, Output::Publish > clients
//! ```
//!
//! - [`plan`] – puts every leg into exactly one bucket; no state. [`dry_run`] prints it and does nothing.
//! - [`core`](self) – one [`Core`] holds every server's round and every leg's state; its methods stand in
//!   a file a subject: `links`, `round`, `claims`, `takeover`, `backfill`, `lift`, `events`, `commands`, `place`, `joint`,
//!   `meetings`, `intents`, `adopt`, `sweep`.
//! - [`lease`] – who may command, and until when; beside the core, over the lives of its schedulers.
//! - [`lanes`], [`cache_queue`] – what goes to the store and to the cache together, and what is tried again.
//! - [`report`] – what a round came to; the numbers add up (rule 6).

mod adopt;
mod again;
mod alarm;
mod backfill;
pub mod cache_queue;
mod claims;
mod commands;
mod core;
pub mod dry_run;
mod events;
mod exchange;
mod instances;
mod intents;
mod joint;
pub mod lanes;
mod lately;
pub mod lease;
mod leg;
mod legs;
mod lift;
mod links;
mod look_up;
mod meetings;
mod place;
pub mod plan;
pub mod report;
mod round;
mod server;
mod settings;
mod starts;
mod sweep;
mod takeover;
mod tell;
mod unacknowledged;
mod unread;
mod views;

pub use alarm::{Alarm, AlarmKind};
pub use core::Core;
pub use exchange::{
    CacheTask, Command, Input, Output, Published, Read, ReadId, ReadResult, Rights, StoredDigest, Waiter,
};
pub use report::{RoundReport, Trigger};
pub use server::ServerView;
pub use settings::Settings;
