//! The log: text or JSON on standard error, or the journal.

use crate::config::{Log, LogFormat};
use std::io;
use std::os::unix::fs::MetadataExt;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter's directives cannot be read.
    #[error("log.filter {filter:?} is not a filter: {reason}; give a level or target=level pairs")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong.
        reason: String,
    },
    /// The journal was asked for and cannot be reached.
    #[error("log.format is \"journald\", but the journal cannot be reached: {0}; use \"text\" or \"json\"")]
    Journal(io::Error),
    /// Somebody has set up a log in this process already.
    #[error("the log has been set up already")]
    Twice,
}

/// Sets up the log of this process.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| TelemetryError::Filter { filter: log.filter.clone(), reason: error.to_string() })?;
    let all = tracing_subscriber::registry().with(filter);
    let text = || tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    let done = match log.format {
        LogFormat::Json => all.with(tracing_subscriber::fmt::layer().json().with_writer(io::stderr)).try_init(),
        LogFormat::Text => all.with(text()).try_init(),
        LogFormat::Journald => all.with(tracing_journald::layer().map_err(TelemetryError::Journal)?).try_init(),
        LogFormat::Auto if stderr_is_the_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) => {
            match tracing_journald::layer() {
                Ok(journal) => all.with(journal).try_init(),
                // The journal reads standard error too: only the fields are lost.
                Err(_) => all.with(text()).try_init(),
            }
        }
        LogFormat::Auto => all.with(text()).try_init(),
    };
    done.map_err(|_| TelemetryError::Twice)
}

/// Whether standard error leads to the journal: `JOURNAL_STREAM` holds the device and inode of the
/// stream that the service manager connected (systemd.exec(5)). The variable is inherited by children
/// whose standard error was sent elsewhere, so both are compared.
fn stderr_is_the_journal(journal_stream: Option<&str>) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|text| text.split_once(':')) else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    device.parse() == Ok(stderr.dev()) && inode.parse() == Ok(stderr.ino())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn standard_error_counts_as_the_journal_only_if_device_and_inode_agree() {
        let stderr = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(stderr_is_the_journal(Some(&format!("{}:{}", stderr.dev(), stderr.ino()))));
        assert!(!stderr_is_the_journal(Some(&format!("{}:{}", stderr.dev(), stderr.ino() + 1))));
        assert!(!stderr_is_the_journal(Some("nonsense")));
        assert!(!stderr_is_the_journal(None));
    }
}
