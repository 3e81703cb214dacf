//! A temporary directory of the demo's own: only its user may look in, and it goes with the demo.

use super::DemoError;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Sockets live in it, and a socket's path has 107 bytes: beyond this `/tmp` is taken instead.
const PATH_BYTES_MAX: usize = 60;

#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn make() -> Result<Self, DemoError> {
        let base = std::env::temp_dir();
        let base = if base.as_os_str().len() > PATH_BYTES_MAX { PathBuf::from("/tmp") } else { base };
        let path = base.join(format!("remeet-demo-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| {
            DemoError::new(format!("cannot make the temporary directory {}: {error}; set TMPDIR", path.display()))
        })?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remeet demo: {} could not be removed: {error}; remove it by hand", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_directory_goes_with_its_owner_and_all_it_holds() {
        let directory = Directory::make().unwrap();
        let path = directory.path().to_owned();
        std::fs::write(directory.file("x"), "y").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
