//! A proxy before Postgres that goes silent, refuses, or loses a commit or its answer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sqlx::postgres::PgConnectOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// What happens to the next commit that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum NextCommit {
    /// It does not reach the server; the connection is silent from then on.
    IsLost = 1,
    /// It reaches the server; the answer is lost, and the connection is silent from then on.
    LosesItsAnswer = 2,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    refuse: AtomicBool,
    /// 0, or a [`NextCommit`].
    commit: AtomicU8,
    /// Connections made before this number is raised are silent.
    frozen: watch::Sender<u64>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Proxy {
    /// Before the database at `url`.
    pub(crate) async fn before(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_, rest) = url.split_once("://").unwrap();
        let user = rest.split_once('@').map_or(options.get_username(), |(user, _)| user);
        let database = options.get_database().unwrap();
        let frozen = watch::Sender::new(0);
        let state = Arc::new(State { refuse: AtomicBool::new(false), commit: AtomicU8::new(0), frozen });
        let task = tokio::spawn(serve(listener, options.clone(), Arc::clone(&state)));
        Self { url: format!("postgres://{user}@127.0.0.1:{port}/{database}?sslmode=disable"), state, task }
    }

    /// Every connection that there is now falls silent for ever; new ones work.
    pub(crate) fn freeze_connections(&self) {
        self.state.frozen.send_modify(|count| *count += 1);
    }

    /// Whether connections are refused: the server is down.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.state.refuse.store(refuse, Ordering::SeqCst);
    }

    pub(crate) fn next_commit(&self, next: NextCommit) {
        self.state.commit.store(next as u8, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, options: PgConnectOptions, state: Arc<State>) {
    let mut pairs = tokio::task::JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if state.refuse.load(Ordering::SeqCst) {
            drop(client);
            continue;
        }
        let (options, state) = (options.clone(), Arc::clone(&state));
        pairs.spawn(async move {
            let directory = options.get_socket().map(|path| path.display().to_string());
            let host = directory.unwrap_or_else(|| options.get_host().to_owned());
            let server: Box<dyn Stream> = if host.starts_with('/') {
                Box::new(UnixStream::connect(format!("{host}/.s.PGSQL.{}", options.get_port())).await.unwrap())
            } else {
                Box::new(TcpStream::connect((host.as_str(), options.get_port())).await.unwrap())
            };
            pair(client, server, state).await;
        });
    }
}

async fn pair(mut client: TcpStream, mut server: Box<dyn Stream>, state: Arc<State>) {
    let mut frozen = state.frozen.subscribe();
    let (mut sent, mut answered) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            // First: what comes after the freeze does not pass.
            biased;
            _ = frozen.changed() => return std::future::pending().await,
            read = client.read(&mut sent) => {
                let Ok(count @ 1..) = read else { return };
                let bytes = &sent[..count];
                let commit = bytes.windows(7).any(|window| window == b"COMMIT\0");
                let next = if commit { state.commit.swap(0, Ordering::SeqCst) } else { 0 };
                if next != NextCommit::IsLost as u8 && server.write_all(bytes).await.is_err() {
                    return;
                }
                if next != 0 {
                    // Silent, but open, until the test ends.
                    return std::future::pending().await;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { return };
                if client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
