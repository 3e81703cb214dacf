//! The life of a scheduler: what it asks about its lease and what follows, the hand-over, and how it ends.

use super::{Driver, PRUNE, StoreSide, prune};
use crate::recovery::lease::{Evidence, LeaseAnswer, LeaseChange, LifeEnd};
use crate::recovery::{Alarm, AlarmKind, Input};
use remeet_protocol::{Epoch, ServerId, Token};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// At the end, what is on its way to the store gets this long.
const DRAIN: Duration = Duration::from_secs(5);
/// And this long when another scheduler waits for the term, which it is to have within a second: what is not stored by
/// then has not been answered, and the next holder is asked again.
const DRAIN_HANDING_OVER: Duration = Duration::from_millis(300);

/// Why a life of the scheduler has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::scheduler) enum Ended {
    /// The process stops.
    Stopped,
    /// An operator handed over.
    SteppedDown,
    /// It must not command any more.
    Over(LifeEnd),
    /// A helper task has panicked, doing this: the process ends, for its part would stand still.
    Broken(&'static str),
}

impl Driver {
    pub(super) fn tend_lease(&mut self) {
        let now = self.clock.now();
        let change = self.lease.wake(now);
        self.lease_changed(change);
        if let Some(ask) = self.lease.ask(now) {
            self.keeper.ask(ask);
        }
    }

    pub(super) fn lease_answered(&mut self, answer: LeaseAnswer) {
        let wall = self.clock.wall_ms();
        match &answer {
            LeaseAnswer::Failed(reason) => {
                let what = if self.lease.token().is_some() { "the lease is not renewed" } else { "no term yet" };
                tracing::warn!("{what}: {reason}; asked again soon");
                self.telling.store_failed(wall, StoreSide::Writes, reason.clone());
            }
            _ => self.telling.store_answered(wall, StoreSide::Writes),
        }
        let change = self.lease.answered(self.clock.now(), answer);
        self.lease_changed(change);
    }

    fn lease_changed(&mut self, change: Option<LeaseChange>) {
        match change {
            None => {}
            Some(LeaseChange::Began { token, lost }) => self.began(token, lost),
            Some(LeaseChange::Held(incumbent)) => {
                tracing::info!(
                    node = incumbent.node,
                    epoch = incumbent.epoch.0,
                    "standby: another node holds the term"
                );
            }
            Some(LeaseChange::Lapsed) => {
                let text = "the lease could not be renewed in time: no command is sent until it is; see the store's \
                            last error";
                self.alarm(&Alarm { kind: AlarmKind::LeaseLapsed, server: None, leg: None, text: text.to_owned() });
            }
            Some(LeaseChange::Resumed) => tracing::info!("the lease is renewed: commands are sent again"),
            Some(LeaseChange::Over(end)) => self.over = Some(Ended::Over(end)),
        }
    }

    fn began(&mut self, token: Token, lost: Option<Epoch>) {
        tracing::info!(epoch = token.epoch.0, holder = %token.holder, "a term began");
        self.keeper.deaf();
        self.telling.term_since_ms = Some(self.clock.wall_ms());
        if let Some(lost) = lost {
            let text = format!(
                "the database had lost every term up to {}, which a server knows: this one stands above it. What was \
                 written in the lost terms is missing; see to the failover that lost it",
                lost.0
            );
            self.alarm(&Alarm { kind: AlarmKind::DatabaseWentBack, server: None, leg: None, text });
        }
        self.feed(Input::TermBegan(token));
        self.shared.epoch.send_replace(token.epoch);
        self.pruning = Some(prune(&self.helpers, Arc::clone(&self.store), token, PRUNE));
    }

    /// A server has admitted a newer token: another scheduler's, or one that the database has forgotten.
    pub(super) fn newer_token(&mut self, server: ServerId, token: Token) {
        let come = match self.lease.evidence(self.clock.now(), server, token.epoch) {
            Evidence::Checking => "the database is asked whether this term still stands",
            Evidence::Refused(reason) => reason,
            Evidence::None => "it is below this scheduler's own, so the server is wrong",
        };
        let text = format!("the server has admitted another token ({token}): {come}");
        self.alarm(&Alarm { kind: AlarmKind::StaleToken, server: Some(server), leg: None, text });
    }

    pub(super) fn step_down(&mut self, answer: oneshot::Sender<Result<(), String>>) {
        if self.lease.token().is_none() {
            let text = "this scheduler is a standby: ask the one that holds the term".to_owned();
            // Whoever asked may have left.
            let _ = answer.send(Err(text));
            return;
        }
        tracing::info!("an operator hands over");
        self.handing_over.push(answer);
        self.over = Some(Ended::SteppedDown);
    }

    /// The end: what is on its way to the store is awaited, servers are told, and the lease is released last, so
    /// that nothing of this life comes after the next holder's first step. A broken life ends as if it were killed:
    /// what it was doing will not end, and its lease stays; this node is granted it again at once.
    pub(super) async fn end(&mut self, ended: Ended) {
        self.telling.stopping(self.clock.wall_ms());
        self.requests.close();
        let goodbye = match ended {
            Ended::Stopped => "the scheduler stops",
            Ended::SteppedDown => "the scheduler hands over",
            Ended::Over(_) => "another term has begun",
            Ended::Broken(_) => "the scheduler starts anew",
        };
        let patience = if matches!(ended, Ended::SteppedDown) { DRAIN_HANDING_OVER } else { DRAIN };
        if !matches!(ended, Ended::Over(_) | Ended::Broken(_)) {
            self.drain(patience).await;
        }
        self.farewell(goodbye).await;
        let released = match self.last_token(ended, patience).await {
            Some(token) => self.keeper.release(token).await,
            None => Ok(()),
        };
        for operator in self.handing_over.drain(..) {
            // Whoever asked may have left.
            let _ = operator.send(released.clone());
        }
    }

    /// The term to release. A question that is under way may begin one yet.
    async fn last_token(&mut self, ended: Ended, patience: Duration) -> Option<Token> {
        if matches!(ended, Ended::Broken(_)) {
            return None;
        }
        if self.lease.is_asking()
            && let Ok(Some(LeaseAnswer::Granted(token))) =
                tokio::time::timeout(patience, self.lease_answers.recv()).await
        {
            return Some(token);
        }
        self.lease.token().filter(|_| !matches!(ended, Ended::Over(_)))
    }

    async fn drain(&mut self, patience: Duration) {
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        while self.writers.waiting() > 0 && !matches!(self.over, Some(Ended::Over(_))) {
            tokio::select! {
                () = &mut deadline => {
                    tracing::warn!(waiting = self.writers.waiting(), "ended before everything was stored: the next start finishes it");
                    break;
                }
                Some(done) = self.written.recv() => {
                    self.take_written(done);
                    self.pump();
                }
            }
            self.heartbeat.beat();
        }
        self.pump();
    }

    async fn farewell(&mut self, text: &str) {
        let now = self.clock.now();
        self.peers.farewell(now, text);
        self.peers.hand_over(now, false);
        self.peers.close().await;
    }
}
