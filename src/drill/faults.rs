//! Does to servers what the plan says, each in a task of its own with a control connection of its own.

use super::fates::Fates;
use super::plan::{Fault, Timed};
use crate::simulator::client::ControlError;
use crate::simulator::{ControlClient, Kind, Request, RestartMode, Script};
use crate::stage::{Server, StageError};
use remeet_protocol::ServerId;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Orphans that a server carries at most: more show nothing more.
const ORPHANS_MAX: usize = 6;
/// The part of a server's meetings in which terminals join or tell something, each time.
const CHANGED: f64 = 0.3;

/// Everything that is under way.
pub(crate) struct Faults {
    fates: Arc<Fates>,
    servers: Vec<(ServerId, PathBuf)>,
    tasks: JoinSet<Result<(), StageError>>,
}

impl Faults {
    pub(crate) fn new(servers: &[Server], fates: Arc<Fates>) -> Self {
        let servers = servers.iter().map(|server| (server.id, server.control_at.clone())).collect();
        Self { fates, servers, tasks: JoinSet::new() }
    }

    /// Begins what a phase of the plan holds; counts from now.
    pub(crate) fn begin(&mut self, timed: &[Timed]) {
        for Timed { after, fault } in timed.iter().copied() {
            let (server, control) = self.servers[place(fault)].clone();
            let fates = self.fates.clone();
            self.tasks.spawn(async move {
                sleep(after).await;
                let mut control = ControlClient::connect(&control).await?;
                Ok(inflict(&mut control, server, fault, &fates).await?)
            });
        }
    }

    /// Terminals change by themselves, on every server: in some meetings they join and tell, in lively ones they
    /// leave and decode, too.
    pub(crate) fn change(&mut self, seed: u64) {
        let lively = self.fates.lively(None);
        for (server, control) in self.servers.clone() {
            let seed = seed.wrapping_add(u64::from(server.0));
            let all = Script { seed, fraction: CHANGED, meetings: None, kinds: vec![Kind::Join, Kind::Extra] };
            let lively = Script { seed, fraction: 0.0, meetings: Some(lively.clone()), kinds: Kind::ALL.to_vec() };
            self.tasks.spawn(async move {
                let mut control = ControlClient::connect(&control).await?;
                control.change(all).await?;
                control.change(lively).await?;
                Ok(())
            });
        }
    }

    /// Waits until everything is done and mended.
    pub(crate) async fn over(&mut self) -> Result<(), StageError> {
        while let Some(done) = self.tasks.join_next().await {
            done.map_err(StageError::new)??;
        }
        Ok(())
    }
}

fn place(fault: Fault) -> usize {
    match fault {
        Fault::CutLink { server, .. }
        | Fault::Restart { server, .. }
        | Fault::Hang { server, .. }
        | Fault::Late { server, .. }
        | Fault::LoseEvents { server }
        | Fault::ForgetRemovals { server }
        | Fault::EndMeeting { server, .. }
        | Fault::Orphan { server } => server,
    }
}

async fn inflict(
    control: &mut ControlClient,
    server: ServerId,
    fault: Fault,
    fates: &Fates,
) -> Result<(), ControlError> {
    match fault {
        Fault::CutLink { lasts, .. } => {
            control.cut_link(true).await?;
            sleep(lasts).await;
            control.cut_link(false).await
        }
        Fault::Restart { mode, down, .. } => {
            let loses = mode == RestartMode::NewBoot;
            if loses {
                fates.may_be_lost(server);
            }
            control.call(&Request::Restart { mode, down_ms: whole_ms(down) }).await?;
            if loses {
                // Those that began meanwhile.
                fates.may_be_lost(server);
            }
            Ok(())
        }
        Fault::Hang { lasts, .. } => {
            control.call(&Request::Hang { on: true }).await?;
            sleep(lasts).await;
            control.call(&Request::Hang { on: false }).await.map(drop)
        }
        Fault::Late { by, lasts, .. } => {
            control.call(&Request::SetLatency { ms: whole_ms(by) }).await?;
            sleep(lasts).await;
            control.call(&Request::SetLatency { ms: 0 }).await.map(drop)
        }
        Fault::LoseEvents { .. } => control.call(&Request::OverflowEvents).await.map(drop),
        Fault::ForgetRemovals { .. } => control.call(&Request::StopKeepingRemovals).await.map(drop),
        Fault::EndMeeting { pick, .. } => {
            let lively = fates.lively(Some(server));
            let Some(meeting) = lively.get(pick % lively.len().max(1)) else { return Ok(()) };
            fates.may_end(*meeting);
            match control.end_leg(*meeting).await {
                // It is not started yet, or over already.
                Err(ControlError::Refused(_)) => Ok(()),
                done => done,
            }
        }
        Fault::Orphan { .. } => {
            if fates.orphans().len() < ORPHANS_MAX {
                for made in control.create_foreign(1, 2).await? {
                    fates.orphan(made.leg, server);
                }
            }
            Ok(())
        }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
