//! The daemon's side of the operator's socket.

use super::{
    AnswerLine, CONNECTIONS_MAX, HANDLE_DEADLINE, ITEMS_MAX, Operator, OperatorAnswer, OperatorError,
    OperatorErrorKind, OperatorRequest, PEER_DEADLINE, REQUEST_BYTES_MAX,
};
use futures_util::StreamExt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The bound socket. Its file is removed when this is dropped, unless another socket has taken its place.
#[derive(Debug)]
pub struct OperatorSocket {
    listener: UnixListener,
    file: SocketFile,
    /// The user that the socket belongs to: this process's.
    owner: u32,
}

/// Why the socket was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A live process answers there.
    #[error("{} answers for {}: stop that process, or give another operator.socket", path.display(), answering(*pid))]
    Live {
        /// The socket.
        path: PathBuf,
        /// The process that answers, if the system knows.
        pid: Option<i32>,
    },
    /// Something else has that name.
    #[error("{} exists and is not a socket: remove it, or give another operator.socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot make the operator's socket {}: {source}; give a writable place as operator.socket", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn answering(pid: Option<i32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl OperatorSocket {
    /// Binds the socket at `path`, mode 0600, in a directory that is made (mode 0750) if it is missing.
    /// The socket file of a dead process is replaced.
    ///
    /// # Errors
    /// A live process has it, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let refused = |source| BindError::Refused { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(refused)?;
        }
        refuse_if_taken(path)?;
        // Bound under another name and renamed once its mode is set, so that at no moment a socket with
        // wider rights stands at the path; the rename also replaces the file of a dead process.
        let mut staging = path.as_os_str().to_owned();
        staging.push(format!(".{}", std::process::id()));
        let staging = PathBuf::from(staging);
        let _ = fs::remove_file(&staging);
        let listener = UnixListener::bind(&staging).map_err(refused)?;
        let placed = fs::set_permissions(&staging, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&staging, path))
            .and_then(|()| fs::symlink_metadata(path));
        match placed {
            Ok(meta) => {
                let file = SocketFile { path: path.to_owned(), inode: meta.ino() };
                Ok(Self { listener, file, owner: meta.uid() })
            }
            Err(source) => {
                let _ = fs::remove_file(&staging);
                Err(BindError::Refused { path: path.to_owned(), source })
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves operators until `stop`; then open answers are dropped and the socket's file is removed.
    pub async fn serve(self, operator: Arc<dyn Operator>, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, for one: the pause keeps this from spinning.
                    tracing::warn!(%error, "an operator's connection was not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !self.is_served(&stream) {
                continue;
            }
            let (reader, writer) = stream.into_split();
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                let text = format!("{CONNECTIONS_MAX} operators are connected: close one, or try again");
                let busy = OperatorError::new(OperatorErrorKind::Busy, text);
                // One short line fits every socket's buffer: this does not wait.
                let _ = Answer { writer }.try_error(&busy);
                continue;
            };
            let (operator, stop) = (Arc::clone(&operator), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = converse(reader, Answer { writer }, operator.as_ref()) => {}
                }
                drop(place);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Only the daemon's own user and root: the file's mode says so, and the system's word for who
    /// dialled says it once more.
    fn is_served(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == self.owner => true,
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "a user without the operator's right was turned away");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "an operator's connection without a known user was turned away");
                false
            }
        }
    }
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn refuse_if_taken(path: &Path) -> Result<(), BindError> {
    let refused = |source| BindError::Refused { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    // The connection is nothing but a question; connecting to a local socket does not wait for `accept`
    // unless its queue is full, and then a live process has it too.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(stream) => {
            let pid = stream
                .set_nonblocking(true)
                .and_then(|()| UnixStream::from_std(stream))
                .and_then(|stream| stream.peer_cred())
                .ok()
                .and_then(|peer| peer.pid());
            Err(BindError::Live { path: path.to_owned(), pid })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

/// Requests of one connection, one after the other, until it is closed, silent or wrong.
async fn converse(reader: OwnedReadHalf, mut answer: Answer, operator: &dyn Operator) {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(REQUEST_BYTES_MAX));
    while let Ok(Some(line)) = timeout(PEER_DEADLINE, lines.next()).await {
        let line = match line {
            Ok(line) => line,
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                let text = format!("a request has at most {REQUEST_BYTES_MAX} bytes and ends with a new line");
                let _ = answer.error(&OperatorError::new(OperatorErrorKind::TooLong, text)).await;
                return;
            }
            Err(LinesCodecError::Io(error)) => {
                tracing::debug!(%error, "an operator's connection broke");
                return;
            }
        };
        let done = match serde_json::from_str::<OperatorRequest>(&line) {
            Ok(request) => {
                tracing::debug!(?request, "an operator asks");
                answer.all_of(operator, request).await
            }
            Err(error) => {
                let text = format!("the request cannot be read: {error}; send for example {{\"command\":\"status\"}}");
                answer.error(&OperatorError::new(OperatorErrorKind::Malformed, text)).await
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, "an operator did not take its answer");
            return;
        }
    }
}

struct Answer {
    writer: OwnedWriteHalf,
}

impl Answer {
    async fn all_of(&mut self, operator: &dyn Operator, request: OperatorRequest) -> io::Result<()> {
        let late = || OperatorError::new(OperatorErrorKind::Deadline, "no answer in time: see the log, try again");
        let mut items = match timeout(HANDLE_DEADLINE, operator.handle(request)).await {
            Err(_) => return self.error(&late()).await,
            Ok(Err(error)) => return self.error(&error).await,
            Ok(Ok(OperatorAnswer::Done)) => return self.line(&AnswerLine::Done(0)).await,
            Ok(Ok(OperatorAnswer::One(item))) => {
                self.line(&AnswerLine::Item(item)).await?;
                return self.line(&AnswerLine::Done(1)).await;
            }
            Ok(Ok(OperatorAnswer::Many(items))) => items,
        };
        let mut count = 0;
        loop {
            match timeout(HANDLE_DEADLINE, items.next()).await {
                Err(_) => return self.error(&late()).await,
                Ok(None) => return self.line(&AnswerLine::Done(count)).await,
                Ok(Some(_)) if count == ITEMS_MAX => {
                    let text = format!("there are more than {ITEMS_MAX} items");
                    return self.error(&OperatorError::new(OperatorErrorKind::TooLong, text)).await;
                }
                Ok(Some(item)) => {
                    self.line(&AnswerLine::Item(item)).await?;
                    count += 1;
                }
            }
        }
    }

    async fn error(&mut self, error: &OperatorError) -> io::Result<()> {
        self.line(&AnswerLine::Error(error.clone())).await
    }

    async fn line(&mut self, line: &AnswerLine) -> io::Result<()> {
        let bytes = bytes_of(line)?;
        timeout(PEER_DEADLINE, self.writer.write_all(&bytes))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    fn try_error(&self, error: &OperatorError) -> io::Result<()> {
        self.writer.try_write(&bytes_of(&AnswerLine::Error(error.clone()))?).map(|_| ())
    }
}

fn bytes_of(line: &AnswerLine) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}
