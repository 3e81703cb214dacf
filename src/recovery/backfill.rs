//! Back-fill (design §2 steps 6 and 7): compare, pull since the mark, store, count the stored rows again,
//! refill the cache. Costs what changed, not what exists.

use super::core::{After, Asked, Core, Reading, lane, same_place};
use super::exchange::StoredDigest;
use super::leg::{Content, Leg, Pulling};
use super::round::Stage;
use super::takeover::millis;
use super::{AlarmKind, CacheTask, Output, Read, Trigger};
use crate::model::StoredState;
use crate::session::{PulledPage, Request, RequestError, Ticket};
use crate::store::{CacheOutcome, CacheStamp, CacheWrite, ContentWrite, Unit, Write};
use remeet_protocol::message::EventKind;
use remeet_protocol::record::{Mark, RecordState};
use remeet_protocol::{Change, ErrorCode, LegId, ServerId};
use std::collections::{BTreeSet, HashMap};

/// Changes of a pull that are kept in memory before they are stored: some 200 KiB. A full pull is stored
/// in one piece, because what it lacks is removed; the session bounds it.
const PAGE_CHANGES: usize = 1_000;

/// Pulls of a leg in a row whose stored rows do not add up; then its back-fill is quarantined.
const RECOUNTS_MAX: u8 = 5;

impl Core {
    /// Once control of all the server's legs is settled, back-fill of any begins; and goes on.
    pub(super) fn try_back_fill(&mut self, server: ServerId) {
        let deadline = self.now + self.settings.round_deadline;
        let Some(round) = self.round(server) else { return self.start_pulls(server) };
        if round.stage == Stage::TakingOver && round.claims.is_empty() {
            round.stage = Stage::BackFilling;
            // Of a million legs these would be a hundred megabytes until the last is back-filled.
            (round.planned, round.keys) = Default::default();
            // The deadline was control's; back-fill has its own, moved on by every leg that is done.
            round.deadline = deadline;
            let legs: Vec<LegId> = round.backfill.iter().copied().collect();
            for leg in &legs {
                self.decide(server, *leg);
            }
            self.read_stamps(server, legs);
        }
        self.start_pulls(server);
        self.try_end_round(server);
    }

    /// In a reconcile: compares a leg that is ours with what the inventory says.
    pub(super) fn compare_content(&mut self, server: ServerId, leg: LegId, mark: Mark) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.behind = false;
            known.in_round = true;
        }
        if let Some(round) = self.round(server) {
            round.backfill.insert(leg);
            round.targets.insert(leg, mark);
        }
    }

    /// What the takeover's (revision, count, digest) says must be done.
    fn decide(&mut self, server: ServerId, leg: LegId) {
        let target = self.round(server).and_then(|round| round.targets.remove(&leg));
        let Some(known) = self.legs.get_mut(&leg) else { return self.content_done(server, leg) };
        let (Some(target), StoredState::InMeeting) = (target, known.row.state) else {
            return self.content_done(server, leg);
        };
        let mark = known.row.mark;
        if known.behind {
            let text = format!("the server's content is behind what is stored (revision {})", mark.revision);
            return self.quarantine(server, leg, text);
        }
        let whole = mark.revision == target.revision && mark != target;
        if mark.revision >= target.revision && !whole && known.row.quarantine.is_none() {
            if known.uncounted && known.content == Content::Idle {
                // Its last pull was stored and never counted: the link or the store was lost in between.
                known.content = known.await_digest(false);
                self.to_count.push(leg);
                return self.refill(leg);
            }
            if let Some(round) = self.round(server) {
                round.unchanged.insert(leg);
            }
            return;
        }
        // A quarantined leg is tried again, from the ground.
        let whole = whole || known.row.quarantine.is_some();
        self.want_pull(server, leg, whole);
    }

    /// Queues a pull, unless one is queued or under way.
    pub(super) fn want_pull(&mut self, server: ServerId, leg: LegId, whole: bool) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        match &mut known.content {
            Content::Queued { whole: queued } => *queued |= whole,
            Content::Pulling(_) | Content::AwaitStored { .. } | Content::AwaitDigest { .. } => {}
            Content::Idle | Content::AwaitCache => {
                known.content = Content::Queued { whole };
                if let Some(server) = self.servers.get_mut(&server) {
                    server.pulls.push_back(leg);
                }
            }
        }
        if self.round(server).is_none() {
            self.start_pulls(server);
        }
    }

    fn start_pulls(&mut self, server: ServerId) {
        let limit = self.settings.pulls_in_flight;
        let unstored = limit.saturating_mul(self.settings.pulls_unstored);
        loop {
            let Some(known) = self.servers.get_mut(&server) else { return };
            let taking_over = known.round.as_ref().is_some_and(|round| round.stage != Stage::BackFilling);
            let full = known.pulling >= limit || known.pulling + known.storing_pulls >= unstored;
            if full || taking_over || known.attached.is_none() {
                return;
            }
            let Some(leg) = known.pulls.pop_front() else { return };
            let Some(content) = self.legs.get(&leg) else { continue };
            let (Content::Queued { whole }, Some(handle)) = (&content.content, content.row.handle) else { continue };
            let (whole, since) = (*whole, content.row.mark.revision);
            let since = if whole { 0 } else { since };
            if let Some(known) = self.servers.get_mut(&server) {
                known.pulling += 1;
            }
            let ticket = self.ask(server, Asked::Pull(leg), Request::Pull { handle, leg, since }, None);
            if let Some(known) = self.legs.get_mut(&leg) {
                known.content = Content::Pulling(Box::new(Pulling { ticket, whole: since == 0, changes: Vec::new() }));
            }
        }
    }

    pub(super) fn pulled(&mut self, server: ServerId, ticket: Ticket, result: Result<PulledPage, RequestError>) {
        let Some(Asked::Pull(leg)) = self.tickets.get(&ticket).cloned() else { return };
        let finished = !matches!(&result, Ok(page) if page.complete.is_none());
        if finished {
            self.tickets.remove(&ticket);
        }
        let Some(known) = self.legs.get_mut(&leg) else { return self.pull_over(server, finished) };
        let Content::Pulling(pulling) = &mut known.content else { return self.pull_over(server, finished) };
        if pulling.ticket != ticket {
            return self.pull_over(server, finished);
        }
        match result {
            Ok(page) => {
                pulling.whole |= page.full;
                pulling.changes.extend(page.changes);
                match page.complete {
                    Some(upto) => self.pull_complete(leg, upto),
                    None => self.store_page(leg),
                }
            }
            Err(RequestError::LinkLost) => known.content = Content::Idle,
            Err(error) => {
                known.content = Content::Idle;
                self.quarantine(server, leg, format!("the pull failed: {error}"));
            }
        }
        self.pull_over(server, finished);
    }

    fn pull_over(&mut self, server: ServerId, finished: bool) {
        if finished {
            if let Some(known) = self.servers.get_mut(&server) {
                known.pulling = known.pulling.saturating_sub(1);
            }
            self.try_back_fill(server);
        }
    }

    /// Stores a long pull's pages as they come; the mark follows with the last.
    fn store_page(&mut self, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let Content::Pulling(pulling) = &mut known.content else { return };
        if pulling.whole || pulling.changes.len() < PAGE_CHANGES {
            return;
        }
        let changes = std::mem::take(&mut pulling.changes);
        known.cache_behind = true;
        let changes = known.without_removed(changes);
        let domain = known.row.domain;
        let write = ContentWrite { leg, domain, changes, base: 0, mark: None, full: false };
        self.persist(lane(leg), Unit::one(Write::Content(write)), After::Page);
    }

    fn pull_complete(&mut self, leg: LegId, upto: Mark) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let Content::Pulling(pulling) = &mut known.content else { return };
        let whole = pulling.whole;
        let (server, domain) = (known.row.server, known.row.domain);
        let changes = std::mem::take(&mut pulling.changes);
        let changes = known.without_removed(changes);
        known.removed_meanwhile.clear();
        known.uncounted = true;
        known.reset &= !whole;
        let before = known.row.mark;
        // Events may have moved the mark past the pull's end already: it never falls. At an equal
        // revision the server's count and digest replace what did not fit.
        if upto.revision >= before.revision {
            known.row.mark = upto;
        }
        let jumped = known.close_gap();
        known.content = Content::AwaitStored { whole };
        let mark = known.row.mark;
        let in_step = !jumped && !known.cache_behind && mark == upto;
        let cache = if in_step {
            let base = (!whole).then_some(before.revision);
            self.legs.get(&leg).and_then(|known| self.head(known)).map(|head| CacheWrite {
                head,
                base,
                mark,
                changes: changes.clone(),
            })
        } else {
            None
        };
        let stored_mark = if whole { upto } else { mark };
        let base = if whole { 0 } else { before.revision };
        let mut write = ContentWrite { leg, domain, changes, base, mark: Some(stored_mark), full: whole };
        if whole && mark != upto {
            // First the whole content as of `upto`, then the steps that events made beyond it; if the database has lost one
            // of them since, not this one either.
            self.persist(lane(leg), Unit::one(Write::Content(write)), After::Page);
            let base = before.revision.max(upto.revision);
            write = ContentWrite { leg, domain, changes: Vec::new(), base, mark: Some(mark), full: false };
        }
        let id = self.persist(
            lane(leg),
            Unit::one(Write::Content(write)),
            After::Pulled { server, leg, cache: cache.map(Box::new) },
        );
        self.mark_handed_out(leg, id);
        if let Some(known) = self.servers.get_mut(&server) {
            known.storing_pulls += 1;
        }
        self.count_pull(leg, whole);
    }

    /// A pull's last rows are written, or were lost: another may begin. Counted by what was handed to the store, whatever
    /// has become of the link and of the leg since.
    pub(super) fn pull_written(&mut self, server: ServerId) {
        if let Some(known) = self.servers.get_mut(&server) {
            known.storing_pulls = known.storing_pulls.saturating_sub(1);
        }
        self.start_pulls(server);
    }

    fn count_pull(&mut self, leg: LegId, whole: bool) {
        let Some(server) = self.legs.get(&leg).map(|known| known.row.server) else { return };
        if let Some(round) = self.round(server) {
            if whole {
                round.report.pulled_whole += 1;
            } else {
                round.report.pulled += 1;
            }
        }
    }

    pub(super) fn pull_stored(&mut self, leg: LegId, cache: Option<Box<CacheWrite>>) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let Content::AwaitStored { whole } = known.content else {
            // The link was lost meanwhile. A refill since then may have read the store before this.
            return self.cache_skipped(leg);
        };
        known.content = known.await_digest(whole);
        match cache {
            Some(write) => {
                known.cache_open += 1;
                self.put(Output::Cache(CacheTask::Write(write)));
            }
            None => self.refill(leg),
        }
        self.to_count.push(leg);
    }

    /// Step 7: the rows of pulled legs are counted again, all that have gathered in one read.
    pub(super) fn read_digests(&mut self) {
        if self.counting || self.to_count.is_empty() {
            return;
        }
        self.counting = true;
        let legs = std::mem::take(&mut self.to_count);
        let id = self.read_id();
        self.reads.insert(id, Reading::Digests(legs.clone()));
        self.put(Output::Read { id, read: Read::Digests(legs) });
    }

    pub(super) fn digests_failed(&mut self, legs: Vec<LegId>, reason: &str) {
        tracing::warn!(legs = legs.len(), "stored rows could not be counted: {reason}");
        for leg in self.counted(legs) {
            self.not_counted(leg, reason, "not verified");
        }
    }

    /// Its rows could not be counted: the next round does it again.
    fn not_counted(&mut self, leg: LegId, reason: &str, pending: &'static str) {
        let Some(server) = self.legs.get(&leg).map(|known| known.row.server) else { return };
        if let Some(round) = self.round(server).filter(|round| round.backfill.contains(&leg)) {
            round.report.content_missing(format!("{leg}: stored rows not counted"));
        }
        self.pend(server, leg, pending);
        let (now, settings) = (self.now, self.settings.clone());
        if let Some(known) = self.servers.get_mut(&server).filter(|known| known.round.is_none() && known.up) {
            // Counted outside a round: the next one does it again, and soon.
            let pause = known.setback(&settings);
            known.retry_at.get_or_insert((now + pause, Trigger::Reconcile));
        }
        let text = format!("its stored rows could not be counted: {reason}");
        self.answer_lifts(leg, ErrorCode::UNAVAILABLE, &text);
        self.content_stands(server, leg);
    }

    pub(super) fn digests(&mut self, legs: Vec<LegId>, digests: Vec<StoredDigest>) {
        let mut digests: HashMap<LegId, StoredDigest> =
            digests.into_iter().map(|digest| (digest.leg, digest)).collect();
        for leg in self.counted(legs) {
            match digests.remove(&leg) {
                Some(digest) => self.judge(&digest),
                None => {
                    let server = self.legs.get(&leg).map(|known| known.row.server);
                    let text =
                        "it is live and commanded, but its row is not stored any more: restore it, or end the meeting";
                    self.alarm(AlarmKind::BadRow, server, Some(leg), text.to_owned());
                    self.not_counted(leg, "it is not stored any more", "unreadable row");
                }
            }
        }
    }

    /// Whether what is stored of a leg is what was pulled.
    fn judge(&mut self, digest: &StoredDigest) {
        let leg = digest.leg;
        let Some(known) = self.legs.get_mut(&leg) else { return };
        let Content::AwaitDigest { whole, stored } = known.content else { return };
        let server = known.row.server;
        let same = digest.rows.count == digest.mark.count && digest.rows.digest == digest.mark.digest;
        // A record that cannot be read takes the stored mark away, and so does a database that has lost what it had stored:
        // only the ground helps.
        let gone = digest.mark.revision == 0 && known.row.mark.revision > 0;
        let spoilt = gone || digest.mark.revision < stored;
        let open_gap = !spoilt && (!known.gap.is_empty() || digest.rows.revision > digest.mark.revision);
        if same && !open_gap && !spoilt {
            known.recounts = 0;
            return self.verified(server, leg, digest);
        }
        known.recounts += 1;
        let differs = if spoilt {
            format!("the stored mark is at revision {}, below what was stored", digest.mark.revision)
        } else {
            format!(
                "the stored rows give {} of {}, the server says {} of {}",
                digest.rows.digest, digest.rows.count, digest.mark.digest, digest.mark.count
            )
        };
        if known.recounts > RECOUNTS_MAX {
            known.recounts = 0;
            self.quarantine(server, leg, format!("it did not settle in {RECOUNTS_MAX} pulls: {differs}"));
        } else if !whole || open_gap || spoilt {
            // Not all there: once more since the mark if a gap is open, else from the ground. What a full pull brought may be
            // lost, too.
            self.pull_again(server, leg, !open_gap);
        } else {
            self.quarantine(server, leg, format!("after a full pull {differs}"));
        }
    }

    /// The read that counts is over. Of its legs those whose rows are awaited: one that waits to be counted has changed since
    /// they were read.
    fn counted(&mut self, legs: impl IntoIterator<Item = LegId>) -> Vec<LegId> {
        self.counting = false;
        let anew: BTreeSet<LegId> = self.to_count.iter().copied().collect();
        let awaits = |leg: &LegId| {
            let content = self.legs.get(leg).map(|known| &known.content);
            matches!(content, Some(Content::AwaitDigest { .. })) && !anew.contains(leg)
        };
        legs.into_iter().filter(awaits).collect()
    }

    fn pull_again(&mut self, server: ServerId, leg: LegId, whole: bool) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.content = Content::Idle;
            known.gap.clear();
        }
        self.want_pull(server, leg, whole);
        self.try_back_fill(server);
    }

    fn verified(&mut self, server: ServerId, leg: LegId, digest: &StoredDigest) {
        if let Some(round) = self.round(server).filter(|round| round.backfill.contains(&leg)) {
            round.report.count_content(digest);
        }
        let lifted = self.legs.get_mut(&leg).and_then(|known| {
            known.uncounted = false;
            known.row.quarantine.take()
        });
        if lifted.is_some() {
            self.persist(lane(leg), Unit::one(Write::Quarantine(leg, None)), After::Lifted(leg));
            self.condition_over(AlarmKind::Quarantine, Some(server), Some(leg));
        } else {
            self.answer_lifts(leg, ErrorCode::OK, "");
        }
        self.content_stands(server, leg);
    }

    /// Nothing is deleted because it failed: the back-fill stops with its reason, control goes on.
    fn quarantine(&mut self, server: ServerId, leg: LegId, reason: String) {
        if let Some(round) = self.round(server) {
            round.report.quarantined += 1;
            if round.backfill.contains(&leg) {
                round.report.content_missing(format!("{leg}: back-fill quarantined"));
            }
        }
        self.alarm(AlarmKind::Quarantine, Some(server), Some(leg), reason.clone());
        if let Some(known) = self.legs.get_mut(&leg)
            && known.row.quarantine.as_ref() != Some(&reason)
        {
            known.row.quarantine = Some(reason.clone());
            self.persist(lane(leg), Unit::one(Write::Quarantine(leg, Some(reason.clone()))), After::Noted);
        }
        self.answer_lifts(leg, ErrorCode::WRONG_STATE, &format!("it stays quarantined: {reason}"));
        self.content_done(server, leg);
    }

    /// The stored content is right; the leg is done once its cached status is too.
    fn content_stands(&mut self, server: ServerId, leg: LegId) {
        let Some(known) = self.legs.get_mut(&leg) else { return self.content_done(server, leg) };
        if known.cache_open > 0 {
            known.content = Content::AwaitCache;
        } else {
            self.content_done(server, leg);
        }
    }

    fn content_done(&mut self, server: ServerId, leg: LegId) {
        let (now, wall_ms) = (self.now, self.wall_ms);
        let deadline = now + self.settings.round_deadline;
        let mut was_in_round = false;
        let mut pulled = false;
        if let Some(known) = self.legs.get_mut(&leg) {
            pulled = matches!(known.content, Content::AwaitDigest { .. } | Content::AwaitCache);
            known.content = Content::Idle;
            was_in_round = std::mem::take(&mut known.in_round);
        }
        if let Some(round) = self.round(server)
            && round.backfill.remove(&leg)
        {
            round.deadline = deadline;
            round.report.backfilled_ms = millis(now.since(round.begun));
            round.report.backfilled_at_ms = wall_ms;
        }
        // Also what was pulled outside a round must be told: no event carried it (rule 15).
        if was_in_round || pulled {
            match self.legs.get_mut(&leg) {
                Some(known) if known.accepting.is_some() => known.refreshed = true,
                _ => self.publish(leg, EventKind::Refreshed, Vec::new()),
            }
        }
        self.try_back_fill(server);
    }

    // ---- the cache ----

    /// What the cache holds of the round's legs, all in one read: of those without a transfer the status is
    /// compared, of the others only whether their key is there.
    fn read_stamps(&mut self, server: ServerId, legs: Vec<LegId>) {
        let Some(round) = self.round(server).map(|round| round.id) else { return };
        // Those that have ended meanwhile left memory, and the round's lists with that.
        let named: Vec<_> =
            legs.iter().filter_map(|leg| self.legs.get(leg).map(|known| (known.row.domain, *leg))).collect();
        let legs: Vec<LegId> = named.iter().map(|(_, leg)| *leg).collect();
        if legs.is_empty() {
            return;
        }
        let id = self.read_id();
        self.reads.insert(id, Reading::Stamps(round, legs));
        self.put(Output::Read { id, read: Read::Stamps(named) });
    }

    pub(super) fn stamps(&mut self, server: ServerId, legs: Vec<LegId>, stamps: Option<Vec<CacheStamp>>) {
        let reachable = stamps.is_some();
        let mut stamps = stamps.into_iter().flatten();
        for leg in legs {
            let stamp = stamps.next();
            let unchanged = self.round(server).is_some_and(|round| {
                let unchanged = round.unchanged.remove(&leg);
                if unchanged && round.backfill.contains(&leg) {
                    round.report.content_compared();
                }
                unchanged
            });
            let state = self.legs.get(&leg).and_then(|known| self.head(known)).map(|head| head.state);
            let Some(known) = self.legs.get_mut(&leg) else {
                self.content_done(server, leg);
                continue;
            };
            let row = &known.row;
            let key_fits = stamp.is_some_and(|stamp| stamp.generation == Some(row.generation));
            if !unchanged || known.content != Content::Idle {
                // A pull is under way, or was: it brings the status up to date, but not the key.
                if reachable && !key_fits {
                    self.mirror_key(leg);
                }
                continue;
            }
            if !reachable {
                known.cache_behind = true;
                self.content_done(server, leg);
                continue;
            }
            let fits = stamp.is_some_and(|stamp| {
                stamp.mark == Some(row.mark)
                    && stamp.state == state
                    && stamp.place.is_some_and(|(boot, handle)| same_place(row, boot, handle))
            });
            if key_fits && fits && !known.cache_behind {
                self.content_done(server, leg);
            } else {
                known.content = Content::AwaitCache;
                if let Some(round) = self.round(server) {
                    round.report.refilled += 1;
                }
                self.refill(leg);
            }
        }
        self.try_back_fill(server);
    }

    pub(super) fn refill(&mut self, leg: LegId) {
        let Some(head) = self.legs.get(&leg).and_then(|known| self.head(known)) else { return };
        if let Some(known) = self.legs.get_mut(&leg) {
            known.cache_open += 1;
        }
        self.put(Output::Cache(CacheTask::Refill(head)));
    }

    /// A key was not mirrored: the next comparison caches the leg whole.
    pub(super) fn uncached(&mut self, leg: LegId) {
        if let Some(known) = self.legs.get_mut(&leg) {
            known.cache_behind = true;
        }
    }

    pub(super) fn cached(&mut self, legs: &[LegId], outcomes: Result<Vec<CacheOutcome>, String>) {
        let outcomes = outcomes.ok();
        for (place, leg) in legs.iter().enumerate() {
            let Some(known) = self.legs.get_mut(leg) else { continue };
            known.cache_open = known.cache_open.saturating_sub(1);
            let server = known.row.server;
            match outcomes.as_ref().and_then(|outcomes| outcomes.get(place)) {
                Some(CacheOutcome::Applied) => known.cache_behind = false,
                // A newer writer's content stands there: nothing of ours is missing.
                Some(CacheOutcome::Lost) => {}
                Some(CacheOutcome::Stale) => {
                    // One refill mends every write that found the cache behind.
                    if !known.cache_behind || known.cache_open == 0 {
                        known.cache_behind = true;
                        self.refill(*leg);
                    }
                }
                None => known.cache_behind = true,
            }
            if let Some(known) = self.legs.get_mut(leg)
                && known.cache_open == 0
                && std::mem::take(&mut known.cache_missed)
            {
                self.refill(*leg);
            }
            if self.legs.get(leg).is_some_and(|known| known.cache_open == 0 && known.content == Content::AwaitCache) {
                self.content_done(server, *leg);
            }
        }
    }
}

impl Leg {
    /// Its stored rows are to be counted.
    fn await_digest(&self, whole: bool) -> Content {
        Content::AwaitDigest { whole, stored: self.stored.revision }
    }

    /// A pull's changes without those that an event removed meanwhile.
    fn without_removed(&self, mut changes: Vec<Change>) -> Vec<Change> {
        if !self.removed_meanwhile.is_empty() {
            changes.retain(|change| {
                let RecordState::Present(record) = &change.state else { return true };
                let key = record.key();
                !self.removed_meanwhile.iter().any(|(removed, at)| *removed == key && *at > change.revision)
            });
        }
        changes
    }
}
