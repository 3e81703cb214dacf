//! What must be true once all is quiet (rule 18), and what can be asked then only: answers, and that all was told.

use super::super::World;
use remeet::model::{CommandId, Intent, StoredLeg, StoredState};
use remeet::store::CachedKey;
use remeet_protocol::message::{ClientOp, LegState, MeetingState};
use remeet_protocol::record::RecordState;
use remeet_protocol::{Change, ErrorCode, LegId, ServerId};
use std::collections::BTreeSet;
use std::time::Duration;

/// Rule 18: once faults stop, everything is recovered within this time.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// Of everything with everything, while nothing is known to be left to do.
const BETWEEN_COMPARISONS: Duration = Duration::from_millis(500);

impl World {
    /// Nothing is left to do; and what is stored and cached equals the servers' truth (rule 18).
    pub(in crate::world) fn differences(&self) -> Vec<String> {
        let mut found = self.unrest();
        if self.process().is_some() {
            for server in self.servers.keys() {
                self.compare(*server, &mut found);
            }
        }
        found
    }

    /// What somebody knows to be left to do.
    fn unrest(&self) -> Vec<String> {
        let Some(process) = self.process().filter(|process| process.core.token() == self.store.term) else {
            return vec!["no scheduler holds the term".to_owned()];
        };
        let mut found = Vec::new();
        if !process.core.is_steady() || process.core.persists_open() > 0 {
            found.push("the core is not steady".to_owned());
        }
        if process.turn_ends || process.reads_open > 0 {
            found.push("something is to be carried out".to_owned());
        }
        if process.lanes.waiting() + process.cache_queue.waiting() > 0 {
            found.push("something is being written".to_owned());
        }
        // Nothing can be done on these.
        let unknown = self.meetings_of_lost_keys();
        for (client, state) in &self.clients {
            let open = state.open.values().filter(|open| !unknown.contains(&open.meeting));
            found.extend(open.map(|open| format!("client {client} waits for {open:?}")));
        }
        for kept in self.store.legs.values().filter(|kept| !unknown.contains(&kept.row.leg.meeting)) {
            // Of what is open on an ended leg only its client reminds a scheduler, and it has heard an answer that was lost.
            let forgotten = |intent: &Intent| {
                let answered = intent.command.is_some_and(|command| self.seen.lost.commands.contains(&command));
                answered && kept.row.state == StoredState::Ended
            };
            let open = kept.open.values().filter(|intent| !forgotten(intent));
            found.extend(open.map(|intent| format!("an open intent: {intent:?}")));
        }
        found
    }

    fn compare(&self, server: ServerId, found: &mut Vec<String>) {
        let truth = self.truth(server);
        if truth.events_waiting > 0 {
            found.push(format!("server {server} waits for the acknowledgement of {} events", truth.events_waiting));
        }
        let orphans: BTreeSet<LegId> = self.core().orphans().map(|(_, _, leg)| leg).collect();
        let cached = self.cache_dump();
        let epoch = self.store.term.map(|token| token.epoch);
        let mut live = BTreeSet::new();
        for leg in truth.legs.iter().filter(|leg| leg.state == LegState::Live) {
            live.insert(leg.leg);
            let id = leg.leg;
            let Some(kept) = self.store.legs.get(&id) else {
                if !orphans.contains(&id) {
                    found.push(format!("{id} on {server} is neither stored nor shown as an orphan"));
                }
                continue;
            };
            let row = &kept.row;
            // Its first row was lost, and it was created anew: what is live is another one under its name.
            if self.servers[&server].live(id).is_some_and(|live| self.is_of_lost_key(live)) {
                continue;
            }
            // Its start was lost: live, and never started as far as is stored. An operator decides.
            // Or it was started in a new table, and the scheduler of before, which had not heard of that, took it for lost.
            let unstarted = row.state == StoredState::Created && self.seen.lost.starts.contains(&id);
            let unplaced = row.state == StoredState::Ended && self.seen.lost.places.contains(&id);
            if (unstarted || unplaced) && self.core().pending().iter().any(|(_, leg, _)| *leg == id) {
                continue;
            }
            if (row.state, Some(row.epoch), row.quarantine.as_ref()) != (StoredState::InMeeting, epoch, None) {
                found.push(format!("{id} is live on {server}, but stands as {row:?}"));
            }
            if (row.boot, row.handle, row.mark) != (Some(truth.boot), Some(leg.handle), leg.mark) {
                found.push(format!(
                    "{id} on {server}: {:?} {:?} {:?}, stored {row:?}",
                    truth.boot, leg.handle, leg.mark
                ));
            }
            let stored: Vec<_> = kept.records.values().cloned().collect();
            let same = leg.records.len() == stored.len()
                && leg.records.iter().zip(&stored).all(|(record, change)| {
                    change.revision == record.revision && change.state == RecordState::Present(record.record.clone())
                });
            if !same {
                found.push(format!("{id} on {server}: {:#?}\nstored: {stored:#?}", leg.records));
            }
            let here = cached.legs.iter().find(|cached| cached.head.leg == id);
            if here.is_none() && self.seen.lost.ended.contains(&id) {
                continue;
            }
            match here {
                Some(cached)
                    if cached.mark == leg.mark
                        && cached.changes == stored
                        && cached.head.state == MeetingState::InMeeting
                        && (cached.head.boot, cached.head.handle) == (truth.boot, leg.handle)
                        && cached.head.server == server => {}
                other => {
                    let differs = other.map(|other| {
                        let only = |these: &[Change], those: &[Change]| {
                            these.iter().filter(|change| !those.contains(change)).cloned().collect::<Vec<_>>()
                        };
                        (&other.head, other.mark, only(&other.changes, &stored), only(&stored, &other.changes))
                    });
                    found.push(format!(
                        "{id} on {server} is cached as (head, mark, only there, only stored) {differs:?}"
                    ));
                }
            }
            let is_its = |key: &CachedKey| {
                let planted = self.wrong_keys.contains(&id);
                let same = planted || key.secret.expose() == kept.key.secret.expose();
                key.leg == id && key.generation == row.generation && same
            };
            if !cached.keys.iter().any(is_its) {
                found.push(format!("{id}: its key is not cached"));
            }
        }
        // Nothing of an ended leg stays in the cache.
        let named = cached.legs.iter().map(|cached| cached.head.leg).chain(cached.keys.iter().map(|key| key.leg));
        for leg in named.collect::<BTreeSet<_>>() {
            let row = self.store.legs.get(&leg).map(|kept| &kept.row).filter(|row| row.server == server);
            if row.is_some_and(|row| row.state == StoredState::Ended) {
                found.push(format!("{leg} on {server} has ended and is cached"));
            }
        }
        for kept in self.store.legs.values().filter(|kept| kept.row.server == server) {
            let over = matches!(kept.row.state, StoredState::Ended | StoredState::Created);
            if !over && !live.contains(&kept.row.leg) {
                found.push(format!("not live on {server}: {:?}", kept.row));
            }
        }
    }

    /// Runs until nothing differs; fails after rule 18's time.
    pub(in crate::world) fn quiet(&mut self) {
        let limit = self.calendar.now() + RECOVERED_WITHIN;
        let mut compared = None;
        loop {
            self.run_for(Duration::from_millis(100));
            // Comparing everything costs more than what it waits for: not before nobody knows of anything left to do, and
            // then not too often, for what only the next round finds.
            let now = self.calendar.now();
            if self.unrest().is_empty() && compared.is_none_or(|at| now >= at + BETWEEN_COMPARISONS) {
                compared = Some(now);
                if self.differences().is_empty() {
                    break;
                }
            }
            assert!(self.calendar.now() < limit, "rule 18: not recovered in time:\n{}", self.describe());
        }
        self.check_reports();
        self.check_answers();
        self.check_all_told();
    }

    /// Rule 15, the other way round: of every leg that the present life has ended or taken back it has told.
    fn check_all_told(&self) {
        let Some(process) = self.process() else { return };
        let epoch = process.core.token().unwrap_or_default().epoch;
        for (_, leg) in self.seen.closed.iter().filter(|(of, _)| *of == epoch) {
            let rows = self.store.legs.values().filter(|kept| kept.row.leg.meeting == leg.meeting);
            let over = rows.clone().all(|kept| kept.row.state == StoredState::Ended);
            let told = self.seen.told_of.get(leg).is_some_and(|lives| lives.contains(&process.life));
            let told_end = self.seen.told_ended.contains(&(process.life, leg.meeting));
            assert!(told && (told_end || !over), "rule 15: {leg} has ended, and nobody was told");
        }
        let views = process.core.server_views();
        let up: BTreeSet<ServerId> = views.iter().filter(|view| view.up).map(|view| view.id).collect();
        for (leg, _) in self.seen.accepted.iter().filter(|(_, of)| *of == epoch) {
            let told = self.seen.told_of.get(leg).is_some_and(|lives| lives.contains(&process.life));
            assert!(told, "rule 15: {leg} was taken back, and nobody was told");
            let rows = self.store.legs.values().map(|kept| &kept.row).filter(|row| row.leg.meeting == leg.meeting);
            // One whose link has just gone down is told as unreachable.
            let inside =
                |row: &StoredLeg| row.state == StoredState::InMeeting && row.epoch == epoch && up.contains(&row.server);
            if rows.clone().filter(|row| row.state != StoredState::Ended).all(inside) && rows.clone().any(inside) {
                let last = self.seen.told_last.get(&(process.life, leg.meeting));
                assert_eq!(
                    last,
                    Some(&MeetingState::InMeeting),
                    "rule 15: the state of {leg}'s meeting that was told last"
                );
            }
        }
    }

    /// Rule 11: each client command made one intent a leg at most, on several only if it is about all legs, and its
    /// answer is what the server said.
    pub(in crate::world) fn check_answers(&self) {
        for (command, intents) in &self.store.made {
            let legs: BTreeSet<LegId> = intents.iter().map(|(leg, _)| *leg).collect();
            assert_eq!(intents.len(), legs.len(), "rule 11: {command:?} ran as {intents:?}");
            let answer = self.clients.get(&command.instance).and_then(|state| state.answered.get(&command.number));
            let &[(leg, number)] = intents.as_slice() else {
                self.check_joint(*command, intents);
                continue;
            };
            let sent = self.clients[&command.instance].sent.get(&command.number);
            let joint = sent.is_some_and(|sent| matches!(sent.op, ClientOp::Start | ClientOp::End));
            if joint && answer.is_some_and(|answer| !answer.code.is_ok() && answer.detail.as_str().contains("leg ")) {
                // It is refused for what has become of the other legs.
                continue;
            }
            let server = self.store.legs[&leg].row.server;
            let said = self.carried_out.get(&(server, leg, number));
            if let (Some(answer), Some(said)) = (answer, said) {
                let over = [ErrorCode::ENDED, ErrorCode::UNKNOWN_MEETING];
                // It was asked again when its answer was no longer kept.
                let sent = self.clients[&command.instance].sent.len() as u64;
                let late =
                    answer.code == ErrorCode::TOO_OLD && sent - command.number >= super::super::clients::ANSWERS_KEPT;
                // It ran, and the database has lost that and a later one.
                let overtaken = answer.code == ErrorCode::STALE_INTENT && !self.seen.lost.terms.is_empty();
                let same = said.values().any(|said| *said == answer.code) || over.contains(&answer.code);
                let same = same || late || overtaken;
                assert!(same, "rule 11: {command:?} was answered {:?}, its server said {said:?}", answer.code);
            }
        }
    }

    /// A command on all legs: `ok` only if every server said so.
    fn check_joint(&self, command: CommandId, intents: &[(LegId, u64)]) {
        let state = self.clients.get(&command.instance);
        let op = state.and_then(|state| state.sent.get(&command.number)).map(|sent| &sent.op);
        assert!(matches!(op, Some(ClientOp::Start | ClientOp::End)), "rule 11: {op:?} ran as {intents:?}");
        let answer = state.and_then(|state| state.answered.get(&command.number));
        // What runs under a lost key is another leg, which refuses ours.
        for (leg, number) in intents.iter().filter(|(leg, _)| !self.seen.lost.keys.contains_key(leg)) {
            let said = self.carried_out.get(&(self.store.legs[leg].row.server, *leg, *number));
            if let (Some(answer), Some(said)) = (answer, said) {
                let fits =
                    !answer.code.is_ok() || said.values().any(|said| said.is_ok()) || matches!(op, Some(ClientOp::End));
                assert!(fits, "rule 11: {command:?} was answered {:?}, {leg}'s server said {said:?}", answer.code);
            }
        }
    }
}
