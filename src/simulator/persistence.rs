//! The state file: a snapshot, then the journal of every step since (see [`super::core::journal`]).
//!
//! What survives: every step is appended before its answers are sent, so everything that anybody was told
//! survives the end of the process, `kill -9` included. An attach is synced to the disk before it is
//! answered, so the fence survives the machine too; other steps may be lost with the machine. The
//! snapshot replaces the file atomically: written beside it, synced, renamed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Journal bytes after which a new snapshot is due, if they are also more than four snapshots.
const JOURNAL_BYTES: u64 = 64 << 20;

/// A state file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process uses it.
    #[error("{0} is in use by another simulated server: stop that one or name another file")]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// An open state file, locked against other processes.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: Option<File>,
    snapshot_bytes: u64,
    journal_bytes: u64,
    // Held, not read: the lock ends with it. The state file itself is replaced by snapshots.
    _lock: File,
}

impl StateFile {
    /// Locks the file and reads what is in it; `None` if it is not there yet.
    ///
    /// # Errors
    /// Another process has it, or it cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Option<Vec<u8>>), StateError> {
        let lock_path = beside(path, "lock");
        let lock = private().create(true).truncate(false).open(&lock_path).map_err(io_error("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &lock_path)(source)),
        }
        let state = Self { path: path.to_owned(), file: None, snapshot_bytes: 0, journal_bytes: 0, _lock: lock };
        let found = state.read()?;
        Ok((state, found))
    }

    /// What is in the file now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>, StateError> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &self.path)(error)),
        }
    }

    /// Replaces the file by a snapshot; the journal goes on behind it.
    ///
    /// # Errors
    /// It cannot be written; the old file is still whole.
    pub fn replace(&mut self, snapshot: &[u8]) -> Result<(), StateError> {
        let new = beside(&self.path, "new");
        let mut file = private().create(true).truncate(true).open(&new).map_err(io_error("create", &new))?;
        file.write_all(snapshot).and_then(|()| file.sync_all()).map_err(io_error("write", &new))?;
        std::fs::rename(&new, &self.path).map_err(io_error("rename a new snapshot to", &self.path))?;
        self.file = Some(file);
        self.snapshot_bytes = snapshot.len() as u64;
        self.journal_bytes = 0;
        Ok(())
    }

    /// Appends journal entries; with `sync`, returns once they are on the disk.
    ///
    /// # Errors
    /// They cannot be written: nothing of that step may be answered.
    pub fn append(&mut self, entries: &[u8], sync: bool) -> Result<(), StateError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(entries).map_err(io_error("append to", &self.path))?;
        if sync {
            file.sync_data().map_err(io_error("sync", &self.path))?;
        }
        self.journal_bytes += entries.len() as u64;
        Ok(())
    }

    /// Whether the journal has grown so long that a new snapshot should replace it.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        self.journal_bytes > JOURNAL_BYTES.max(4 * self.snapshot_bytes)
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    // The file holds the secrets of recovery keys.
    options.read(true).write(true).mode(0o600);
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StateError + 'a {
    move |source| StateError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_state_file_serves_one_server_and_keeps_snapshot_and_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (mut state, found) = StateFile::open(&path).unwrap();
        assert_eq!(found, None);
        state.replace(b"snapshot").unwrap();
        state.append(b" and journal", true).unwrap();
        assert!(matches!(StateFile::open(&path), Err(StateError::InUse(_))));
        assert_eq!(state.read().unwrap().unwrap(), b"snapshot and journal");
        drop(state);
        let (_, found) = StateFile::open(&path).unwrap();
        assert_eq!(found.unwrap(), b"snapshot and journal");
    }
}
