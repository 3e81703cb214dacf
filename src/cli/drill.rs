//! `remeet drill`: kill or stop a scheduler again and again.

use crate::drill;
use std::process::ExitCode;

pub(super) async fn run(options: drill::Options) -> ExitCode {
    Box::pin(drill::run(options)).await
}
