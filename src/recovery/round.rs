//! A round: one pass of the recovery flow over one server (design §2, steps 1 to 4). No server waits for
//! another.
//!
//! ```text
//!  up / asked
//!     |
//!  AwaitInventory --complete--> AwaitLookUp (attach is asked beside it)
//!     ^                            |
//!     +--- the table moved --------+  (once: the second inventory is final)
//!                                  |
//!                        plan -> AwaitKeys -> TakingOver -> BackFilling -> report
//! ```

use super::core::{Asked, Core};
use super::leg::Control;
use super::look_up::LookingUp;
use super::plan::{Bucket, Planned, Seen, TWO_HANDLES, plan};
use super::report::{Fate, KeySource, RoundReport, Trigger};
use super::{AlarmKind, Output};
use crate::model::{Moment, StoredLeg, StoredState};
use crate::session::{Inventory, Request, RequestError, Ticket};
use remeet_protocol::message::{Attached, LegState};
use remeet_protocol::record::Mark;
use remeet_protocol::{LegId, Secret, ServerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names a round: an answer to one that is over is not taken for the next one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoundId {
    pub server: ServerId,
    serial: u64,
}

/// A round under way.
#[derive(Debug)]
pub(super) struct Round {
    pub id: RoundId,
    pub trigger: Trigger,
    pub begun: Moment,
    pub deadline: Moment,
    pub stage: Stage,
    /// The request that the stage awaits.
    pub ticket: Option<Ticket>,
    pub inventory: Option<Inventory>,
    /// This inventory was asked after the attach: it is final.
    pub final_inventory: bool,
    /// The look-up that belongs to the inventory.
    pub look_up: LookingUp,
    /// What the plan says, until control is settled.
    pub planned: BTreeMap<LegId, Planned>,
    /// Keys for the takeovers of this round, dropped with it.
    pub keys: BTreeMap<LegId, (Secret, KeySource)>,
    /// Legs whose claim is not answered.
    pub claims: BTreeSet<LegId>,
    /// Of these, those that are with the server, by the request that asked.
    pub handed: BTreeMap<LegId, Ticket>,
    /// Those that are not handed out yet, in order, and some that need not be any more.
    pub unclaimed: VecDeque<LegId>,
    /// These wait, since the server is busy.
    pub paused_until: Option<Moment>,
    /// Legs whose content or cached status is not brought up to date.
    pub backfill: BTreeSet<LegId>,
    /// The content that their servers reported of these, until it is compared.
    pub targets: BTreeMap<LegId, Mark>,
    /// Legs whose end or start is being finished.
    pub finishing: BTreeSet<LegId>,
    /// Legs whose end was found by the plan and is not stored yet; each is among those being finished, too.
    pub ends: BTreeSet<LegId>,
    /// Legs whose acceptance is on its way to the store.
    pub storing: BTreeSet<LegId>,
    /// Legs whose content needed no transfer: only their cached status is compared.
    pub unchanged: BTreeSet<LegId>,
    /// What has become of each leg that the inventory reported live.
    pub fates: BTreeMap<LegId, Fate>,
    /// Legs whose stored rows cannot be read: no orphans.
    pub unreadable: BTreeSet<LegId>,
    /// Gaps in the server's events that this round closes.
    pub gaps: Vec<u64>,
    /// Conditions that were found (again): the server's others are over when the round ends.
    pub raised: BTreeSet<(AlarmKind, Option<LegId>)>,
    pub report: RoundReport,
}

/// What a round awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    AwaitInventory,
    AwaitLookUp,
    AwaitKeys,
    TakingOver,
    BackFilling,
}

/// Of a leg that nothing is known of yet.
const UNCOUNTED: Fate = Fate::Pending("uncounted");

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::AwaitInventory => "querying",
            Stage::AwaitLookUp => "looking up",
            Stage::AwaitKeys => "reading keys",
            Stage::TakingOver => "taking over",
            Stage::BackFilling => "back-filling",
        }
    }
}

impl Round {
    /// Everything is compared and stored, and only what commands do is open.
    fn is_compared(&self) -> bool {
        let stored = self.backfill.is_empty() && self.storing.is_empty() && self.ends.is_empty();
        self.stage == Stage::BackFilling && self.claims.is_empty() && stored
    }

    /// Nothing of the leg is awaited any more. Says whether something was.
    pub(super) fn leave(&mut self, leg: LegId) -> bool {
        self.unchanged.remove(&leg);
        self.ends.remove(&leg);
        self.handed.remove(&leg);
        let claimed = self.claims.remove(&leg);
        claimed | self.backfill.remove(&leg) | self.finishing.remove(&leg) | self.storing.remove(&leg)
    }
}

impl Core {
    /// Begins a round, or remembers to begin one after the one that runs.
    pub(super) fn want_round(&mut self, server: ServerId, trigger: Trigger) {
        let (now, wall_ms, deadline) = (self.now, self.wall_ms, self.now + self.settings.round_deadline);
        let id = RoundId { server, serial: self.next_id() };
        let Some(known) = self.servers.get_mut(&server) else { return };
        if self.token.is_none() || !known.up {
            return;
        }
        if known.round.is_some() {
            known.again = Some(trigger);
            return;
        }
        known.retry_at = None;
        let gaps = std::mem::take(&mut known.gaps);
        known.round = Some(Round {
            id,
            gaps,
            raised: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            trigger: if known.first_pass_done { trigger } else { Trigger::Restart },
            begun: now,
            deadline,
            stage: Stage::AwaitInventory,
            ticket: None,
            inventory: None,
            // With the session attached already, the first inventory is cut after the attach.
            final_inventory: known.attached.is_some(),
            look_up: LookingUp::Waits,
            planned: BTreeMap::new(),
            keys: BTreeMap::new(),
            claims: BTreeSet::new(),
            handed: BTreeMap::new(),
            unclaimed: VecDeque::new(),
            paused_until: None,
            backfill: BTreeSet::new(),
            targets: BTreeMap::new(),
            finishing: BTreeSet::new(),
            ends: BTreeSet::new(),
            storing: BTreeSet::new(),
            unchanged: BTreeSet::new(),
            fates: BTreeMap::new(),
            report: RoundReport { began_at_ms: wall_ms, ..RoundReport::default() },
        });
        self.query(server);
    }

    /// Begins a round after the pause that setbacks call for: what failed would fail again at once.
    pub(super) fn want_round_later(&mut self, server: ServerId) {
        let now = self.now;
        let Some(known) = self.servers.get_mut(&server).filter(|known| known.up) else { return };
        if known.retry_at.is_none() {
            let soon = now + known.setback(&self.settings);
            known.retry_at = Some((soon.max(known.busy_until), Trigger::Reconcile));
        }
    }

    fn query(&mut self, server: ServerId) {
        let ticket = self.ask(server, Asked::Round(server), Request::Inventory, None);
        if let Some(round) = self.round(server) {
            round.stage = Stage::AwaitInventory;
            round.ticket = Some(ticket);
        }
    }

    pub(super) fn round(&mut self, server: ServerId) -> Option<&mut Round> {
        self.servers.get_mut(&server)?.round.as_mut()
    }

    pub(super) fn inventory(&mut self, server: ServerId, ticket: Ticket, result: Result<Inventory, RequestError>) {
        if self.dry_run_inventory(ticket, &result) {
            return;
        }
        self.tickets.remove(&ticket);
        let Some(round) = self.round(server).filter(|round| round.ticket == Some(ticket)) else { return };
        let inventory = match result {
            Ok(inventory) => inventory,
            Err(error) => return self.fail_round(server, &format!("inventory: {error}")),
        };
        round.stage = Stage::AwaitLookUp;
        round.ticket = None;
        round.look_up = LookingUp::Waits;
        round.inventory = Some(inventory);
        self.want_look_up(server);
        self.attach(server);
    }

    fn attach(&mut self, server: ServerId) {
        let Some(token) = self.token else { return };
        if self.servers.get(&server).is_some_and(|known| known.attached.is_none()) {
            let ticket = self.ask(server, Asked::Round(server), Request::Attach(token), None);
            if let Some(round) = self.round(server) {
                round.ticket = Some(ticket);
            }
        } else {
            self.try_plan(server);
        }
    }

    pub(super) fn attached(&mut self, server: ServerId, ticket: Ticket, result: Result<Attached, RequestError>) {
        self.tickets.remove(&ticket);
        match result {
            Ok(attached) => {
                if let Some(known) = self.servers.get_mut(&server) {
                    known.attached = Some((attached.boot, attached.table_revision));
                }
                if let Some(round) = self.round(server).filter(|round| round.ticket == Some(ticket)) {
                    round.ticket = None;
                }
                self.try_plan(server);
            }
            Err(RequestError::Refused(failure)) if failure.code == remeet_protocol::ErrorCode::STALE_TOKEN => {
                self.put(Output::NewerToken { server, token: failure.token });
                self.fail_round(server, "attach: stale token");
            }
            Err(error) => self.fail_round(server, &format!("attach: {error}")),
        }
    }

    pub(super) fn try_plan(&mut self, server: ServerId) {
        let Some(attached) = self.servers.get(&server).and_then(|known| known.attached) else { return };
        let Some(round) = self.round(server) else { return };
        let Some(inventory) = &round.inventory else { return };
        if round.stage != Stage::AwaitLookUp || round.look_up != LookingUp::Done {
            return;
        }
        let moved = attached != (inventory.boot, inventory.table_revision);
        if moved && !round.final_inventory {
            // Step 5: the table moved between inventory and attach: one more inventory, and it is final.
            round.final_inventory = true;
            return self.query(server);
        }
        if inventory.boot != attached.0 {
            return self.fail_round(server, "the server's boot id changed during the round");
        }
        self.carry_out_plan(server);
    }

    fn carry_out_plan(&mut self, server: ServerId) {
        let Some(inventory) = self.round(server).and_then(|round| round.inventory.take()) else { return };
        let rows: BTreeMap<LegId, &StoredLeg> = self
            .servers
            .get(&server)
            .into_iter()
            .flat_map(|known| known.legs.iter().copied())
            .chain(inventory.entries.iter().map(|entry| entry.leg))
            .filter_map(|leg| self.legs.get(&leg).map(|known| (leg, &known.row)))
            .collect();
        let planned = plan(&Seen {
            server,
            boot: inventory.boot,
            table_revision: inventory.table_revision,
            inventory: &inventory.entries,
            stored: &rows,
        });
        let live = inventory.entries.iter().filter(|entry| entry.state == LegState::Live).count() as u64;
        if let Some(known) = self.servers.get_mut(&server) {
            known.orphans.clear();
            known.pending.clear();
        }
        if let Some(round) = self.round(server) {
            round.report.live = live;
        }
        let mut take_over = Vec::new();
        for place in planned {
            let leg = place.leg;
            let second = place.bucket == Bucket::Conflict(TWO_HANDLES);
            if !second && let Some(round) = self.round(server) {
                round.planned.insert(leg, place.clone());
                if place.live {
                    round.fates.insert(leg, UNCOUNTED);
                }
            }
            match &place.bucket {
                Bucket::TakeOver | Bucket::FinishEnd | Bucket::FinishAdoption { .. } => take_over.push(leg),
                Bucket::FinishStart => self.finish_start(server, leg),
                Bucket::Orphan if self.round(server).is_some_and(|round| round.unreadable.contains(&leg)) => {
                    self.note_fate(server, leg, Fate::Pending("unreadable row"));
                }
                Bucket::Orphan => self.orphan(server, &place, &inventory),
                Bucket::Ended(cause) => {
                    if let Some(round) = self.round(server) {
                        round.report.closed += 1;
                    }
                    self.close(leg, *cause);
                }
                Bucket::Vanished(cause) => {
                    if let Some(round) = self.round(server) {
                        round.report.vanished += 1;
                    }
                    let text = format!("stored as live, but gone from its server ({cause:?}): closed");
                    self.alarm(AlarmKind::Vanished, Some(server), Some(leg), text);
                    self.close(leg, *cause);
                }
                Bucket::Conflict(reason) => {
                    let text = format!("{reason}: nothing is killed; compare the servers and end the wrong one there");
                    self.alarm(AlarmKind::Conflict, Some(server), Some(leg), text);
                    if second && let Some(round) = self.round(server) {
                        // A live entry beside the leg's own: it counts too.
                        round.report.count(&Fate::Pending("conflict"));
                    } else if place.live {
                        // A leg of another server stays that server's affair: only this report counts it.
                        self.note_fate(server, leg, Fate::Pending("conflict"));
                    }
                }
                Bucket::Unclear(reason) => {
                    tracing::warn!(server = server.0, %leg, "left alone until the next round: {reason}");
                    self.pend(server, leg, "unclear");
                }
            }
        }
        self.compare_unclaimed(server, &inventory, &mut take_over);
        self.settle_unplanned(server, &inventory);
        self.want_keys(server, take_over);
    }

    /// Ends that are on their way hold the round up. Of legs that need nothing from the plan: what stands open on ended ones
    /// is answered, and what waits for the attach on those that are not started may go on.
    fn settle_unplanned(&mut self, server: ServerId, inventory: &Inventory) {
        let known = self.servers.get(&server).into_iter().flat_map(|known| known.legs.iter().copied());
        let legs: BTreeSet<LegId> = known.chain(inventory.entries.iter().map(|entry| entry.leg)).collect();
        for leg in legs {
            // A round ends only when the ends that it found, or that were on their way already, are stored: what it compared
            // may be acknowledged then. That of another server's leg, which is claimed here too, is no affair of this round.
            let closing =
                self.legs.get(&leg).is_some_and(|known| known.row.server == server && known.closing.is_some());
            if let Some(round) = self.round(server).filter(|_| closing) {
                round.finishing.insert(leg);
                round.ends.insert(leg);
            }
            let planned = self.round(server).is_some_and(|round| round.planned.contains_key(&leg));
            match self.legs.get(&leg).filter(|known| known.row.server == server).map(|known| known.row.state) {
                Some(StoredState::Ended) if !planned => self.settle_if_ended(leg),
                Some(StoredState::Created) => self.flush_waiting(leg),
                _ => {}
            }
        }
    }

    fn orphan(&mut self, server: ServerId, place: &Planned, inventory: &Inventory) {
        let bound = self.settings.orphans_per_server;
        let entry = inventory.entries.iter().find(|entry| Some(entry.handle) == place.handle);
        self.note_fate(server, place.leg, Fate::Orphan);
        let (Some(known), Some(entry)) = (self.servers.get_mut(&server), entry) else { return };
        if known.orphans.len() >= bound {
            // Beyond the bound only their number counts.
            return;
        }
        known.orphans.insert(entry.handle, entry.clone());
        let text = "live on its server, but without a recovery key here: kept; adopt or end it".to_owned();
        self.alarm(AlarmKind::Orphan, Some(server), Some(place.leg), text);
    }

    /// In a reconcile legs that are ours already need no takeover: only their content is compared.
    fn compare_unclaimed(&mut self, server: ServerId, inventory: &Inventory, take_over: &mut Vec<LegId>) {
        let token = self.token;
        let marks: BTreeMap<LegId, _> = inventory.entries.iter().map(|entry| (entry.leg, entry)).collect();
        let mut ours = Vec::new();
        take_over.retain(|leg| {
            let known = self.legs.get(leg);
            let keeps = known.is_some_and(|known| {
                let entry = marks.get(leg);
                known.is_ours(token)
                    && entry.is_some_and(|entry| super::core::same_place(&known.row, inventory.boot, entry.handle))
            });
            if keeps {
                ours.push(*leg);
            }
            !keeps
        });
        for leg in ours {
            self.note_fate(server, leg, Fate::Recovered);
            if let Some(entry) = marks.get(&leg) {
                self.compare_content(server, leg, entry.mark);
            }
            self.send_open(leg);
        }
    }

    /// Writes a live leg's fate into the round.
    pub(super) fn note_fate(&mut self, server: ServerId, leg: LegId, fate: Fate) {
        if let Fate::Pending(reason) = &fate {
            let reason = *reason;
            if let Some(known) = self.servers.get_mut(&server) {
                known.pending.insert(leg, reason);
            }
        } else if let Some(known) = self.servers.get_mut(&server) {
            known.pending.remove(&leg);
        }
        // What the inventory did not report live (a leg that was started or adopted meanwhile) is not counted.
        if let Some(known) = self.round(server).and_then(|round| round.fates.get_mut(&leg)) {
            *known = fate;
        }
    }

    /// A leg in trouble: shown to the operator, and in the round's report if it was reported live.
    pub(super) fn pend(&mut self, server: ServerId, leg: LegId, reason: &'static str) {
        let live = self.round(server).is_some_and(|round| round.fates.contains_key(&leg));
        if live {
            self.note_fate(server, leg, Fate::Pending(reason));
        } else if let Some(known) = self.servers.get_mut(&server) {
            known.pending.insert(leg, reason);
        }
    }

    /// The round cannot go on: what it awaited is asked anew after a while. Nothing is concluded.
    pub(super) fn fail_round(&mut self, server: ServerId, reason: &str) {
        let now = self.now;
        let Some(known) = self.servers.get_mut(&server) else { return };
        let Some(round) = known.round.take() else { return };
        let pause = known.setback(&self.settings);
        tracing::warn!(server = server.0, "the round is begun anew in {pause:?}: {reason}");
        known.trouble = Some(reason.to_owned());
        known.retry_at = known.up.then_some((now + pause, round.trigger));
        known.gaps.extend(round.gaps);
        let mut legs: BTreeSet<LegId> = round.claims;
        legs.extend(round.backfill);
        for leg in legs {
            if let Some(known) = self.legs.get_mut(&leg) {
                known.in_round = false;
                if known.control == Control::AwaitAnswer {
                    known.control = Control::None;
                }
            }
        }
        self.release_all_held(server);
    }

    /// Only what commands do is open: gaps are acknowledged now. A command's answer may be held back by its server behind
    /// events that it may send only when the gap is acknowledged.
    fn try_close_gaps(&mut self, server: ServerId) {
        if let Some(round) = self.round(server).filter(|round| round.is_compared())
            && !round.gaps.is_empty()
        {
            let gaps = std::mem::take(&mut round.gaps);
            self.close_gaps(server, gaps);
        }
    }

    /// The same when only another round can close the gaps: this one must not wait for what commands do, or both wait.
    fn leave_commands_open(&mut self, server: ServerId) {
        let Some(known) = self.servers.get_mut(&server).filter(|known| !known.gaps.is_empty()) else { return };
        let Some(round) = known.round.as_mut().filter(|round| round.is_compared() && round.gaps.is_empty()) else {
            return;
        };
        let open = std::mem::take(&mut round.finishing);
        if !open.is_empty() {
            known.again.get_or_insert(Trigger::Reconcile);
        }
        for leg in open {
            let told =
                self.round(server).is_some_and(|round| round.fates.get(&leg).is_some_and(|fate| *fate != UNCOUNTED));
            if !told {
                self.pend(server, leg, "unclear");
            }
        }
    }

    /// Ends the round if nothing of it is open.
    pub(super) fn try_end_round(&mut self, server: ServerId) {
        self.try_close_gaps(server);
        self.leave_commands_open(server);
        let (now, wall_ms) = (self.now, self.wall_ms);
        let Some(known) = self.servers.get_mut(&server) else { return };
        let done = known.round.as_ref().is_some_and(|round| {
            round.stage == Stage::BackFilling
                && round.claims.is_empty()
                && round.backfill.is_empty()
                && round.finishing.is_empty()
                && round.storing.is_empty()
        });
        if !done {
            return;
        }
        let Some(mut round) = known.round.take() else { return };
        round.report.ended_at_ms = wall_ms;
        for fate in round.fates.values() {
            round.report.count(fate);
        }
        // Rule 6 holds even if a bucket was forgotten: what nobody counted is pending.
        let uncounted = round.fates.values().filter(|fate| **fate == UNCOUNTED).count();
        if uncounted > 0 {
            tracing::error!(server = server.0, uncounted, "legs reported live were in no bucket");
        }
        known.first_pass_done = true;
        known.trouble = None;
        let took = now.since(round.begun);
        tracing::info!(
            server = server.0,
            trigger = ?round.trigger,
            live = round.report.live,
            recovered = round.report.recovered,
            pending = round.report.pending_total(),
            orphans = round.report.orphans,
            keys_from_database = round.report.keys_from_database,
            keys_from_cache = round.report.keys_from_cache,
            ?took,
            "round ended"
        );
        known.reports.insert(round.trigger, std::mem::take(&mut round.report));
        let gaps = std::mem::take(&mut round.gaps);
        let again = known.again.take();
        // What time can mend is tried again soon; the rest waits for the operator or the next reconcile.
        let mendable = |reason: &&str| !matches!(*reason, "conflict" | "bad key" | "no key" | "unreadable row");
        if known.pending.values().any(mendable) {
            let soon = now + known.setback(&self.settings);
            known.retry_at = Some((soon.max(known.busy_until), Trigger::Reconcile));
        } else {
            known.setbacks = 0;
        }
        self.settle_conditions(server, &round.raised);
        self.close_gaps(server, gaps);
        self.release_all_held(server);
        self.forget_ended(server);
        if let Some(trigger) = again {
            self.want_round(server, trigger);
        }
        self.sweep_cache();
    }

    /// Ended legs leave memory with the round: the store keeps them.
    fn forget_ended(&mut self, server: ServerId) {
        let ended: Vec<LegId> = self
            .servers
            .get(&server)
            .into_iter()
            .flat_map(|known| known.legs.iter().copied())
            .filter(|leg| {
                self.legs.get(leg).is_some_and(|known| {
                    known.row.state == StoredState::Ended
                        && known.open.is_empty()
                        && known.closing.is_none()
                        && known.reopened.is_none()
                })
            })
            .collect();
        for leg in ended {
            let reason = self.servers.get_mut(&server).and_then(|known| known.pending.remove(&leg));
            self.forget_leg(leg);
            // That it is live all the same stays in trouble until the next round has looked.
            if let (Some(reason), Some(known)) = (reason, self.servers.get_mut(&server)) {
                known.pending.insert(leg, reason);
            }
        }
    }
}
