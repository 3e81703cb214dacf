//! A temporary directory of the play's own: only its user may look in, and it goes with the play.

use super::StageError;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Sockets live in it, and a socket's path has 107 bytes: beyond this `/tmp` is taken instead.
const PATH_BYTES_MAX: usize = 60;

#[derive(Debug)]
pub(crate) struct Directory(TempDir);

impl Directory {
    /// `word` stands in its name.
    pub(crate) fn make(word: &str) -> Result<Self, StageError> {
        let base = std::env::temp_dir();
        let base = if base.as_os_str().len() > PATH_BYTES_MAX { PathBuf::from("/tmp") } else { base };
        let made = tempfile::Builder::new().prefix(&format!("remeet-{word}-")).tempdir_in(&base);
        let made = made.map_err(|error| {
            StageError::new(format!("cannot make a temporary directory in {}: {error}; set TMPDIR", base.display()))
        })?;
        Ok(Self(made))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}
