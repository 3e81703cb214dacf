//! What an operator asks of the running scheduler, over its local socket.

use super::output::{self, Failure};
use super::{DEFAULT_CONFIG, meeting, plain_leg};
use crate::config;
use crate::ops::operator::{OperatorRequest, ask, ask_each};
use crate::ops::status::{self, Status};
use clap::Args;
use remeet_protocol::{LegId, MeetingId, ServerId};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where the scheduler's socket is.
#[derive(Debug, Args)]
pub(super) struct SocketOptions {
    /// The scheduler's configuration, which names the socket; if neither is given, that of
    /// /etc/remeet/remeet.toml, else /run/remeet/operator.sock.
    #[arg(long, value_name = "FILE", env = "REMEET_CONFIG", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// The operator's socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// `remeet status`.
#[derive(Debug, Args)]
pub(super) struct StatusOptions {
    #[command(flatten)]
    socket: SocketOptions,
    /// Print the whole report as JSON.
    #[arg(long)]
    json: bool,
}

/// `remeet troubled`.
#[derive(Debug, Args)]
pub(super) struct TroubledOptions {
    #[command(flatten)]
    socket: SocketOptions,
    /// Print JSON, an object a line; nothing if no meeting is in trouble.
    #[arg(long)]
    json: bool,
}

/// `remeet recover`.
#[derive(Debug, Args)]
pub(super) struct RecoverOptions {
    #[command(flatten)]
    socket: SocketOptions,
    /// This server only.
    #[arg(long, value_name = "ID")]
    server: Option<u32>,
    /// Print what would be done with each meeting, and do nothing. A standby answers this, too.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: print every meeting's place in the plan, a server a line of JSON.
    #[arg(long, requires = "dry_run")]
    json: bool,
}

/// `remeet lift-quarantine`.
#[derive(Debug, Args)]
pub(super) struct LiftOptions {
    #[command(flatten)]
    socket: SocketOptions,
    /// The leg: the meeting's id, a slash, the leg's number; 0 if there is no slash.
    #[arg(value_name = "LEG", value_parser = plain_leg)]
    leg: LegId,
}

/// `remeet mark`.
#[derive(Debug, Args)]
pub(super) struct MarkOptions {
    #[command(flatten)]
    socket: SocketOptions,
    /// The meeting's id.
    #[arg(value_parser = meeting)]
    meeting: MeetingId,
    /// Take the mark away.
    #[arg(long)]
    undo: bool,
}

pub(super) async fn status(options: StatusOptions) -> Result<(), Failure> {
    let mut answer = all(&options.socket, &OperatorRequest::Status).await?;
    let Some(report) = answer.pop() else {
        return Err(Failure::failed("the scheduler answered without a report: is it of another version?"));
    };
    if options.json {
        return output::line(&report.to_string()).map(|_| ());
    }
    let report: Status = serde_json::from_value(report).map_err(|error| {
        Failure::failed(format!("the report cannot be read: {error}; the scheduler is of another version, use --json"))
    })?;
    output::print(&status::print(&report)).map(|_| ())
}

pub(super) async fn recover(options: RecoverOptions) -> Result<(), Failure> {
    if options.dry_run {
        let request = OperatorRequest::DryRun { server: options.server.map(ServerId) };
        let plans = all(&options.socket, &request).await?;
        return super::plan::print(&plans, options.json);
    }
    let request = OperatorRequest::Recover { server: options.server.map(ServerId) };
    let begun = all(&options.socket, &request).await?.pop().unwrap_or_default();
    let servers = |field: &str| -> Vec<String> {
        begun[field].as_array().into_iter().flatten().map(ToString::to_string).collect()
    };
    let (compared, unreachable) = (servers("compared"), servers("unreachable"));
    let later = format!("not connected, compared as soon as it is: server {}", unreachable.join(", "));
    if compared.is_empty() && !unreachable.is_empty() {
        return Err(Failure::failed(later));
    }
    output::line(&format!("being compared: server {}; remeet status shows how it goes", compared.join(", ")))?;
    if !unreachable.is_empty() {
        output::line(&later)?;
    }
    Ok(())
}

pub(super) async fn lift(options: LiftOptions) -> Result<(), Failure> {
    let request = OperatorRequest::LiftQuarantine { leg: options.leg };
    done(&options.socket, &request, "the quarantine is lifted: the leg was pulled whole and its stored content adds up")
        .await
}

pub(super) async fn mark(options: MarkOptions) -> Result<(), Failure> {
    let request = OperatorRequest::Mark { meeting: options.meeting, first: !options.undo };
    let said = if options.undo { "the mark is taken away" } else { "the meeting will be recovered first" };
    done(&options.socket, &request, said).await
}

pub(super) async fn step_down(options: SocketOptions) -> Result<(), Failure> {
    let said = "handed over: a standby begins its term now; without one, this scheduler begins another after a lease";
    done(&options, &OperatorRequest::StepDown, said).await
}

pub(super) async fn troubled(options: TroubledOptions) -> Result<(), Failure> {
    if options.json {
        return each(&options.socket, &OperatorRequest::Troubled).await;
    }
    let troubled = all(&options.socket, &OperatorRequest::Troubled).await?;
    output::print(&super::troubled::print(&troubled)).map(|_| ())
}

pub(super) async fn dump_cache(options: SocketOptions) -> Result<(), Failure> {
    each(&options, &OperatorRequest::DumpCache).await
}

/// Asks, and says in one sentence that it was done; items that came are printed instead.
async fn done(socket: &SocketOptions, request: &OperatorRequest, said: &str) -> Result<(), Failure> {
    let items = all(socket, request).await?;
    if items.is_empty() {
        output::line(said)?;
    }
    for item in items {
        output::line(&item.to_string())?;
    }
    Ok(())
}

/// Asks, and prints each item as a line of JSON as it comes.
async fn each(socket: &SocketOptions, request: &OperatorRequest) -> Result<(), Failure> {
    let mut end = Ok(true);
    let print = |item: Value| {
        if matches!(end, Ok(true)) {
            end = output::line(&item.to_string());
        }
    };
    ask_each(&path(socket)?, request, print).await.map_err(Failure::failed)?;
    end.map(|_| ())
}

async fn all(socket: &SocketOptions, request: &OperatorRequest) -> Result<Vec<Value>, Failure> {
    ask(&path(socket)?, request).await.map_err(Failure::failed)
}

/// As given; else from the configuration; else the default's.
fn path(options: &SocketOptions) -> Result<PathBuf, Failure> {
    let environment = config::process_environment();
    let from = |file: &Path| config::operator_socket(file, &environment).map_err(Failure::usage);
    match (&options.socket, &options.config) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, Some(file)) => from(file),
        (None, None) if Path::new(DEFAULT_CONFIG).exists() => from(Path::new(DEFAULT_CONFIG)),
        (None, None) => Ok(config::Operator::default().socket),
    }
}
