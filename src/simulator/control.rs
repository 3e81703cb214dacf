//! The control socket: one JSON request a line, one JSON answer a line, in order.
//!
//! A request is an object with `cmd` and its arguments, the answer `{"ok":true,"result":..}` or
//! `{"ok":false,"error":".."}`:
//!
//! ```text
//! {"cmd":"change","seed":7,"fraction":0.05}
//! {"ok":true,"result":[{"leg":{..},"handle":3,"previous":9,"mark":{..},"changes":["join 9123"]}]}
//! ```

use super::core::fill::Fill;
use super::core::script::Script;
use super::core::{ActError, Misbehaviour};
use super::shared::{Shared, now_ms};
use futures_util::{SinkExt, StreamExt};
use remeet_protocol::{LegId, MeetingId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::codec::{Framed, LinesCodec};

/// Longest request: a list of all meetings of a full server is below it.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Control connections at once: a test and the demo use one or two.
const CONNECTIONS_MAX: usize = 16;
/// Longest pause of a restart: a test that wants more is a mistake.
const DOWN_MAX: Duration = Duration::from_secs(600);

/// What a simulated server can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who it is and what it carries, in short.
    Status,
    /// Its truth: [`super::Dump`].
    Dump,
    /// Its counters: [`super::Stats`].
    Stats,
    /// It carries legs that no scheduler of ours started: answers their names and handles.
    CreateForeign {
        /// The meeting's id; an unknown one if not given. With it, `count` is 1.
        #[serde(default)]
        meeting: Option<MeetingId>,
        /// Terminals of each.
        terminals: u16,
        /// How many; 1 if not given.
        #[serde(default)]
        count: Option<u32>,
    },
    /// It carries legs in bulk, as if started long ago: answers [`super::Filled`].
    Fill(Fill),
    /// It ends a leg by itself.
    EndLeg {
        /// The meeting.
        meeting: MeetingId,
        /// Its leg; 0 if not given.
        #[serde(default)]
        leg: u16,
    },
    /// It runs the seeded script: answers [`super::LegChanged`] for each leg.
    Change(Script),
    /// Every packet leaves later.
    SetLatency {
        /// By this many milliseconds.
        ms: u64,
    },
    /// It accepts connections, reads nothing and answers nothing.
    Hang {
        /// On or off.
        on: bool,
    },
    /// It drops every connection and refuses new ones.
    CutLink {
        /// On or off.
        on: bool,
    },
    /// It does not reach the servers below it, and ends the conversations that it relays.
    CutRelay {
        /// On or off.
        on: bool,
    },
    /// It answers takeovers and commands with `busy`.
    Busy {
        /// On or off.
        on: bool,
        /// The hint in the answer, in milliseconds; 100 if not given.
        #[serde(default)]
        retry_after_ms: Option<u32>,
    },
    /// It restarts.
    Restart {
        /// With its meetings or without.
        mode: RestartMode,
        /// Stays down for so long, in milliseconds.
        #[serde(default)]
        down_ms: u64,
    },
    /// It forgets which records were removed, so that pulls must be answered in full.
    StopKeepingRemovals,
    /// It loses the events that are not sent yet.
    OverflowEvents,
    /// It breaks the protocol.
    Misbehave {
        /// How; `none` stops it.
        kind: Misbehaviour,
    },
}

/// How a server comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// With its meetings: the boot id stays.
    SameBoot,
    /// Without: a new boot id. The fence stays.
    NewBoot,
}

/// An answer on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) result: Value,
}

/// Opens the control socket. A socket that nobody listens on any more is replaced.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match std::os::unix::net::UnixStream::connect(path) {
            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        },
        bound => bound,
    }
}

/// Serves the control socket until the server stops, then removes it.
pub(super) async fn serve(shared: Arc<Shared>, socket: UnixListener, path: PathBuf) {
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let connection = shared.clone();
        shared.tasks.spawn(async move {
            let stop = connection.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = converse(&connection, stream) => {}
            }
            drop(permit);
        });
    }
    let _ = std::fs::remove_file(path);
}

async fn converse(shared: &Arc<Shared>, stream: UnixStream) {
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(REQUEST_BYTES_MAX));
    while let Some(line) = lines.next().await {
        let result = match line {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(request) => carry_out(shared, request).await,
                Err(error) => Err(format!("not a request: {error}")),
            },
            Err(error) => Err(format!("not a line: {error}")),
        };
        let answer = match result {
            Ok(result) => Answer { ok: true, error: None, result },
            Err(error) => Answer { ok: false, error: Some(error), result: Value::Null },
        };
        // A dump is tens of megabytes: writing it out as text must not hold up the packets.
        let Ok(Ok(text)) = tokio::task::spawn_blocking(move || serde_json::to_string(&answer)).await else { return };
        if lines.send(text).await.is_err() {
            return;
        }
    }
}

/// Does what a request says.
pub(super) async fn carry_out(shared: &Arc<Shared>, request: Request) -> Result<Value, String> {
    match request {
        Request::Status => Ok(status(shared)),
        Request::Dump => {
            let dump = shared.step(|core| core.dump());
            let value = tokio::task::spawn_blocking(move || serde_json::to_value(dump));
            value.await.map_err(text)?.map_err(text)
        }
        Request::Stats => value(shared.step(|core| core.stats())),
        Request::CreateForeign { meeting, terminals, count } => {
            let count = if meeting.is_some() { 1 } else { count.unwrap_or(1) };
            let made: Result<Vec<_>, ActError> = (0..count)
                .map(|_| {
                    let made = shared.step(|core| core.create_foreign(now_ms(), meeting, terminals));
                    made.map(|(leg, handle)| json!({"leg": leg, "handle": handle}))
                })
                .collect();
            made.map(Value::Array).map_err(text)
        }
        Request::Fill(fill) => value(shared.step(|core| core.fill(&fill)).map_err(text)?),
        Request::EndLeg { meeting, leg } => {
            let handle = shared.step(|core| core.end_leg(LegId { meeting, leg })).map_err(text)?;
            Ok(json!({ "handle": handle }))
        }
        Request::Change(script) => value(shared.step(|core| core.change(now_ms(), &script))),
        Request::SetLatency { ms } => {
            shared.set_faults(|faults| faults.latency = Duration::from_millis(ms));
            Ok(Value::Null)
        }
        Request::Hang { on } => {
            shared.set_faults(|faults| faults.hang = on);
            Ok(Value::Null)
        }
        Request::CutRelay { on } => {
            shared.set_faults(|faults| faults.relay_cut = on);
            Ok(Value::Null)
        }
        Request::CutLink { on } => {
            shared.set_faults(|faults| faults.link_cut = on);
            if on {
                shared.cut_links();
            }
            Ok(Value::Null)
        }
        Request::Busy { on, retry_after_ms } => {
            shared.step(|core| core.set_busy(on.then(|| retry_after_ms.unwrap_or(100))));
            Ok(Value::Null)
        }
        Request::Restart { mode, down_ms } => {
            let down = Duration::from_millis(down_ms);
            if down > DOWN_MAX {
                return Err(format!("down for at most {} s", DOWN_MAX.as_secs()));
            }
            let boot = shared.restart(mode, down).await.map_err(text)?;
            Ok(json!({ "boot": boot }))
        }
        Request::StopKeepingRemovals => {
            shared.step(|core| core.drop_removals());
            Ok(Value::Null)
        }
        Request::OverflowEvents => {
            let lost = shared.step(|core| core.overflow_events());
            Ok(json!({ "lost": lost }))
        }
        Request::Misbehave { kind } => {
            shared.step(|core| core.misbehave(kind));
            shared.set_faults(|faults| faults.misbehaviour = kind);
            Ok(Value::Null)
        }
    }
}

fn status(shared: &Shared) -> Value {
    let connections = shared.links();
    shared.step(|core| {
        let live = core.table().legs().filter(|leg| leg.is_live()).count();
        let terminals: u64 = core.table().legs().map(|leg| u64::from(leg.terminals)).sum();
        let legs = core.table().legs().count();
        json!({
            "server": core.server(),
            "boot": core.boot(),
            "table_revision": core.table().revision,
            "highest_token": core.highest_token(),
            "legs_live": live,
            "tombstones": legs - live,
            "terminals": terminals,
            "connections": connections,
            "events_waiting": core.events_waiting(),
        })
    })
}

fn value(result: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(result).map_err(text)
}

// Taken by value, as `map_err` gives it.
#[allow(clippy::needless_pass_by_value)]
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
