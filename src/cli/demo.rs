//! `remeet demo`: the mission end to end.

use crate::demo;
use std::process::ExitCode;

pub(super) async fn run(options: demo::Options) -> ExitCode {
    Box::pin(demo::run(options)).await
}
