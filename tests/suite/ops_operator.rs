//! Goal: the operator's socket answers, and no peer can hold it up. Method: a small operator behind a
//! real socket; honest and dishonest peers.

#![allow(clippy::unwrap_used)]

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use remeet::ops::OperatorSocket;
use remeet::ops::operator::{
    AskError, BindError, CONNECTIONS_MAX, Operator, OperatorAnswer, OperatorError, OperatorErrorKind, OperatorRequest,
    REQUEST_BYTES_MAX, ask,
};
use remeet_protocol::{LegId, MeetingId, ServerId};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

struct Answers;

impl Operator for Answers {
    fn handle(&self, request: OperatorRequest) -> BoxFuture<'_, Result<OperatorAnswer, OperatorError>> {
        async move {
            match request {
                OperatorRequest::Status => Ok(OperatorAnswer::One(json!({"phase": "steady"}))),
                OperatorRequest::DumpCache => {
                    let legs = stream::iter((0..1_000).map(|leg| json!({"leg": leg, "text": "x".repeat(1_000)})));
                    Ok(OperatorAnswer::Many(legs.boxed()))
                }
                OperatorRequest::Recover { .. }
                | OperatorRequest::Mark { .. }
                | OperatorRequest::StepDown
                | OperatorRequest::ForgetKeys { .. } => Ok(OperatorAnswer::Done),
                OperatorRequest::Troubled => Ok(OperatorAnswer::Many(stream::empty().boxed())),
                OperatorRequest::LiftQuarantine { leg } => {
                    let text = format!("leg {leg} is not quarantined: see remeet troubled");
                    Err(OperatorError::new(OperatorErrorKind::NotFound, text))
                }
            }
        }
        .boxed()
    }
}

struct Running {
    directory: tempfile::TempDir,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = OperatorSocket::bind(&directory.path().join("run/operator.sock")).unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(socket.serve(Arc::new(Answers), stop.clone()));
        Self { directory, stop, serving }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/operator.sock")
    }

    async fn ask(&self, request: OperatorRequest) -> Result<Vec<Value>, AskError> {
        timeout(DEADLINE, ask(&self.path(), &request)).await.expect("an answer within the deadline")
    }
}

async fn say(path: &Path, text: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // The daemon may answer and close before it has read everything: that is what is tested.
    let _ = stream.write_all(text).await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("closed within the deadline");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn requests_are_answered_with_none_one_or_many_items() {
    let running = Running::start();
    let leg = LegId { meeting: MeetingId::default(), leg: 0 };
    assert_eq!(running.ask(OperatorRequest::Status).await.unwrap(), [json!({"phase": "steady"})]);
    assert_eq!(running.ask(OperatorRequest::Recover { server: Some(ServerId(3)) }).await.unwrap(), Vec::<Value>::new());
    assert_eq!(running.ask(OperatorRequest::Troubled).await.unwrap(), Vec::<Value>::new());
    assert_eq!(running.ask(OperatorRequest::DumpCache).await.unwrap().len(), 1_000);
    let refused = running.ask(OperatorRequest::LiftQuarantine { leg }).await.unwrap_err();
    assert!(refused.to_string().contains("is not quarantined: see remeet troubled"), "{refused}");
}

#[tokio::test]
async fn the_requests_written_in_the_documentation_are_understood() {
    let running = Running::start();
    for request in [
        r#"{"command":"status"}"#,
        r#"{"command":"recover"}"#,
        r#"{"command":"recover","server":1}"#,
        r#"{"command":"troubled"}"#,
        r#"{"command":"mark","meeting":"00000000-0000-0000-0000-000000000000","first":true}"#,
    ] {
        let mut stream = UnixStream::connect(running.path()).await.unwrap();
        stream.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.lines().last().unwrap().starts_with(r#"{"done":"#), "{request}: {answer}");
    }
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_the_daemon() {
    let running = Running::start();
    assert_eq!(std::fs::metadata(running.path()).unwrap().permissions().mode() & 0o777, 0o600);
    running.stop.cancel();
    timeout(DEADLINE, running.serving).await.unwrap().unwrap();
    let left: Vec<_> = std::fs::read_dir(running.directory.path().join("run")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced_and_a_live_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("operator.sock");
    // A listener that is dropped without removing its file is what a killed process leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = OperatorSocket::bind(&path).expect("replaces the file of a dead process");
    let error = OperatorSocket::bind(&path).unwrap_err();
    let pid = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(&error, BindError::Live { pid: Some(live), .. } if *live == pid), "{error}");
    assert!(error.to_string().contains(&format!("process {pid}")), "{error}");
    assert_eq!(socket.path(), path);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("operator.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(OperatorSocket::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn an_oversize_or_unreadable_request_is_refused_and_harms_nobody() {
    let running = Running::start();
    let long = say(&running.path(), &vec![b'x'; REQUEST_BYTES_MAX + 10_000]).await;
    assert!(long.contains(r#""kind":"too-long""#), "{long}");
    for bad in ["nonsense", "{}", r#"{"command":"reboot"}"#, r#"{"command":"mark"}"#, "\u{0}"] {
        let mut stream = UnixStream::connect(running.path()).await.unwrap();
        stream.write_all(format!("{bad}\n{{\"command\":\"status\"}}\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.contains(r#""kind":"malformed""#), "{bad}: {answer}");
        assert!(answer.contains(r#"{"done":1}"#), "the next request of the connection is answered: {answer}");
    }
    running.ask(OperatorRequest::Status).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_says_nothing_or_takes_nothing_is_let_go() {
    let running = Running::start();
    let mut greedy = UnixStream::connect(running.path()).await.unwrap();
    // A megabyte of answer does not fit the socket's buffers, and nobody takes it.
    greedy.write_all(b"{\"command\":\"dump-cache\"}\n").await.unwrap();
    timeout(DEADLINE, greedy.readable()).await.unwrap().unwrap();
    // Others are served meanwhile.
    running.ask(OperatorRequest::Status).await.unwrap();
    let mut silent = UnixStream::connect(running.path()).await.unwrap();
    let mut rest = Vec::new();
    timeout(DEADLINE, silent.read_to_end(&mut rest)).await.expect("closed").unwrap();
    assert!(rest.is_empty());
    // The greedy one's deadline began before: what is left of its answer ends without the last line.
    let _ = timeout(DEADLINE, greedy.read_to_end(&mut rest)).await.expect("closed");
    let text = String::from_utf8(rest).unwrap();
    assert!(!text.contains("\"done\""), "cut off after {} bytes", text.len());
}

#[tokio::test]
async fn rule_17_connections_beyond_the_cap_are_told_so() {
    let running = Running::start();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = UnixStream::connect(running.path()).await.unwrap();
        // Answered: so the connection has its place.
        stream.write_all(b"{\"command\":\"recover\"}\n").await.unwrap();
        let mut buffer = [0; 64];
        timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap().unwrap();
        held.push(stream);
    }
    let error = running.ask(OperatorRequest::Status).await.unwrap_err();
    assert!(matches!(&error, AskError::Refused(OperatorError { kind: OperatorErrorKind::Busy, .. })), "{error}");
    drop(held);
    let free = async {
        while running.ask(OperatorRequest::Status).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, free).await.expect("places come free");
}

#[tokio::test]
async fn nobody_at_the_socket_is_said_plainly() {
    let error = ask(Path::new("/nonexistent/operator.sock"), &OperatorRequest::Status).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/nonexistent/operator.sock") && text.contains("is it running"), "{text}");
}
