//! Goal: what tasks and threads of the driver share keeps its promises in whatever order they take their steps.
//! Method: the daemon's own sources with shuttle's primitives; all orders where they are few, drawn ones else. Where a
//! structure is easily got wrong, a wrong one is shown to be noticed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::must_use_candidate,
    reason = "the daemon's sources, which use and document more of themselves than is asked of them here"
)]

use remeet_interleave::sync;

#[path = "../../../src/ops/heartbeat.rs"]
mod heartbeat;
#[path = "../../../src/store/redis/life.rs"]
mod life;
#[path = "../../../src/cms/client/newest.rs"]
mod newest;
#[path = "../../../src/link/outbox.rs"]
mod outbox;
#[path = "../../../src/scheduler/presence.rs"]
mod presence;
#[path = "../../../src/scheduler/present.rs"]
mod present;
#[path = "../../../src/cms/promises.rs"]
mod promises;
#[path = "../../../src/ops/said.rs"]
mod said;

mod feed;
mod queue;
mod small;
