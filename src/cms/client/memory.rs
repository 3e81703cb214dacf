//! The client's memory of its commands: its instance, the last number, and what is unanswered.
//!
//! With a file, the number of a command is on disk before the command leaves; after a crash the same
//! command gets the same number, and the scheduler recognises the repeat. A crash leaves the old file
//! or the new one, never a mixture (written aside, synced, renamed).

use super::newest::Newest;
use remeet_protocol::MeetingId;
use remeet_protocol::message::ClientOp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A command without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCommand {
    /// Its number within the instance.
    pub number: u64,
    /// The meeting.
    pub meeting: MeetingId,
    /// What to do.
    pub op: ClientOp,
}

/// Why the file cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the client's state file {}: {reason}", path.display())]
pub struct MemoryError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    instance: u64,
    last: u64,
    open: Vec<OpenCommand>,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) instance: u64,
    last: u64,
    /// Given up without a final answer, in this life or an earlier one; at most [`LEFT_MAX`].
    left: Vec<OpenCommand>,
    /// Given, and not ended in any way.
    given: BTreeMap<u64, OpenCommand>,
    file: Option<Place>,
    saves: u64,
}

/// Commands left open that are remembered: a full window of them.
const LEFT_MAX: usize = super::COMMANDS_IN_FLIGHT;

#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// A write that was left behind must not replace a later one's content.
    written: Arc<Newest>,
    /// Held for as long as the file is used: two clients of one instance would mix up their numbers.
    _lock: File,
}

impl Memory {
    /// From the file, or of a new instance.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, MemoryError> {
        let Some(path) = path else { return Ok(Self::new(None)) };
        let wrong = |reason: String| MemoryError { path: path.to_owned(), reason };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(beside(path, ".lock"))
            .map_err(|error| wrong(format!("cannot be locked: {error}; give a writable place")))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                wrong("is used by another client: give each client a file of its own".to_owned())
            }
            TryLockError::Error(error) => wrong(format!("cannot be locked: {error}")),
        })?;
        let place = Place { path: path.to_owned(), written: Arc::default(), _lock: lock };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new(Some(place))),
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        };
        let Stored { instance, last, open } = serde_json::from_str(&text).map_err(|error| {
            wrong(format!("is not a client's state: {error}; move it away to begin as a new client instance"))
        })?;
        Ok(Self { instance, last, left: open, ..Self::new(Some(place)) })
    }

    fn new(file: Option<Place>) -> Self {
        Self { instance: rand::random(), last: 0, left: Vec::new(), given: BTreeMap::new(), file, saves: 0 }
    }

    /// Commands that an earlier life left unanswered.
    pub(super) fn left_open(&self) -> Vec<OpenCommand> {
        self.left.clone()
    }

    /// The number for a command: that of the same command left unanswered, or the next.
    ///
    /// Any other command closes the book of what was left: who goes on with something else did not
    /// repeat, and an equal command later is a new one.
    pub(super) fn number(&mut self, meeting: MeetingId, op: &ClientOp) -> u64 {
        let number = match self.left.iter().position(|left| left.meeting == meeting && left.op == *op) {
            Some(place) => self.left.remove(place).number,
            None => {
                self.left.clear();
                self.last = self.last.saturating_add(1);
                self.last
            }
        };
        self.given.insert(number, OpenCommand { number, meeting, op: op.clone() });
        number
    }

    /// A command ended: with a final answer, or else it may be repeated.
    pub(super) fn ended(&mut self, number: u64, with_answer: bool) {
        let Some(command) = self.given.remove(&number) else { return };
        if !with_answer {
            if self.left.len() == LEFT_MAX {
                self.left.remove(0);
            }
            self.left.push(command);
        }
    }

    /// Whether numbers must be saved before commands leave.
    pub(super) fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Whether no command is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.given.is_empty()
    }

    /// Writes the file. Nothing without one.
    pub(super) async fn save(&mut self) -> Result<(), MemoryError> {
        let Some(place) = &self.file else { return Ok(()) };
        self.saves += 1;
        let open = self.left.iter().chain(self.given.values()).cloned().collect();
        let stored = Stored { instance: self.instance, last: self.last, open };
        let wrong = |reason: String| MemoryError { path: place.path.clone(), reason };
        let bytes = serde_json::to_vec(&stored).map_err(|error| wrong(error.to_string()))?;
        let (path, written, number) = (place.path.clone(), Arc::clone(&place.written), self.saves);
        match tokio::task::spawn_blocking(move || written.write(number, || replace(&path, &bytes))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(wrong(format!("cannot be written: {error}; free some space or give another file"))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = beside(path, ".new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
