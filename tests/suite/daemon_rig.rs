//! The real daemon as a process of its own, with simulated servers on real sockets: what the `daemon_*`
//! tests stand on. Waits are for conditions, each with a deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests wait with deadlines of their own")]

use remeet::cms::client::{Client, ClientSettings, MeetingView};
use remeet::ops::operator::{OperatorRequest, ask};
use remeet::ops::status::{Phase, Status};
use remeet::simulator::{Options, Running, Simulator};
use remeet_protocol::message::{AddTerminal, ClientAnswer, ClientOp, Create, LegState, MeetingState};
use remeet_protocol::record::{Number, RecordState};
use remeet_protocol::wire::Text;
use remeet_protocol::{Change, DomainId, LegId, MeetingId, ServerId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes, also on a loaded machine; who waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// The lease of one daemon alone: nobody waits for it.
const LEASE_MS: u64 = 6_000;

/// The three clients of the configuration, by what they may do.
pub(crate) const OPERATOR: u32 = 1;
pub(crate) const CONTROL: u32 = 2;
pub(crate) const VIEW: u32 = 3;

/// Where the daemon keeps things.
pub(crate) struct Backing {
    pub(crate) store: String,
    pub(crate) cache: String,
}

impl Backing {
    pub(crate) fn embedded() -> Self {
        Self { store: "sqlite:remeet.db".to_owned(), cache: "memory:".to_owned() }
    }
}

/// Tests of functions that take a backing: embedded, and on PostgreSQL and Redis where they are.
macro_rules! over_both {
    ($($name:ident)*) => { $(
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn embedded() {
                super::$name(&crate::daemon_rig::Backing::embedded()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_postgres_and_redis() {
                let Some((_database, backing)) = crate::pair_rig::on_postgres() else { return };
                super::$name(&backing).await;
            }
        }
    )* };
}
pub(crate) use over_both;

/// Servers, the daemon's configuration and its process.
pub(crate) struct Rig {
    pub(crate) servers: Vec<Running>,
    pub(crate) clients_at: SocketAddr,
    /// Servers that are under others.
    pub(crate) under: BTreeMap<u32, u32>,
    /// Servers that are dialled at another address than their own: a proxy's.
    pub(crate) through: BTreeMap<u32, SocketAddr>,
    directory: tempfile::TempDir,
    child: Option<Child>,
    notify: Option<PathBuf>,
    environment: Vec<(&'static str, String)>,
}

impl Rig {
    /// Servers with ids from 1; the daemon is not started yet.
    pub(crate) async fn new(servers: u32, backing: &Backing) -> Self {
        Self::over_domains(&vec![1; servers as usize], backing).await
    }

    /// Servers with ids from 1, each of a domain; the scheduler's is 1.
    pub(crate) async fn over_domains(domains: &[u32], backing: &Backing) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut running = Vec::new();
        for (id, domain) in (1..).zip(domains) {
            let options = Options {
                server_id: id,
                domain_id: *domain,
                scheduler_domain: Some(1),
                name: format!("server {id}"),
                seed: Some(u64::from(id)),
                permit_adopt: true,
                keep_alive_ms: 1_000,
                ..Options::default()
            };
            running.push(Simulator::spawn(options).await.unwrap());
        }
        let clients_at = SocketAddr::from(([127, 0, 0, 1], crate::servers::free_port()));
        let rig = Self {
            servers: running,
            clients_at,
            under: BTreeMap::new(),
            through: BTreeMap::new(),
            directory,
            child: None,
            notify: None,
            environment: Vec::new(),
        };
        rig.write_config("remeet.toml", "state", backing, clients_at, LEASE_MS);
        rig
    }

    /// The configuration of a node that lives in `state`, with a port and a lease of its own.
    pub(crate) fn write_config(
        &self,
        name: &str,
        state: &str,
        backing: &Backing,
        clients_at: SocketAddr,
        lease_ms: u64,
    ) {
        let home = self.directory.path().display();
        let mut text = format!(
            "[scheduler]\ndomain = 1\nname = \"under test\"\nnode = \"{state}\"\nstate_directory = \"{home}/{state}\"\n\
             lease_ms = {lease_ms}\n[store]\nurl = \"{}\"\n[cache]\nurl = \"{}\"\n\
             [clients]\nlisten = \"{}\"\n[operator]\nsocket = \"{home}/{state}.sock\"\n[log]\nfilter = \"info\"\n\
             [recovery]\nreconcile_interval_s = 3600\n",
            backing.store, backing.cache, clients_at
        );
        for (place, server) in self.servers.iter().enumerate() {
            let (id, domain) = (place + 1, server.dump().domain);
            let of = u32::try_from(id).unwrap();
            let place = match self.under.get(&of) {
                Some(parent) => format!("under = {parent}"),
                None => format!("address = \"{}\"", self.through.get(&of).unwrap_or(&server.address)),
            };
            write!(text, "[[server]]\nid = {id}\nname = \"server {id}\"\ndomain = {domain}\n{place}\n").unwrap();
        }
        for (id, right) in [(OPERATOR, "operator"), (CONTROL, "control"), (VIEW, "view")] {
            write!(text, "[[client]]\nid = {id}\nname = \"client {id}\"\nrights = [\"{right}\"]\n").unwrap();
        }
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// The daemon's next start finds each server at the other's address; called again, each at its own.
    pub(crate) fn swap_addresses(&mut self, backing: &Backing) {
        self.servers.swap(0, 1);
        self.write_config("remeet.toml", "state", backing, self.clients_at, LEASE_MS);
    }

    /// Notifications of the next start go to the datagram socket at `path`.
    pub(crate) fn notify(&mut self, path: PathBuf) {
        self.notify = Some(path);
    }

    /// A variable of the next start's environment: `REMEET_LOG__FILTER` and the like.
    pub(crate) fn environment(&mut self, name: &'static str, value: &str) {
        self.environment.push((name, value.to_owned()));
    }

    /// Runs `remeet` as an operator of this daemon does.
    pub(crate) fn remeet(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remeet"));
        command.args(arguments).arg("--socket").arg(self.path("state.sock"));
        command.env_remove("REMEET_CONFIG").stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn launch(&self, config: &str, log: &str) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path(log)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_remeet"));
        command.arg("run").arg("--config").arg(self.path(config)).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log).env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(notify) = &self.notify {
            command.env("NOTIFY_SOCKET", notify);
        }
        command.spawn().unwrap()
    }

    /// Starts the daemon; returns at once.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(self.launch("remeet.toml", "daemon.log"));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; its exit status.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let child = self.child.take().expect("it runs");
        terminate(child)
    }

    /// Everything that the daemon has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The daemon's status, if it answers.
    pub(crate) async fn status(&self) -> Option<Status> {
        status_at(&self.path("state.sock")).await
    }

    /// Waits until the status fits.
    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&Status) -> bool) -> Status {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if let Some(status) = status.as_ref().filter(|status| fits(status)) {
                return status.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}: {status:#?}\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the daemon has logged `text`.
    pub(crate) async fn until_logged(&self, text: &str) {
        let begun = Instant::now();
        while !self.log().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{text:?} is not logged:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every server that answers is recovered and everything is stored.
    pub(crate) async fn steady(&self) -> Status {
        self.until("steady", is_steady).await
    }

    /// Waits until every server is attached, and steady.
    pub(crate) async fn whole(&self) -> Status {
        self.until("whole", |status| {
            is_steady(status)
                && status.servers.iter().all(|server| server.link == remeet::ops::status::LinkState::Attached)
        })
        .await
    }

    pub(crate) async fn client(&self, id: u32) -> Client {
        let name = Text::new(format!("client {id}")).unwrap();
        Client::connect(ClientSettings { deadline: PATIENCE, ..ClientSettings::new(self.clients_at, id, name) })
            .await
            .unwrap()
    }

    /// A meeting on `server`, started, with terminals.
    pub(crate) async fn meeting(&self, client: &Client, server: u32, terminals: u32) -> MeetingId {
        let meeting = MeetingId(uuid::Uuid::now_v7());
        ok(client.command(meeting, create(meeting, server)).await.unwrap());
        ok(client.command(meeting, ClientOp::Start).await.unwrap());
        for number in 1..=terminals {
            ok(client.command(meeting, add_terminal(&format!("60{number}"))).await.unwrap());
        }
        meeting
    }

    /// Waits until the client sees the meeting in meeting, with just the records that its server has.
    pub(crate) async fn same_as_server(&self, client: &Client, meeting: MeetingId) -> MeetingView {
        let leg = LegId { meeting, leg: 0 };
        let begun = Instant::now();
        loop {
            let view = client.get(meeting).await.unwrap().view;
            let truth = self.servers.iter().flat_map(|server| server.dump().legs).find(|found| found.leg == leg);
            let truth = truth.filter(|found| found.state == LegState::Live).expect("its server runs it");
            let wanted: BTreeMap<_, _> =
                truth.records.iter().map(|found| (found.record.key(), found.record.clone())).collect();
            let stored: BTreeMap<_, _> = view.records.iter().filter_map(|(_, change)| present(change)).collect();
            if view.info.state == MeetingState::InMeeting && !view.info.recovering && wanted == stored {
                return view;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{:?}\nserver {wanted:#?}\nstored {stored:#?}\n{}",
                view.info,
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The status of the daemon whose operator's socket this is, if it answers.
pub(crate) async fn status_at(socket: &Path) -> Option<Status> {
    let items = ask(socket, &OperatorRequest::Status).await.ok()?;
    Some(serde_json::from_value(items.into_iter().next()?).unwrap())
}

pub(crate) fn is_steady(status: &Status) -> bool {
    status.phase == Phase::Steady && status.counters["persists_open"] == 0 && status.cache.waiting == 0
}

fn present(change: &Change) -> Option<(remeet_protocol::RecordKey, remeet_protocol::Record)> {
    match &change.state {
        RecordState::Present(record) => Some((record.key(), record.clone())),
        RecordState::Removed(_) => None,
    }
}

pub(crate) fn terminate(mut child: Child) -> std::process::ExitStatus {
    let status = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(LOOK);
    }
}

/// What a program said, both ways.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn ok(answer: ClientAnswer) {
    assert!(answer.code.is_ok(), "{answer:?}");
}

pub(crate) fn create(meeting: MeetingId, server: u32) -> ClientOp {
    ClientOp::Create(Create {
        meeting,
        server: ServerId(server),
        number: Number::cut("8001"),
        title: Text::cut("a meeting under test"),
        creator: Number::cut("601"),
        creator_name: Text::cut("Ada"),
    })
}

pub(crate) fn add_terminal(number: &str) -> ClientOp {
    ClientOp::AddTerminal(AddTerminal {
        number: Number::cut(number),
        home_domain: DomainId(1),
        name: Text::cut(&format!("room {number}")),
    })
}
