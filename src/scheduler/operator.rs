//! What the operator's local socket may ask of the scheduler.

use super::handle::{Gone, Handle, ReconcileError, Troubled};
use super::present::Present;
use crate::model::{CommandId, StoredState};
use crate::ops::operator::{Operator, OperatorAnswer, OperatorError, OperatorErrorKind, OperatorRequest};
use crate::recovery::Rights;
use futures_util::future::BoxFuture;
use futures_util::stream;
use remeet_protocol::message::{ClientAnswer, ClientCommand, ClientOp};
use remeet_protocol::{ErrorCode, LegId, MeetingId, ServerId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The most legs of a dump: far beyond what the embedded cache holds.
const DUMP_MAX: usize = 1_000_000;

/// Answers operators over every life of the scheduler: with the handle of the present one.
#[derive(Clone, Default)]
pub(super) struct Desk(Present<Handle>);

impl Desk {
    /// A new life has begun.
    pub(super) fn set(&self, handle: Handle) {
        self.0.set(handle);
    }
}

impl Operator for Desk {
    fn handle(&self, request: OperatorRequest) -> BoxFuture<'_, Result<OperatorAnswer, OperatorError>> {
        let handle = self.0.get();
        Box::pin(async move { handle.ok_or(Gone)?.handle(request).await })
    }
}

impl Operator for Handle {
    fn handle(&self, request: OperatorRequest) -> BoxFuture<'_, Result<OperatorAnswer, OperatorError>> {
        Box::pin(async move {
            match request {
                OperatorRequest::Status => {
                    let status = self.status().await?;
                    Ok(OperatorAnswer::One(json_of(&*status)?))
                }
                OperatorRequest::Recover { server } => {
                    let reconciled = self.reconcile(server).await??;
                    Ok(OperatorAnswer::One(json_of(&reconciled)?))
                }
                OperatorRequest::DumpCache => self.dump_cache().await,
                OperatorRequest::ForgetKeys { legs } => self.forget_keys(&legs).await,
                OperatorRequest::Troubled => {
                    let (mut troubled, unread) = self.troubled().await?;
                    for server in unread {
                        troubled.extend(self.unreachable(server).await?);
                    }
                    let items: Result<Vec<Value>, OperatorError> = troubled.iter().map(json_of).collect();
                    Ok(OperatorAnswer::Many(Box::pin(stream::iter(items?))))
                }
                OperatorRequest::LiftQuarantine { leg } => {
                    let answer = self.lift_quarantine(leg).await?;
                    done(&format!("leg {leg}"), &answer)
                }
                OperatorRequest::DryRun { server } => self.plans(server).await,
                OperatorRequest::StepDown => match self.step_down().await? {
                    Ok(()) => Ok(OperatorAnswer::Done),
                    Err(text) => Err(OperatorError::new(OperatorErrorKind::WrongState, text)),
                },
                OperatorRequest::Mark { meeting, first } => self.mark(meeting, first).await,
            }
        })
    }
}

impl Handle {
    /// Legs of a server that has not answered in this term, as they are stored.
    async fn unreachable(&self, server: ServerId) -> Result<Vec<Troubled>, OperatorError> {
        let stored = self.store().look_up(server, &[]).await;
        let stored = stored.map_err(|error| OperatorError::new(OperatorErrorKind::Unavailable, error.to_string()))?;
        let live = |state| !matches!(state, StoredState::Ended | StoredState::Created);
        let found = stored.found.into_iter().filter(|found| live(found.row.state)).map(|found| Troubled {
            leg: found.row.leg,
            server,
            reason: "unreachable".to_owned(),
            handle: None,
        });
        Ok(found.collect())
    }

    async fn dump_cache(&self) -> Result<OperatorAnswer, OperatorError> {
        let dump = self.cache().dump(DUMP_MAX).await.map_err(unavailable)?;
        let mut items = Vec::with_capacity(dump.legs.len() + dump.keys.len());
        for leg in &dump.legs {
            items.push(json!({ "leg": { "head": leg.head, "mark": leg.mark, "changes": leg.changes } }));
        }
        for key in &dump.keys {
            // Secrets are compared by their hash, never shown.
            let hash = Sha256::digest(key.secret.expose());
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            items.push(json!({ "key": {
                "leg": key.leg, "generation": key.generation, "epoch": key.epoch, "secret_sha256": hash,
            } }));
        }
        Ok(OperatorAnswer::Many(Box::pin(stream::iter(items))))
    }

    async fn plans(&self, server: Option<ServerId>) -> Result<OperatorAnswer, OperatorError> {
        let plans = self.dry_run(server).await??;
        // A plan is a line; one that cannot be written is said in its place.
        let items = stream::unfold(plans, |mut plans| async {
            let plan = plans.recv().await?;
            let server = plan.server;
            let item = serde_json::to_value(plan);
            Some((item.unwrap_or_else(|error| json!({ "server": server, "trouble": error.to_string() })), plans))
        });
        Ok(OperatorAnswer::Many(Box::pin(items)))
    }

    async fn forget_keys(&self, legs: &[LegId]) -> Result<OperatorAnswer, OperatorError> {
        let found = self.store().legs(legs).await.map_err(unavailable)?;
        let named: Vec<_> = found.found.iter().map(|found| (found.row.domain, found.row.leg)).collect();
        self.cache().forget_keys(&named).await.map_err(unavailable)?;
        Ok(OperatorAnswer::One(json!({ "forgotten": named.len() })))
    }

    async fn mark(&self, meeting: MeetingId, first: bool) -> Result<OperatorAnswer, OperatorError> {
        // Each request at the socket is a command of its own.
        let id = CommandId { instance: uuid::Uuid::new_v4().as_u64_pair().0, number: 1 };
        let command = ClientCommand { instance: id.instance, number: id.number, meeting, op: ClientOp::Mark(first) };
        let answer = self.command(Rights { control: true, operator: true }, command).await?;
        done(&format!("meeting {meeting}"), &answer)
    }
}

/// What a command's answer says to an operator.
fn done(about: &str, answer: &ClientAnswer) -> Result<OperatorAnswer, OperatorError> {
    let kind = match answer.code {
        code if code.is_ok() => return Ok(OperatorAnswer::Done),
        ErrorCode::UNKNOWN_MEETING => OperatorErrorKind::NotFound,
        ErrorCode::UNAVAILABLE | ErrorCode::UNREACHABLE | ErrorCode::RETRY => OperatorErrorKind::Unavailable,
        _ => OperatorErrorKind::WrongState,
    };
    let detail = if answer.detail.is_empty() { answer.code.sentence() } else { answer.detail.as_str() };
    Err(OperatorError::new(kind, format!("{about}: {detail}")))
}

impl From<ReconcileError> for OperatorError {
    fn from(error: ReconcileError) -> Self {
        let kind = match error {
            ReconcileError::NoTerm => OperatorErrorKind::Unavailable,
            ReconcileError::UnknownServer { .. } => OperatorErrorKind::NotFound,
        };
        OperatorError::new(kind, error.to_string())
    }
}

impl From<Gone> for OperatorError {
    fn from(gone: Gone) -> Self {
        OperatorError::new(OperatorErrorKind::WrongState, gone.to_string())
    }
}

fn unavailable(error: impl std::fmt::Display) -> OperatorError {
    OperatorError::new(OperatorErrorKind::Unavailable, error.to_string())
}

fn json_of(value: &impl serde::Serialize) -> Result<Value, OperatorError> {
    serde_json::to_value(value).map_err(unavailable)
}
