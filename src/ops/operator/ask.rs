//! The operator's side of the socket.

use super::{ANSWER_LINE_BYTES_MAX, AnswerLine, HANDLE_DEADLINE, OperatorError, OperatorRequest, PEER_DEADLINE};
use futures_util::StreamExt;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

/// Why nothing, or not everything, was answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers at the socket.
    #[error("no scheduler answers at {}: {source}; {}", path.display(), hint(source))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The scheduler answered with an error.
    #[error("the scheduler answered: {0}")]
    Refused(OperatorError),
    /// The answer did not come, or did not come whole.
    #[error("the scheduler's answer was cut off: {0}; try again, and see its log")]
    Cut(String),
}

/// What the system's error means for an operator.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "is it running, and is this its operator.socket? Name its configuration with --config, or --socket"
        }
        io::ErrorKind::ConnectionRefused => "is it running? What is there was left behind, or is no socket",
        io::ErrorKind::PermissionDenied => "only the scheduler's own user and root may ask it: use sudo",
        io::ErrorKind::TimedOut => "is it running, or does it hang? See its log",
        _ => "is it running, and may this user open the socket?",
    }
}

/// Asks and gathers the whole answer.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(path: &Path, request: &OperatorRequest) -> Result<Vec<Value>, AskError> {
    let mut items = Vec::new();
    ask_each(path, request, |item| items.push(item)).await?;
    Ok(items)
}

/// Asks and hands over each item as it comes: for answers that need not be held.
///
/// # Errors
/// See [`AskError`]. Items may have been handed over before.
pub async fn ask_each(path: &Path, request: &OperatorRequest, mut each: impl FnMut(Value)) -> Result<(), AskError> {
    let unreachable = |source| AskError::Unreachable { path: path.to_owned(), source };
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let stream = timeout(PEER_DEADLINE, UnixStream::connect(path)).await.map_err(|_| unreachable(late()))?;
    let (reader, mut writer) = stream.map_err(unreachable)?.into_split();
    let mut line = serde_json::to_vec(request).map_err(|error| unreachable(error.into()))?;
    line.push(b'\n');
    // A scheduler that has no place for another connection answers so and closes: its word counts, not
    // the broken pipe.
    let sent = timeout(PEER_DEADLINE, writer.write_all(&line)).await;

    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(ANSWER_LINE_BYTES_MAX));
    let mut count = 0;
    loop {
        let line = match timeout(HANDLE_DEADLINE + PEER_DEADLINE, lines.next()).await {
            Err(_) => return Err(AskError::Cut("no further line came in time".to_owned())),
            Ok(None) => {
                return Err(match sent {
                    Ok(Ok(())) => AskError::Cut("the connection was closed".to_owned()),
                    Ok(Err(source)) => unreachable(source),
                    Err(_) => unreachable(late()),
                });
            }
            Ok(Some(Err(LinesCodecError::MaxLineLengthExceeded))) => {
                return Err(AskError::Cut(format!("a line has more than {ANSWER_LINE_BYTES_MAX} bytes")));
            }
            Ok(Some(Err(LinesCodecError::Io(error)))) => return Err(AskError::Cut(error.to_string())),
            Ok(Some(Ok(line))) => line,
        };
        match serde_json::from_str(&line) {
            Ok(AnswerLine::Item(item)) => {
                count += 1;
                each(item);
            }
            Ok(AnswerLine::Done(said)) if said == count => return Ok(()),
            Ok(AnswerLine::Done(said)) => {
                return Err(AskError::Cut(format!("{count} items came, {said} were announced")));
            }
            Ok(AnswerLine::Error(error)) => return Err(AskError::Refused(error)),
            Err(error) => return Err(AskError::Cut(format!("a line cannot be read: {error}"))),
        }
    }
}
