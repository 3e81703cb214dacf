//! Two daemons on one store as processes, with simulated servers that count what they execute for a token that is
//! not the newest: what the tests of a pair stand on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, LOOK, PATIENCE, Rig, is_steady, status_at};
use crate::servers::{FreshDatabase, free_port, fresh_database, redis_url};
use remeet::cms::client::{Client, ClientSettings};
use remeet::ops::status::{LinkState, Phase, Status};
use remeet::recovery::lease::LeaseView;
use remeet_protocol::wire::Text;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub(crate) const LEASE_MS: u64 = 1_500;
pub(crate) const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// One of the two, with a state directory, ports and a log of its own.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) clients_at: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) child: Option<Child>,
}

impl Node {
    pub(crate) fn start(rig: &Rig, name: &'static str, backing: &Backing) -> Self {
        Self::with_lease(rig, name, backing, LEASE_MS)
    }

    pub(crate) fn with_lease(rig: &Rig, name: &'static str, backing: &Backing, lease_ms: u64) -> Self {
        let clients_at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        rig.write_config(&format!("{name}.toml"), name, backing, clients_at, lease_ms);
        let mut node = Self { name, clients_at, socket: rig.path(&format!("{name}.sock")), child: None };
        node.start_again(rig);
        node
    }

    pub(crate) fn start_again(&mut self, rig: &Rig) {
        assert!(self.child.is_none(), "it runs");
        self.child = Some(rig.launch(&format!("{}.toml", self.name), &format!("{}.log", self.name)));
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(pid).status().unwrap().success());
    }

    pub(crate) fn log(&self, rig: &Rig) -> String {
        std::fs::read_to_string(rig.path(&format!("{}.log", self.name))).unwrap_or_default()
    }

    pub(crate) async fn until(&self, rig: &Rig, what: &str, fits: impl Fn(&Status) -> bool) -> Status {
        let begun = Instant::now();
        loop {
            let status = status_at(&self.socket).await;
            if let Some(status) = status.as_ref().filter(|status| fits(status)) {
                return status.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "{} not {what}: {status:#?}\n{}", self.name, self.log(rig));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until it commands every meeting of every server.
    pub(crate) async fn commands(&self, rig: &Rig) -> Status {
        let attached = |status: &Status| status.servers.iter().all(|server| server.link == LinkState::Attached);
        // A term that has lapsed leaves its links attached.
        let active = |status: &Status| matches!(status.lease, LeaseView::Active { .. });
        self.until(rig, "in command", |status| is_steady(status) && attached(status) && active(status)).await
    }

    /// Until it is a standby whose links are up, and no more than that.
    pub(crate) async fn stands_by(&self, rig: &Rig) -> Status {
        let warm = |status: &Status| status.servers.iter().all(|server| server.link == LinkState::Up);
        self.until(rig, "a warm standby", |status| status.phase == Phase::Standby && warm(status)).await
    }

    pub(crate) async fn client(&self) -> Client {
        let name = Text::new(format!("client {CONTROL}")).unwrap();
        let settings = ClientSettings { deadline: PATIENCE, ..ClientSettings::new(self.clients_at, CONTROL, name) };
        Client::connect(settings).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Servers that both nodes know, and the first node in command of `meetings`.
pub(crate) async fn first_of_a_pair(backing: &Backing, servers: u32) -> (Rig, Node) {
    let rig = Rig::new(servers, backing).await;
    let first = Node::start(&rig, "first", backing);
    first.commands(&rig).await;
    (rig, first)
}

pub(crate) fn on_postgres() -> Option<(FreshDatabase, Backing)> {
    let (database, cache) = (fresh_database()?, redis_url()?);
    let backing = Backing { store: database.url.clone(), cache };
    Some((database, backing))
}

pub(crate) fn nothing_stale(rig: &Rig) {
    for server in &rig.servers {
        assert_eq!(server.stats().stale_executed, 0, "rules 2 and 3");
    }
}
