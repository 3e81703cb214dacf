//! Typed settings of `remeet run`, from a TOML file with `REMEET_*` variables on top.
//!
//! ```text
//!  file ──toml──┐
//!  credentials ─┼─► Config ──check──► every problem at once, each with its key and its remedy
//!  environment ─┘
//! ```
//!
//! - Unknown keys are refused everywhere: a misspelt setting never falls back to its default in silence.
//! - `REMEET_<SECTION>__<KEY>=value` replaces one setting, for example `REMEET_STORE__URL` or
//!   `REMEET_CLIENTS__LISTEN`. The lists `[[server]]` and `[[client]]` come from the file alone.
//! - The files `store-url` and `cache-url` in `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`)
//!   replace the URLs of the file; the environment stands above them.
//! - A URL is a secret ([`SecretUrl`]): neither `Debug` nor any message shows its password.

mod check;
mod environment;
mod error;
mod load;
mod secret;
mod units;

pub use environment::{Environment, process_environment};
pub use error::{ConfigError, Problem};
pub use load::{Credentials, load, operator_socket, parse};
pub use secret::{CacheAddress, SecretUrl, StoreAddress};

use crate::cascade::Tree;
use remeet_protocol::{DomainId, ServerId};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Everything that `remeet run` can be told. Checked: see [`parse`].
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this scheduler is.
    pub scheduler: Scheduler,
    /// The durable store.
    pub store: Store,
    /// The cache.
    pub cache: Cache,
    /// Links to autonomous servers.
    pub link: Link,
    /// The autonomous servers that are dialled.
    #[serde(rename = "server")]
    pub servers: Vec<Server>,
    /// The door for meeting clients.
    pub clients: Clients,
    /// The meeting clients that are let in.
    #[serde(rename = "client")]
    pub identities: Vec<Client>,
    /// Takeover and back-fill.
    pub recovery: Recovery,
    /// The operator's local socket.
    pub operator: Operator,
    /// What is logged, and how.
    pub log: Log,
}

/// `[scheduler]`: who this scheduler is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scheduler {
    /// The autonomous domain that it schedules, 1 or more. No default: it is an identity.
    pub domain: DomainId,
    /// Its name, at most 64 bytes, for people and for the servers' logs. No default: it is an identity.
    pub name: String,
    /// The node's id. A node that restarts replaces its own unexpired lease at once, so no two nodes
    /// may have the same. Default: the machine's host name.
    pub node: String,
    /// Where the node's file lock and an embedded database live. Every node, also a standby on the
    /// same machine, has its own. Default `/var/lib/remeet`: what systemd's `StateDirectory=` makes.
    pub state_directory: PathBuf,
    /// How long a standby waits after the last sign of life of the one that holds the term. Renewed each third
    /// of it; a holder stops commanding a sixth of it before its end. Default 6 s: two renewals may fail, and a
    /// failover stays well within the 30 s of rule 18.
    #[serde(rename = "lease_ms", with = "units::milliseconds")]
    pub lease: Duration,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            domain: DomainId(0),
            name: String::new(),
            node: String::new(),
            state_directory: PathBuf::from("/var/lib/remeet"),
            lease: Duration::from_secs(6),
        }
    }
}

/// `[store]`: the durable store.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `postgres://…`, or `sqlite:PATH`; a relative path starts at the state directory. No default:
    /// where meetings are kept is never guessed.
    pub url: SecretUrl,
    /// Deadline of a writing statement. Default 1 s: a writer holds the term's row `FOR SHARE` that
    /// long at most, and the lease of 6 s must survive it (design §5). A batch that hits it is halved.
    #[serde(rename = "write_deadline_ms", with = "units::milliseconds")]
    pub write_deadline: Duration,
    /// Deadline of a reading statement. Default 10 s: a look-up of 100,000 legs takes well under 1 s,
    /// a cold cache of the database makes it ten times that.
    #[serde(rename = "read_deadline_ms", with = "units::milliseconds")]
    pub read_deadline: Duration,
    /// Connections, beside the lease's own. Default 4: bulk statements saturate two cores with two,
    /// and two are left for single commands.
    pub connections_max: u32,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: SecretUrl::default(),
            write_deadline: Duration::from_secs(1),
            read_deadline: Duration::from_secs(10),
            connections_max: 4,
        }
    }
}

/// `[cache]`: the cache.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// `memory:` for the cache inside this process, or `redis://…` / `rediss://…`. Default `memory:`:
    /// needs nothing, and a cache may be lost at any time.
    pub url: SecretUrl,
    /// Deadline of a pipeline, connecting included. Default 1 s: after that the database is asked, which is always right.
    #[serde(rename = "deadline_ms", with = "units::milliseconds")]
    pub deadline: Duration,
    /// The most legs that `memory:` holds. Default 100,000: about 1 GB with 10 terminals each.
    pub legs_max: u32,
}

impl Default for Cache {
    fn default() -> Self {
        Self { url: SecretUrl::new("memory:"), deadline: Duration::from_secs(1), legs_max: 100_000 }
    }
}

/// `[link]`: links to autonomous servers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Deadline of a connection's opening and handshake. Default 3 s.
    #[serde(rename = "connect_deadline_ms", with = "units::milliseconds")]
    pub connect_deadline: Duration,
    /// Deadline of a request's answer, before it is asked again. Default 2 s: a server on a dedicated
    /// network answers in milliseconds, a busy one within a second.
    #[serde(rename = "request_deadline_ms", with = "units::milliseconds")]
    pub request_deadline: Duration,
    /// Silence after which a keep-alive is sent, to servers and to clients. Default 2 s: a dead link is noticed
    /// after three of them, well within the 30 s of rule 18.
    #[serde(rename = "keep_alive_ms", with = "units::milliseconds")]
    pub keep_alive: Duration,
    /// First pause before dialling again; it doubles, with a random part. Default 100 ms.
    #[serde(rename = "reconnect_first_ms", with = "units::milliseconds")]
    pub reconnect_first: Duration,
    /// Longest pause before dialling again. Default 5 s: rule 18 leaves 30 s after a fault.
    #[serde(rename = "reconnect_max_ms", with = "units::milliseconds")]
    pub reconnect_max: Duration,
    /// The most relays on the way to a server that is under another. Default 4: each adds its delay to every answer, and
    /// networks are rarely nested deeper. 8 is what a packet can count.
    pub relays_max: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            connect_deadline: Duration::from_secs(3),
            request_deadline: Duration::from_secs(2),
            keep_alive: Duration::from_secs(2),
            reconnect_first: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            relays_max: 4,
        }
    }
}

/// `[[server]]`: one autonomous server that is dialled.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its id, 1 or more, unique in the network.
    pub id: ServerId,
    /// Its domain. Default: the scheduler's.
    #[serde(default)]
    pub domain: DomainId,
    /// Its name, at most 64 bytes: compared with what it declares (rule 16).
    pub name: String,
    /// Its address, `IP:port`. Loopback only, until links have TLS. None, if it is reached through another server.
    #[serde(default, deserialize_with = "units::address_if_any")]
    pub address: Option<SocketAddr>,
    /// The server that relays for it. None, if it has an address.
    #[serde(default)]
    pub under: Option<ServerId>,
}

/// `[clients]`: the door for meeting clients.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// Where to listen, `IP:port`; port 0 lets the system choose. Loopback only, until links have TLS.
    /// Default `127.0.0.1:7400`.
    #[serde(deserialize_with = "units::address")]
    pub listen: SocketAddr,
    /// The most connections at a time. Default 1,024: within a process's usual limit of open files
    /// together with the links; the next one is told to come back later.
    pub connections_max: u32,
    /// How long a command on a meeting that is being recovered may wait before it is answered
    /// `retry`. Default 10 s: a round takes seconds.
    #[serde(rename = "command_deadline_ms", with = "units::milliseconds")]
    pub command_deadline: Duration,
    /// The most commands that wait for one meeting; the next is answered `retry`. Default 64: a
    /// conference control panel has a few in flight.
    pub commands_waiting_max: u32,
    /// The most meetings; with as many the next one's create is answered `too many`. Meetings that live already are
    /// recovered all the same. Default 200,000: some 100 MB of memory, and twice the largest network foreseen.
    pub meetings_max: u32,
    /// The most events that wait for one subscriber; then it gets a reset with a snapshot. Default 1,024.
    pub events_waiting_max: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400),
            connections_max: 1_024,
            command_deadline: Duration::from_secs(10),
            commands_waiting_max: 64,
            meetings_max: 200_000,
            events_waiting_max: 1_024,
        }
    }
}

/// `[[client]]`: one meeting client that is let in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its id, 1 or more.
    pub id: u32,
    /// Its name, at most 64 bytes: compared with what it declares (rule 16).
    pub name: String,
    /// What it may do.
    pub rights: Vec<Right>,
}

/// A right of a meeting client. Each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Get, list, subscribe.
    View,
    /// Create, control and end meetings.
    Control,
    /// Mark meetings to be recovered first, adopt and end orphans.
    Operator,
}

impl Client {
    /// Whether the client's rights cover `right`.
    #[must_use]
    pub fn may(&self, right: Right) -> bool {
        self.rights.iter().any(|own| *own >= right)
    }
}

/// `[recovery]`: takeover and back-fill.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// Requests in flight to one server, takeovers among them. Default 32: they fill a link of 20 ms round
    /// trip at 13 Mbit/s, and past 16 the packet rate of a near server does not rise.
    pub requests_in_flight: u32,
    /// Pulls in flight to one server. Default 32: each answers a few pages, so the memory held stays
    /// near a megabyte a server.
    pub pulls_in_flight: u32,
    /// Time between reconcile rounds. Default 300 s: they only catch what events have missed.
    #[serde(rename = "reconcile_interval_s", with = "units::seconds")]
    pub reconcile_interval: Duration,
    /// After this long a round reports what is still pending and goes on in the background.
    /// Default 30 s (rule 18).
    #[serde(rename = "round_deadline_s", with = "units::seconds")]
    pub round_deadline: Duration,
    /// First pause before a busy or failed leg is tried again; it doubles. Default 200 ms.
    #[serde(rename = "retry_first_ms", with = "units::milliseconds")]
    pub retry_first: Duration,
    /// Longest pause before a busy or failed leg is tried again. Default 5 s.
    #[serde(rename = "retry_max_ms", with = "units::milliseconds")]
    pub retry_max: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            requests_in_flight: 32,
            pulls_in_flight: 32,
            reconcile_interval: Duration::from_secs(300),
            round_deadline: Duration::from_secs(30),
            retry_first: Duration::from_millis(200),
            retry_max: Duration::from_secs(5),
        }
    }
}

/// `[operator]`: the operator's local socket.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    /// Path of the socket. Default `/run/remeet/operator.sock`: in systemd's `RuntimeDirectory=`.
    pub socket: PathBuf,
}

impl Default for Operator {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/remeet/operator.sock") }
    }
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Directives of tracing's filter, such as `info,remeet::recovery=debug`. Default `info`.
    pub filter: String,
    /// Text, JSON, journald, or what fits. Default `auto`.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// To the journal if standard error is connected to it, else as text.
    Auto,
    /// Text on standard error.
    Text,
    /// A JSON object a line on standard error.
    Json,
    /// To the journal, with fields.
    Journald,
}

impl Config {
    /// Which server is under which.
    #[must_use]
    pub fn tree(&self) -> Tree {
        Tree::new(self.servers.iter().map(|server| (server.id, server.under)))
    }

    /// Where the store is. Checked by [`parse`], so it is there for every configuration that came from it.
    #[must_use]
    pub fn store_address(&self) -> Option<StoreAddress> {
        StoreAddress::read(&self.store.url, &self.scheduler.state_directory)
    }

    /// Where the cache is. Checked by [`parse`] like [`Config::store_address`].
    #[must_use]
    pub fn cache_address(&self) -> Option<CacheAddress> {
        CacheAddress::read(&self.cache.url)
    }
}
