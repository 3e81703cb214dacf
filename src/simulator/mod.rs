//! The simulated autonomous server. Only its entry point stands here until its branch is merged.

use tokio_util::sync::CancellationToken;

/// Arguments of `remeet simulate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {}

/// Runs it until `stop`.
///
/// # Errors
/// It is not part of this build.
pub async fn run(_options: Options, _stop: CancellationToken) -> Result<(), String> {
    Err("the simulator is not part of this build".to_owned())
}
