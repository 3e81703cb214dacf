//! `remeet simulate`: a simulated autonomous server until a signal.

use super::output::Failure;
use super::run::stop_on_signal;
use crate::simulator;

pub(super) async fn run(options: simulator::Options) -> Result<(), Failure> {
    let stop = stop_on_signal()?;
    Box::pin(simulator::run(options, stop)).await.map_err(Failure::failed)
}
