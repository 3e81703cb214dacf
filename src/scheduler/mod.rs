//! The driver.

use tokio_util::sync::CancellationToken;

/// Why the scheduler ended other than by being told to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(pub String);

/// Runs the scheduler until `stop`.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    config: crate::config::Config,
    seam: crate::ops::Seam,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let _ = (config, seam, stop);
    Err(RunError("the scheduler's driver is not part of this build".to_owned()))
}
