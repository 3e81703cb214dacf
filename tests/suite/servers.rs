//! The real servers that tests run against: the throw-away ones that `scripts/with-servers` started and
//! names in the environment, and private ones that a test may stop, freeze or kill.
//!
//! Everything here is `None` when `REMEET_TEST_EMBEDDED_ONLY=1` says that there are no servers: the test
//! then returns, and its output says that it was skipped. Without that, a missing server fails the test.
//! `FLUSHDB` is used freely: never name a Redis or PostgreSQL that holds anything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to start or stop: some 0.1 s, more on a machine that compiles beside it.
const PATIENCE: Duration = Duration::from_secs(30);

/// URL of the throw-away PostgreSQL, as superuser.
pub(crate) fn postgres_url() -> Option<String> {
    variable("REMEET_TEST_POSTGRES")
}

/// URL of an empty database of the throw-away Redis: another one for each call.
pub(crate) fn redis_url() -> Option<String> {
    let url = variable("REMEET_TEST_REDIS")?;
    let address = url.strip_prefix("redis://").expect("REMEET_TEST_REDIS is redis://HOST:PORT").trim_end_matches('/');
    let mut redis = Talk::to(address);
    // Counted in Redis, not here: test processes may run side by side.
    let taken: u32 = redis.ask("INCR remeet-test:databases").trim_start_matches(':').parse().unwrap();
    let databases: u32 = redis.ask_all("CONFIG GET databases", 5).last().unwrap().parse().unwrap();
    let number = 1 + taken % (databases - 1);
    assert_eq!(redis.ask(&format!("SELECT {number}")), "+OK");
    assert_eq!(redis.ask("FLUSHDB"), "+OK");
    Some(format!("redis://{address}/{number}"))
}

/// A new, empty database of the throw-away PostgreSQL, dropped with this value.
pub(crate) struct FreshDatabase {
    pub(crate) url: String,
    name: String,
}

pub(crate) fn fresh_database() -> Option<FreshDatabase> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = postgres_url()?;
    let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    psql(&server, &format!("CREATE DATABASE {name}")).expect("a database is created");
    let (base, _) = server.rsplit_once('/').expect("REMEET_TEST_POSTGRES ends with /DATABASE");
    Some(FreshDatabase { url: format!("{base}/{name}"), name })
}

impl Drop for FreshDatabase {
    /// Best effort: the server is thrown away with all its databases.
    fn drop(&mut self) {
        if let Some(server) = postgres_url() {
            let _ = psql(&server, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

/// A Redis of the test's own.
pub(crate) struct PrivateRedis {
    dir: TempDir,
    options: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl PrivateRedis {
    /// Starts one; nothing of it survives a stop.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&["--save", ""])
    }

    /// Starts one with further options.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        let mut redis = Self::stopped()?;
        redis.options = options.iter().map(|option| (*option).to_owned()).collect();
        // Another process may take the port between its choice and the start.
        for _ in 0..5 {
            redis.launch();
            if redis.await_answer() {
                return Some(redis);
            }
            redis.kill();
            redis.port = free_port();
        }
        panic!("redis-server does not start: {}", redis.log());
    }

    /// One that has a port but is not started yet: see [`start_again`](Self::start_again).
    pub(crate) fn stopped() -> Option<Self> {
        variable("REMEET_TEST_REDIS_SERVER")?;
        let options = vec!["--save".to_owned(), String::new()];
        Some(Self { dir: tempfile::tempdir().unwrap(), options, port: free_port(), process: None })
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        self.url_of(0)
    }

    /// Of one of its 16 databases.
    pub(crate) fn url_of(&self, database: u8) -> String {
        format!("redis://{}/{database}", self.address())
    }

    /// Asks a command that is answered in one line.
    pub(crate) fn ask(&self, command: &str) -> String {
        Talk::to(&self.address()).ask(command)
    }

    /// Kills the server outright.
    pub(crate) fn kill(&mut self) {
        kill_child(&mut self.process);
    }

    /// Starts it on its port without waiting until it answers.
    pub(crate) fn launch(&mut self) {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new(variable("REMEET_TEST_REDIS_SERVER").unwrap())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--enable-debug-command", "local", "--dir"])
            .arg(self.dir.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn();
        self.process = Some(child.expect("redis-server starts"));
    }

    /// From its next start on it loads its data set slowly, 0.5 ms a name, and answers meanwhile.
    pub(crate) fn slow_loading(&mut self) {
        let slow = ["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"];
        self.options.extend(slow.map(str::to_owned));
    }

    /// Starts it on the port that it had.
    pub(crate) fn start_again(&mut self) {
        self.launch();
        assert!(self.await_answer(), "redis-server does not start again: {}", self.log());
    }

    /// Stops it without a word to its connections: they stay open and silent.
    pub(crate) fn freeze(&self) {
        signal("STOP", self.process.as_ref().map(Child::id));
    }

    /// Ends [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) {
        signal("CONT", self.process.as_ref().map(Child::id));
    }

    /// Waits until the server answers, whatever it answers; `false` if it ended.
    fn await_answer(&mut self) -> bool {
        let address = self.address();
        let process = self.process.as_mut();
        started(process, || TcpStream::connect(&address).is_ok_and(|stream| !Talk::on(stream).ask("PING").is_empty()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A PostgreSQL of the test's own, with its own cluster.
pub(crate) struct PrivatePostgres {
    dir: TempDir,
    port: u16,
    process: Option<Child>,
}

impl PrivatePostgres {
    /// Makes a cluster and starts it: about a second.
    pub(crate) fn start() -> Option<Self> {
        variable("REMEET_TEST_PG_BIN")?;
        let mut postgres = Self { dir: tempfile::tempdir().unwrap(), port: free_port(), process: None };
        postgres.make_cluster();
        for _ in 0..5 {
            postgres.launch();
            if postgres.await_answer() {
                return Some(postgres);
            }
            postgres.kill();
            postgres.port = free_port();
        }
        panic!("PostgreSQL does not start: {}", postgres.log());
    }

    /// As superuser.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres:remeet@127.0.0.1:{}/postgres", self.port)
    }

    /// Where it listens: for a proxy.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it outright with all its sessions; what it had committed stays.
    pub(crate) fn kill(&mut self) {
        // Sessions would end by themselves once it is gone, but commit what reaches them before they notice.
        // The number of one that has ended may be somebody else's by now.
        if self.process.as_mut().is_some_and(|process| process.try_wait().is_ok_and(|ended| ended.is_none())) {
            signal("KILL", self.processes());
        }
        kill_child(&mut self.process);
    }

    /// Starts it on the port that it had.
    pub(crate) fn start_again(&mut self) {
        let until = Instant::now() + PATIENCE;
        // Children of a killed server may still be ending: it refuses to start until they have.
        while Instant::now() < until {
            self.launch();
            if self.await_answer() {
                return;
            }
            self.kill();
        }
        panic!("PostgreSQL does not start again: {}", self.log());
    }

    /// Stops it and all its sessions without a word: connections stay open and silent.
    pub(crate) fn freeze(&self) {
        signal("STOP", self.processes());
    }

    /// Ends [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) {
        signal("CONT", self.processes());
    }

    /// The server and its children, each in a process group of its own.
    fn processes(&self) -> Vec<u32> {
        let Some(server) = self.process.as_ref().map(Child::id) else { return Vec::new() };
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
        std::iter::once(server).chain(children.split_whitespace().map(|child| child.parse().unwrap())).collect()
    }

    fn make_cluster(&self) {
        let data = self.dir.path().join("data");
        fs::set_permissions(self.dir.path(), Permissions::from_mode(0o711)).unwrap();
        fs::create_dir(&data).unwrap();
        let password = self.dir.path().join("password");
        fs::write(&password, "remeet\n").unwrap();
        if let Some(user) = server_user() {
            run(Command::new("chown").arg(user).arg(&data)).expect("chown");
        }
        let initdb = &mut as_server_user("initdb");
        initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password);
        initdb.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        run(initdb).expect("initdb");
    }

    fn launch(&mut self) {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let child = as_server_user("postgres")
            .arg("-D")
            .arg(self.dir.path().join("data"))
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "dynamic_shared_memory_type=mmap"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("postgres starts"));
    }

    fn await_answer(&mut self) -> bool {
        let url = self.url();
        started(self.process.as_mut(), || psql(&url, "SELECT 1").is_ok())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // A quick, orderly end leaves no children behind.
        signal("CONT", self.processes());
        signal("QUIT", self.process.as_ref().map(Child::id));
        let until = Instant::now() + Duration::from_secs(5);
        while let Some(process) = &mut self.process
            && Instant::now() < until
            && process.try_wait().is_ok_and(|ended| ended.is_none())
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

/// A variable that `scripts/with-servers` sets; `None` if there are to be no servers.
fn variable(name: &str) -> Option<String> {
    if std::env::var("REMEET_TEST_EMBEDDED_ONLY").is_ok_and(|value| value == "1") {
        println!("skipped: REMEET_TEST_EMBEDDED_ONLY=1 leaves out what needs {name}");
        return None;
    }
    match std::env::var(name) {
        Ok(value) => Some(value),
        Err(_) => panic!(
            "{name} is not set: this test needs real servers. Run scripts/test (or scripts/with-servers cargo test \
             --release …), or set REMEET_TEST_EMBEDDED_ONLY=1 to leave such tests out."
        ),
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `answers`; `false` if the process ended instead.
fn started(process: Option<&mut Child>, answers: impl Fn() -> bool) -> bool {
    let process = process.expect("launched");
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        if answers() {
            // Not another process that took the port.
            return process.try_wait().unwrap().is_none();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn kill_child(process: &mut Option<Child>) {
    if let Some(mut process) = process.take() {
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn signal(name: &str, processes: impl IntoIterator<Item = u32>) {
    for process in processes {
        // A child may have ended meanwhile.
        let shell = ["-c", "kill -s \"$0\" \"$1\"", name, &process.to_string()];
        let _ = Command::new("sh").args(shell).stderr(Stdio::null()).status();
    }
}

fn server_user() -> Option<String> {
    std::env::var("REMEET_TEST_PG_USER").ok().filter(|user| !user.is_empty())
}

/// A program of PostgreSQL's server, as the user that may run it.
fn as_server_user(program: &str) -> Command {
    let program = pg_bin().join(program);
    let Some(user) = server_user() else { return Command::new(program) };
    let group = run(Command::new("id").args(["-g", &user])).expect("id");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", group.trim(), "--clear-groups"]).arg(program);
    // The test's own directory may be closed to that user.
    command.current_dir("/");
    command
}

pub(crate) fn psql(url: &str, sql: &str) -> Result<String, String> {
    let mut command = Command::new(pg_bin().join("psql"));
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    run(&mut command)
}

/// Runs a file of statements, such as a dump.
pub(crate) fn restore(url: &str, file: &Path) {
    let mut command = Command::new(pg_bin().join("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f"]).arg(file);
    run(&mut command).expect("the statements of a file");
}

fn pg_bin() -> PathBuf {
    variable("REMEET_TEST_PG_BIN").as_deref().map(Path::new).map(Path::to_owned).unwrap_or_default()
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Redis' own protocol, as one would type it.
struct Talk {
    lines: BufReader<TcpStream>,
}

impl Talk {
    fn to(address: &str) -> Self {
        Self::on(TcpStream::connect(address).expect("Redis answers"))
    }

    fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { lines: BufReader::new(stream) }
    }

    fn ask(&mut self, command: &str) -> String {
        self.ask_all(command, 1).remove(0)
    }

    /// The answer's first `lines` lines.
    fn ask_all(&mut self, command: &str, lines: usize) -> Vec<String> {
        let _ = self.lines.get_mut().write_all(format!("{command}\r\n").as_bytes());
        let mut line = || {
            let mut line = String::new();
            let _ = self.lines.read_line(&mut line);
            line.trim_end().to_owned()
        };
        (0..lines).map(|_| line()).collect()
    }
}

#[test]
fn a_fresh_database_is_empty_and_dropped_afterwards() {
    let Some(fresh) = fresh_database() else { return };
    let server = postgres_url().unwrap();
    let exists = format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", fresh.name);
    assert_eq!(psql(&fresh.url, "SELECT current_database()").unwrap().trim(), fresh.name);
    assert_eq!(psql(&server, &exists).unwrap().trim(), "1");
    drop(fresh);
    assert_eq!(psql(&server, &exists).unwrap().trim(), "0");
}

#[test]
fn a_fresh_redis_database_is_empty_and_not_given_twice() {
    let (Some(one), Some(other)) = (redis_url(), redis_url()) else { return };
    assert_ne!(one, other);
}

#[test]
fn a_private_postgres_keeps_what_was_committed_over_a_kill_and_is_silent_when_frozen() {
    let Some(mut postgres) = PrivatePostgres::start() else { return };
    psql(&postgres.url(), "CREATE TABLE kept AS SELECT 7 AS number; CHECKPOINT").unwrap();
    postgres.kill();
    assert!(psql(&postgres.url(), "SELECT 1").is_err());
    postgres.start_again();
    assert_eq!(psql(&postgres.url(), "SELECT number FROM kept").unwrap().trim(), "7");

    postgres.freeze();
    // The kernel still connects; the server says nothing.
    let mut stream = TcpStream::connect(postgres.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap(); // SSLRequest
    assert!(std::io::Read::read(&mut stream, &mut [0]).is_err());
    postgres.thaw();
    assert_eq!(psql(&postgres.url(), "SELECT number FROM kept").unwrap().trim(), "7");
}

#[test]
fn a_private_redis_freezes_thaws_and_forgets_over_a_kill() {
    let Some(mut redis) = PrivateRedis::start() else { return };
    assert_eq!(redis.ask("SET name value"), "+OK");
    redis.freeze();
    let stream = TcpStream::connect(redis.address()).unwrap();
    let mut talk = Talk::on(stream);
    talk.lines.get_ref().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(talk.ask("PING"), "");
    redis.thaw();
    assert_eq!(redis.ask("EXISTS name"), ":1");
    redis.kill();
    redis.start_again();
    assert_eq!(redis.ask("EXISTS name"), ":0");
}
