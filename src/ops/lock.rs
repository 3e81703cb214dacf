//! The node's file lock (design §5): one process a node. Whoever holds it may replace an unexpired lease
//! of the same node id, so two processes must never hold it; the operating system frees it when the
//! process ends, however it ends.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The lock's file in the state directory.
const FILE_NAME: &str = "node.lock";
/// The state directory's own name, made when it is used first.
const ID_FILE_NAME: &str = "node.id";

/// The node's lock; freed when dropped. The file stays: removing it could free a lock that somebody
/// else is just waiting for.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
    path: PathBuf,
    id: String,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "the node's lock {} is held by {}: stop that process, or give this one a state directory and a node id of its own",
        path.display(), holder(*pid)
    )]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Process id of the holder, as written in the file.
        pid: Option<u32>,
    },
    /// The directory or the file cannot be used.
    #[error("cannot use the node's lock {}: {source}; give a writable scheduler.state_directory", path.display())]
    Unusable {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl NodeLock {
    /// Takes the lock at once or not at all. Makes the directory (mode 0700) if it is missing.
    ///
    /// # Errors
    /// Held by another process, or the directory cannot be used.
    pub fn take(state_directory: &Path) -> Result<Self, LockError> {
        let path = state_directory.join(FILE_NAME);
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(state_directory).map_err(unusable)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { pid: written_pid(&mut file), path }),
            Err(TryLockError::Error(source)) => return Err(LockError::Unusable { path, source }),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| LockError::Unusable { path: path.clone(), source })?;
        let id = own_id(&state_directory.join(ID_FILE_NAME))?;
        Ok(Self { _file: file, path, id })
    }

    /// The state directory's own name: two nodes that were given one node id by mistake have two, so neither
    /// takes the other's lease for its own.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lock's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads the file, or makes it. The lock is held, so nobody else does.
fn own_id(path: &Path) -> Result<String, LockError> {
    let unusable = |source| LockError::Unusable { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(text) if (1..=64).contains(&text.trim().len()) => return Ok(text.trim().to_owned()),
        // Empty after a crash in its making, or damaged: another one costs a wait for the own lease, no more.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    std::fs::write(path, format!("{id}\n")).map_err(unusable)?;
    Ok(id)
}

fn written_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    // A process id has at most 10 digits; nothing else belongs here.
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
