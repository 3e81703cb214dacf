//! What a readable configuration must still fulfil. All problems are found at once.

use super::error::{ConfigError, Problem};
use super::{Config, StoreAddress};
use crate::cascade::Misplaced;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The most servers of one scheduler: each has a task, a socket and queues of its own.
const SERVERS_MAX: usize = 4_096;
/// The most meeting clients that may be listed.
const CLIENTS_MAX: usize = 65_536;
/// A name's field in a packet is this long (SPEC H-1).
const NAME_BYTES_MAX: usize = 64;
/// `sun_path` has 108 bytes, with its closing zero; the socket is bound under a longer, temporary name
/// first (see [`crate::ops::operator`]).
const SOCKET_PATH_BYTES_MAX: usize = 107 - 12;

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let mut found = Problems(Vec::new());
    scheduler(config, &mut found);
    stores(config, &mut found);
    link(config, &mut found);
    servers(config, &mut found);
    clients(config, &mut found);
    recovery(config, &mut found);
    operator_and_log(config, &mut found);
    if found.0.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(found.0)) }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push(Problem { place: place.into(), text: text.into() });
    }

    fn name(&mut self, place: &str, name: &str) {
        if name.trim().is_empty() {
            self.add(place, "is missing or empty: give a name");
        } else if name.len() > NAME_BYTES_MAX {
            self.add(
                place,
                format!("has {} bytes, at most {NAME_BYTES_MAX} fit a packet: choose a shorter name", name.len()),
            );
        } else if name.chars().any(char::is_control) {
            self.add(place, "has control characters in it: use printable ones only");
        }
    }

    fn range(&mut self, place: &str, value: u32, least: u32, most: u32) {
        if !(least..=most).contains(&value) {
            self.add(place, format!("is {value}, allowed is {least} to {most}"));
        }
    }

    fn span_ms(&mut self, place: &str, value: Duration, least: u64, most: u64) {
        if !(Duration::from_millis(least)..=Duration::from_millis(most)).contains(&value) {
            self.add(place, format!("is {}, allowed is {least} to {most} (milliseconds)", value.as_millis()));
        }
    }

    fn span_s(&mut self, place: &str, value: Duration, least: u64, most: u64) {
        if !(Duration::from_secs(least)..=Duration::from_secs(most)).contains(&value) {
            self.add(place, format!("is {}, allowed is {least} to {most} (seconds)", value.as_secs()));
        }
    }

    fn not_after(&mut self, first: &str, first_value: Duration, last: &str, last_value: Duration) {
        if first_value > last_value {
            self.add(first, format!("is more than {last}: the first pause cannot be longer than the longest"));
        }
    }

    fn loopback(&mut self, place: &str, address: SocketAddr) {
        if !address.ip().is_loopback() {
            self.add(
                place,
                format!(
                    "{address} is not a loopback address, and links have no TLS yet: \
                     use 127.0.0.1 or ::1 (a tunnel can carry it further)"
                ),
            );
        }
    }

    fn absolute(&mut self, place: &str, path: &Path) {
        if !path.is_absolute() {
            self.add(place, format!("{:?} is not an absolute path: begin it with /", path.display().to_string()));
        }
    }
}

fn scheduler(config: &Config, found: &mut Problems) {
    let scheduler = &config.scheduler;
    if scheduler.domain.0 == 0 {
        found.add("scheduler.domain", "is missing or 0: give the number of the autonomous domain, 1 or more");
    }
    found.name("scheduler.name", &scheduler.name);
    found.name("scheduler.node", &scheduler.node);
    found.absolute("scheduler.state_directory", &scheduler.state_directory);
    found.span_ms("scheduler.lease_ms", scheduler.lease, 1_000, 60_000);
}

fn stores(config: &Config, found: &mut Problems) {
    let store = &config.store;
    if store.url.expose().is_empty() {
        found.add(
            "store.url",
            "is missing: give postgres://user@host/database or sqlite:PATH, here, in REMEET_STORE__URL or in the \
             credential store-url",
        );
    } else if config.store_address().is_none() {
        found.add(
            "store.url",
            format!("{:?} names no durable store: give postgres://… or sqlite:PATH (a file)", store.url.shown()),
        );
    }
    if matches!(config.store_address(), Some(StoreAddress::Postgres(_))) {
        found.range("store.connections_max", store.connections_max, 2, 64);
    } else {
        found.range("store.connections_max", store.connections_max, 1, 64);
    }
    // Above 2 s a writer could hold the term's row past a renewal of the lease (design §5).
    found.span_ms("store.write_deadline_ms", store.write_deadline, 50, 2_000);
    found.span_ms("store.read_deadline_ms", store.read_deadline, 100, 60_000);

    let cache = &config.cache;
    if config.cache_address().is_none() {
        found.add("cache.url", format!("{:?} names no cache: give memory: or redis://host", cache.url.shown()));
    }
    found.span_ms("cache.deadline_ms", cache.deadline, 10, 30_000);
    found.range("cache.legs_max", cache.legs_max, 1, 10_000_000);
}

fn link(config: &Config, found: &mut Problems) {
    let link = &config.link;
    found.span_ms("link.connect_deadline_ms", link.connect_deadline, 50, 30_000);
    found.span_ms("link.request_deadline_ms", link.request_deadline, 50, 30_000);
    found.span_ms("link.keep_alive_ms", link.keep_alive, 50, 60_000);
    found.span_ms("link.reconnect_first_ms", link.reconnect_first, 10, 60_000);
    found.span_ms("link.reconnect_max_ms", link.reconnect_max, 10, 60_000);
    found.range("link.relays_max", link.relays_max, 1, u32::from(remeet_protocol::packet::HOPS_MAX));
    found.not_after("link.reconnect_first_ms", link.reconnect_first, "link.reconnect_max_ms", link.reconnect_max);
}

fn servers(config: &Config, found: &mut Problems) {
    if config.servers.is_empty() {
        found.add("[[server]]", "there is none: name at least one autonomous server");
    }
    if config.servers.len() > SERVERS_MAX {
        found.add("[[server]]", format!("there are {}, at most {SERVERS_MAX}: split the domain", config.servers.len()));
    }
    let mut ids = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    let tree = config.tree();
    let relays_max = usize::try_from(config.link.relays_max).unwrap_or(usize::MAX);
    for (place, server) in config.servers.iter().enumerate() {
        let place = place + 1;
        let key = |field: &str| format!("[[server]] number {place} (id {}), {field}", server.id);
        if server.id.0 == 0 {
            found.add(key("id"), "is 0, which means \"any server\" in messages: give 1 or more");
        }
        if let Some(first) = ids.insert(server.id, place) {
            found.add(key("id"), format!("is the id of number {first} too: every server has an id of its own"));
        }
        found.name(&key("name"), &server.name);
        match (server.address, server.under) {
            (None, None) => {
                found.add(
                    key("address"),
                    "is missing: give IP:port, or under = the id of the server that relays for it",
                );
            }
            (Some(_), Some(parent)) => {
                let text = format!("is given, and under = {parent} as well: it is dialled or relayed for, not both");
                found.add(key("address"), text);
            }
            (Some(address), None) => {
                if let Some(first) = addresses.insert(address, place) {
                    found.add(key("address"), format!("{address} is the address of number {first} too"));
                }
                if address.port() == 0 {
                    found.add(key("address"), format!("{address} has port 0, which cannot be dialled"));
                }
                found.loopback(&key("address"), address);
            }
            (None, Some(_)) => match tree.misplaced(server.id, relays_max) {
                Some(Misplaced::UnknownParent(parent)) => {
                    found.add(
                        key("under"),
                        format!("leads to server {parent}, which is not listed: list it, or name another"),
                    );
                }
                Some(Misplaced::Circle) => {
                    found.add(key("under"), "leads back to where it began: the topmost server needs an address");
                }
                Some(Misplaced::TooDeep(relays)) => found.add(
                    key("under"),
                    format!(
                        "means {relays} relays, link.relays_max allows {relays_max}: raise it, or nest less deeply"
                    ),
                ),
                None => {}
            },
        }
    }
}

fn clients(config: &Config, found: &mut Problems) {
    let clients = &config.clients;
    found.loopback("clients.listen", clients.listen);
    found.range("clients.connections_max", clients.connections_max, 1, 65_536);
    found.span_ms("clients.command_deadline_ms", clients.command_deadline, 100, 120_000);
    found.range("clients.commands_waiting_max", clients.commands_waiting_max, 1, 4_096);
    found.range("clients.meetings_max", clients.meetings_max, 1, 1_000_000);
    found.range("clients.events_waiting_max", clients.events_waiting_max, 16, 65_536);
    if config.identities.len() > CLIENTS_MAX {
        found.add("[[client]]", format!("there are {}, at most {CLIENTS_MAX}", config.identities.len()));
    }
    let mut ids = BTreeMap::new();
    for (place, client) in config.identities.iter().enumerate() {
        let place = place + 1;
        let key = |field: &str| format!("[[client]] number {place} (id {}), {field}", client.id);
        if client.id == 0 {
            found.add(key("id"), "is 0: give 1 or more");
        }
        if let Some(first) = ids.insert(client.id, place) {
            found.add(key("id"), format!("is the id of number {first} too: every client has an id of its own"));
        }
        found.name(&key("name"), &client.name);
        if client.rights.is_empty() {
            found
                .add(key("rights"), "is empty: give some of \"view\", \"control\", \"operator\", or remove the client");
        }
    }
}

fn recovery(config: &Config, found: &mut Problems) {
    let recovery = &config.recovery;
    found.range("recovery.requests_in_flight", recovery.requests_in_flight, 2, 256);
    found.range("recovery.pulls_in_flight", recovery.pulls_in_flight, 1, 1_024);
    found.span_s("recovery.reconcile_interval_s", recovery.reconcile_interval, 1, 86_400);
    found.span_s("recovery.round_deadline_s", recovery.round_deadline, 1, 600);
    found.span_ms("recovery.retry_first_ms", recovery.retry_first, 10, 60_000);
    found.span_ms("recovery.retry_max_ms", recovery.retry_max, 10, 60_000);
    found.not_after("recovery.retry_first_ms", recovery.retry_first, "recovery.retry_max_ms", recovery.retry_max);
}

fn operator_and_log(config: &Config, found: &mut Problems) {
    let socket = &config.operator.socket;
    found.absolute("operator.socket", socket);
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        found.add(
            "operator.socket",
            format!(
                "has {} bytes, a socket's path may have {SOCKET_PATH_BYTES_MAX}: choose a shorter one",
                socket.as_os_str().len()
            ),
        );
    }
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.filter) {
        found.add(
            "log.filter",
            format!("{:?} is not a filter: {error}; give a level or target=level pairs", config.log.filter),
        );
    }
}

impl Config {
    /// What is allowed but deserves a look, a sentence each: shown by `remeet check`.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let elsewhere = |host: &str| {
            !host.is_empty()
                && host != "localhost"
                && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        let store = &self.store.url;
        let encrypted = ["sslmode=require", "sslmode=verify-ca", "sslmode=verify-full"];
        if matches!(self.store_address(), Some(StoreAddress::Postgres(_)))
            && elsewhere(store.host())
            && !encrypted.iter().any(|mode| store.expose().contains(mode))
        {
            remarks.push(
                "store.url: the database is on another machine and encryption is not demanded: \
                 add ?sslmode=verify-full"
                    .to_owned(),
            );
        }
        if self.cache.url.scheme() == "redis" && elsewhere(self.cache.url.host()) {
            remarks.push(
                "cache.url: the cache is on another machine and recovery keys would cross the network in the clear: \
                 use rediss://"
                    .to_owned(),
            );
        }
        if self.identities.is_empty() {
            remarks.push("[[client]]: there is none, so no meeting client is let in".to_owned());
        }
        remarks
    }
}
