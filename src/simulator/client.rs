//! The control socket's client, for tests and the demo.

use super::control::{Answer, Request, RestartMode};
use super::core::script::{LegChanged, Script};
use super::{Dump, Misbehaviour, Stats};
use remeet_protocol::{Handle, LegId, MeetingId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest wait for an answer: a dump of 10,000 meetings on a busy machine, or a restart with a pause.
const ANSWER: Duration = Duration::from_secs(120);

/// A control request failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket failed.
    #[error("control socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("no answer on control socket {path} within {} s", ANSWER.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The server refused.
    #[error("the simulated server refused: {0}")]
    Refused(String),
    /// The answer is not what was expected.
    #[error("control socket {path} answered something else: {source}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A connection to a simulated server's control socket. After an error it must not be used again: the
/// late answer of one request would be taken for the next one's.
#[derive(Debug)]
pub struct ControlClient {
    path: PathBuf,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

/// A foreign leg that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Foreign {
    /// Its name.
    pub leg: LegId,
    /// The server's name of it.
    pub handle: Handle,
}

impl ControlClient {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ControlError> {
        let path = path.as_ref().to_owned();
        let stream =
            UnixStream::connect(&path).await.map_err(|source| ControlError::Io { path: path.clone(), source })?;
        let (read, write) = stream.into_split();
        Ok(Self { path, read: BufReader::new(read), write })
    }

    /// Sends a request and waits for its answer's result.
    ///
    /// # Errors
    /// The socket failed, the server refused, or nothing came in time.
    pub async fn call(&mut self, request: &Request) -> Result<Value, ControlError> {
        self.ask(request).await
    }

    /// Like [`ControlClient::call`], with the result as a type.
    ///
    /// # Errors
    /// As there, and if the result is something else.
    pub async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ControlError> {
        let path = self.path.clone();
        let broken = |source| ControlError::Answer { path: path.clone(), source };
        let mut line = serde_json::to_vec(request).map_err(broken)?;
        line.push(b'\n');
        let answer = match tokio::time::timeout(ANSWER, self.exchange(&line)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => return Err(ControlError::Io { path, source }),
            Err(_) => return Err(ControlError::Silent { path }),
        };
        let answer: Answer = serde_json::from_slice(&answer).map_err(broken)?;
        if !answer.ok {
            return Err(ControlError::Refused(answer.error.unwrap_or_default()));
        }
        serde_json::from_value(answer.result).map_err(broken)
    }

    async fn exchange(&mut self, line: &[u8]) -> io::Result<Vec<u8>> {
        self.write.write_all(line).await?;
        let mut answer = Vec::new();
        self.read.read_until(b'\n', &mut answer).await?;
        if answer.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }

    /// The server's truth.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn dump(&mut self) -> Result<Dump, ControlError> {
        self.ask(&Request::Dump).await
    }

    /// The counters.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn stats(&mut self) -> Result<Stats, ControlError> {
        self.ask(&Request::Stats).await
    }

    /// Runs the seeded script.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn change(&mut self, script: Script) -> Result<Vec<LegChanged>, ControlError> {
        self.ask(&Request::Change(script)).await
    }

    /// Lets the server carry legs that no scheduler of ours started.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn create_foreign(&mut self, count: u32, terminals: u16) -> Result<Vec<Foreign>, ControlError> {
        self.ask(&Request::CreateForeign { meeting: None, terminals, count: Some(count) }).await
    }

    /// Lets the server end a meeting's leg 0 by itself.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn end_leg(&mut self, meeting: MeetingId) -> Result<(), ControlError> {
        self.call(&Request::EndLeg { meeting, leg: 0 }).await.map(drop)
    }

    /// Cuts the link, or restores it.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn cut_link(&mut self, on: bool) -> Result<(), ControlError> {
        self.call(&Request::CutLink { on }).await.map(drop)
    }

    /// Restarts the server.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn restart(&mut self, mode: RestartMode) -> Result<(), ControlError> {
        self.call(&Request::Restart { mode, down_ms: 0 }).await.map(drop)
    }

    /// Lets the server break the protocol, or stop it.
    ///
    /// # Errors
    /// As [`ControlClient::call`].
    pub async fn misbehave(&mut self, kind: Misbehaviour) -> Result<(), ControlError> {
        self.call(&Request::Misbehave { kind }).await.map(drop)
    }
}
