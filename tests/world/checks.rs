//! What may never be seen, checked at every commit and answer; and what must be true once all is quiet ([`end`]).

mod end;

use super::World;
use super::failover::Lost;
use super::process::Process;
use super::store::Kept;
use remeet::model::{Moment, RecoveryKey, StoredLeg, StoredState};
use remeet::recovery::lanes::Units;
use remeet::recovery::{Published, Read, ReadResult, Trigger};
use remeet::simulator::core::ConnectionId;
use remeet::simulator::core::leg::LegHead;
use remeet::store::Write;
use remeet_protocol::message::{EndCause, Event, EventKind, MeetingState, Message};
use remeet_protocol::record::{Record, RecordKey, RecordState};
use remeet_protocol::{BootId, Epoch, ErrorCode, Handle, LegId, MeetingId, Packet, ServerId, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the checks remember.
#[derive(Default)]
pub(super) struct Seen {
    /// The last term that was granted, and all that were.
    granted: Option<Token>,
    grants: Vec<Token>,
    /// What a database that failed over has lost.
    pub(super) lost: Lost,
    /// Legs of ours that have appeared at a server, by its name of them; and those that have ended there.
    appeared: BTreeSet<(ServerId, BootId, Handle)>,
    ended: BTreeMap<(ServerId, BootId, LegId), Handle>,
    /// Ends that servers have told, by event: of which boot id, and of which leg.
    ends: BTreeMap<(ServerId, u64), (BootId, LegId, Handle)>,
    /// The highest epoch that each server has admitted since it lost its table last.
    admitted: BTreeMap<ServerId, (BootId, Option<Epoch>)>,
    /// Legs that stood as in-meeting under a term.
    accepted: BTreeSet<(LegId, Epoch)>,
    /// Legs whose end has committed, with the term that wrote it; and meetings of which a life has told the end.
    closed: BTreeSet<(Epoch, LegId)>,
    told_ended: BTreeSet<(u64, MeetingId)>,
    /// The lives that have told something of a leg since its row was accepted or closed last.
    pub(super) told_of: BTreeMap<LegId, BTreeSet<u64>>,
    /// The state that each life has told of a meeting last.
    told_last: BTreeMap<(u64, MeetingId), MeetingState>,
    /// The epoch under which each leg was cached last.
    pub(super) cached: BTreeMap<LegId, Epoch>,
    /// What each life has told of a leg's records since it last told of the leg as a whole: their revisions.
    told: BTreeMap<(u64, LegId), BTreeMap<RecordKey, u64>>,
}

impl World {
    /// After every step.
    pub(super) fn check_step(&mut self) {
        for (server, simulated) in &self.servers {
            let stale = simulated.core.stats().stale_executed;
            assert_eq!(stale, 0, "rules 2 and 3: server {server} has executed a command of a stale token");
            // Over restarts, too, as long as its table lives.
            let admits = (simulated.core.boot(), simulated.core.highest_token().map(|token| token.epoch));
            let before = self.seen.admitted.insert(*server, admits);
            let fell = before.is_some_and(|before| before.0 == admits.0 && before.1 > admits.1);
            assert!(!fell, "rule 2: server {server} admits {admits:?} after {before:?}");
        }
    }

    /// Rule 1: no two grants share an epoch, and epochs only grow.
    pub(super) fn check_granted(&mut self, token: Token) {
        if let Some(before) = self.seen.granted {
            assert!(token.epoch > before.epoch, "rule 1: {token} was granted after {before}");
        }
        // A question that was asked twice may be granted twice, if the first grant was lost: to one asker, who knows of one.
        let again = self.seen.lost.terms.extract_if(.., |lost| *lost == token).count() > 0;
        assert!(again || !self.seen.grants.contains(&token), "rule 1: {token} was granted twice");
        self.seen.lost.again.extend(again.then_some(token));
        self.seen.granted = Some(token);
        self.seen.grants.push(token);
    }

    /// The database has failed over: what it lost nobody is held to. Who had told of what stands again has told of it.
    pub(super) fn forget_lost(&mut self, mut lost: Lost, told_of: BTreeMap<LegId, BTreeSet<u64>>) {
        let seen = &mut self.seen;
        seen.granted = self.store.term;
        let epoch = self.store.term.unwrap_or_default().epoch;
        lost.terms = seen.grants.iter().copied().filter(|token| token.epoch > epoch).collect();
        seen.accepted.retain(|(_, of)| *of <= epoch);
        seen.closed.retain(|(of, _)| *of <= epoch);
        // An end that was stored, acknowledged and forgotten by its server: what stands again may be started again.
        seen.ended.retain(|(_, _, leg), _| !lost.ended.contains(leg));
        for (leg, lives) in told_of {
            seen.told_of.entry(leg).or_default().extend(lives);
        }
        seen.lost = lost;
    }

    /// The alarm of design §6 is raised for a database that has lost terms only, and the term stands above them.
    pub(super) fn check_went_back(&self, token: Token, known: Epoch) {
        let is_lost = self.seen.lost.terms.iter().any(|lost| lost.epoch == known);
        assert!(is_lost && token.epoch > known, "{token} began for a lost epoch {known:?}: {:?}", self.seen.lost.terms);
    }

    /// Rule 4: nothing is written under a term that is over.
    pub(super) fn check_written(&self, token: Token, units: &Units) {
        let stands = self.seen.granted;
        assert_eq!(Some(token), stands, "rule 4: written under a term that is over: {units:?}");
        for write in units.iter().flat_map(|(_, unit)| &unit.writes) {
            let Some(kept) = write.leg().and_then(|leg| self.store.legs.get(&leg)) else { continue };
            let leg = kept.row.leg;
            assert!(!kept.fell, "rule 13: a record of {leg} was written over a higher revision");
            // As its server has it, if it is the one that the row tells of.
            let here = self.servers.get(&kept.row.server).and_then(|simulated| {
                let live = simulated.live(leg)?;
                (kept.row.boot, kept.row.handle).eq(&(Some(simulated.core.boot()), Some(live.handle))).then_some(live)
            });
            let owned = here.is_none_or(|live| live.token.epoch >= token.epoch);
            let content = matches!(write, Write::Content(_));
            assert!(!content || owned, "rule 13: content of {leg}, which {token} has not taken over: {:?}", kept.row);
        }
    }

    /// Rule 12: what a command asks for, or the key that an adoption brings, is stored before it leaves.
    pub(super) fn check_sent(&self, token: Option<Token>, server: ServerId, packet: &Packet) {
        if self.seen.lost.term(token) {
            return;
        }
        match &packet.message {
            Message::Command(command) => {
                let (leg, intent) = (command.leg, command.intent);
                let stored = self.store.has_intent(leg, intent);
                assert!(stored, "rule 12: intent {intent} of {leg} left for server {server} and is not stored");
            }
            Message::Adopt(adopt) => {
                let same = |key: &RecoveryKey| {
                    key.server == server
                        && key.generation == adopt.generation
                        && key.secret.expose() == adopt.secret.expose()
                };
                let stored = self.store.legs.get(&adopt.new).is_some_and(|kept| same(&kept.key));
                assert!(stored, "rule 12: {adopt:?} left for server {server}, and its key is not stored");
            }
            _ => {}
        }
    }

    /// Rule 3: a leg is given for the proof of its key only. Rule 10: a key that is not the stored one is never used,
    /// unless nothing tells it from that.
    pub(super) fn check_proven(&mut self, server: ServerId, connection: ConnectionId, packet: &Packet) {
        let Message::TakeoverAnswer(answer) = &packet.message else { return };
        let request = packet.header.request;
        for result in &answer.results {
            let leg = result.leg;
            let Some(simulated) = self.servers.get_mut(&server) else { return };
            let wrong = simulated.unproven.remove(&(connection, request, leg));
            assert!(!(wrong && result.code.is_ok()), "rule 3: server {server} gave {leg} for a wrong proof");
            // A foreign leg under its name is claimed with our key; so is one whose key was never stored.
            let ours = self.store.legs.get(&leg).is_some_and(|kept| {
                let handle = kept.row.handle;
                kept.row.server == server
                    && handle == Some(result.handle)
                    && kept.row.boot == Some(simulated.core.boot())
            });
            let known = self.wrong_keys.contains(&leg);
            assert!(!(wrong && ours) || known, "rule 10: {leg} was claimed with a key that is not the stored one");
        }
    }

    /// An end is acknowledged after it is stored; its server forgets it then.
    /// Numbers are of the boot id that the scheduler knows: one that has not heard of a restart speaks of events that
    /// nobody holds any more.
    pub(super) fn check_ends_acknowledged(
        &mut self,
        token: Option<Token>,
        server: ServerId,
        known: Option<BootId>,
        number: u64,
    ) {
        let boot = self.servers[&server].core.boot();
        if known != Some(boot) {
            return;
        }
        let told = self.seen.ends.extract_if((server, 0)..=(server, number), |_, _| true);
        for ((_, event), (of, leg, handle)) in told.collect::<Vec<_>>() {
            let is_it = |kept: &&Kept| {
                let row = &kept.row;
                of == boot && row.server == server && row.boot == Some(boot) && row.handle == Some(handle)
            };
            let stands =
                self.store.legs.get(&leg).filter(is_it).is_none_or(|kept| kept.row.state == StoredState::Ended);
            assert!(
                stands || self.seen.lost.term(token) || self.seen.lost.ended.contains(&leg),
                "rule 9: the end of {leg}, event {event} of server {server}, is acknowledged and not stored"
            );
        }
    }

    /// Rule 4: what is cached of a leg is never of a lower term than before.
    pub(super) fn check_cached(&mut self, leg: LegId, epoch: Epoch) {
        let seen = self.seen.cached.entry(leg).or_default();
        assert!(epoch >= *seen, "rule 4: {leg} is cached under epoch {epoch}, after {seen}");
        *seen = epoch;
    }

    /// Rule 5: no command leaves once the lease could have run out.
    pub(super) fn check_self_stop(&self, lease_ends: Moment, server: ServerId, packet: &Packet) {
        let (now, name) = (self.calendar.now(), packet.message.name());
        assert!(now < lease_ends, "rule 5: {name} left for server {server} at {now:?}, the lease ended {lease_ends:?}");
    }

    /// Rule 10: the cache is asked for keys only of legs that this term has read from the database, or made, and not in
    /// a server's first pass.
    pub(super) fn check_key_source(&self, process: &Process, read: &Read) {
        let Read::CachedKeys(legs) = read else { return };
        let passed: BTreeSet<ServerId> =
            process.core.server_views().iter().filter(|view| !view.reports.is_empty()).map(|view| view.id).collect();
        for (_, leg) in legs {
            assert!(
                process.read.contains(leg),
                "rule 10: the cache is asked for the key of {leg}, which was never read"
            );
            let server = self.store.legs.get(leg).map(|kept| kept.row.server);
            let first = server.is_some_and(|server| !passed.contains(&server));
            assert!(!first, "rule 10: the cache is asked for the key of {leg} in a first pass");
        }
    }

    /// Rule 15: what is told to clients has committed.
    pub(super) fn check_published(&mut self, process: &Process, published: &Published) {
        let leg = published.leg;
        let (token, lost) = (process.core.token().unwrap_or_default(), &self.seen.lost);
        let knows_lost = lost.again.contains(&token);
        if lost.terms.contains(&token) || knows_lost && !self.store.legs.contains_key(&leg) {
            return;
        }
        let Some(kept) = self.store.legs.get(&leg) else { panic!("rule 15: {leg} is told of, and not stored") };
        // Unless a later term has written since: it may have brought back for a while what an earlier one removed, and
        // need not have taken over a leg that it only ends.
        if kept.content_of <= token.epoch && !knows_lost {
            for change in &published.changes {
                let committed = kept.committed(&change.key()).max(Some(kept.row.mark.revision));
                assert!(
                    committed >= Some(change.revision),
                    "rule 15: {change:?} of {leg} is told, stored {committed:?}"
                );
            }
        }
        // Of a record the newest is told last: who listens keeps that. After a change of the leg's state, or with
        // `Refreshed`, all of it is read anew.
        let told = self.seen.told.entry((process.life, leg)).or_default();
        if published.kind != EventKind::Changed {
            told.clear();
        }
        for change in &published.changes {
            let before = told.insert(change.key(), change.revision);
            assert!(before <= Some(change.revision), "rule 15: {change:?} of {leg} is told after revision {before:?}");
        }
        self.seen.told_of.entry(leg).or_default().insert(process.life);
        self.seen.told_last.insert((process.life, leg.meeting), published.state);
        let epoch = token.epoch;
        if published.state == MeetingState::InMeeting && !knows_lost {
            let accepted = self.seen.accepted.iter().any(|(other, of)| other.meeting == leg.meeting && *of == epoch);
            assert!(accepted, "rule 15: {leg} is told to be in meeting, and never stood so under epoch {epoch}");
        }
        if published.kind == EventKind::Ended {
            let first = self.seen.told_ended.insert((process.life, leg.meeting));
            assert!(first || knows_lost, "rule 15: the end of {leg}'s meeting is told twice");
        }
        if published.state == MeetingState::Ended && published.kind == EventKind::Ended {
            let ended = self.store.legs.values().filter(|kept| kept.row.leg.meeting == leg.meeting);
            let live: Vec<_> =
                ended.filter(|kept| kept.row.state != StoredState::Ended).map(|kept| &kept.row).collect();
            assert!(live.is_empty(), "rule 15: {leg}'s meeting is told to have ended, stored is {live:?}");
        }
    }

    /// What a life has read of its legs.
    pub(super) fn note_read(&mut self, life: u64, result: &Result<ReadResult, String>) {
        let Some(node) = self.node_of(life) else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        if let Ok(ReadResult::LookUp(found)) = result {
            process.read.extend(found.found.iter().map(|found| found.row.leg));
        }
    }

    /// At every commit: states change as the one list of transitions allows (rules 4 and 9), no live leg is closed (rule 8), and none stands as in-meeting that its server did
    /// not give to this term (rule 7).
    pub(super) fn check_transitions(&mut self) {
        for transition in std::mem::take(&mut self.store.transitions) {
            let row = &transition.after;
            if let Some(before) = &transition.before {
                assert!(before.state.may_become(row.state), "rules 4 and 9: {transition:?}");
            }
            if matches!(row.state, StoredState::InMeeting | StoredState::Ended) {
                self.seen.told_of.remove(&row.leg);
            }
            if row.state == StoredState::InMeeting {
                self.seen.accepted.insert((row.leg, row.epoch));
            } else if row.state == StoredState::Ended {
                self.seen.closed.insert((self.store.term.unwrap_or_default().epoch, row.leg));
            }
            let simulated = &self.servers[&row.server];
            // A foreign leg under the same name, at a server that has lost ours, is another one.
            let is_it = |leg: &&LegHead| {
                row.boot.is_none_or(|boot| boot == simulated.core.boot())
                    && row.handle.is_none_or(|it| it == leg.handle)
            };
            let live = simulated.live(row.leg).filter(is_it).filter(|live| !self.is_of_lost_key(live));
            match row.state {
                StoredState::Ended => {
                    let known = row.cause == EndCause::Vanished && row.boot == Some(simulated.core.boot());
                    // By its own name, or the one that it had as an orphan: a handle may have gone to another leg.
                    let named = |id: LegId| id == row.leg || row.title.as_str() == format!("adopted from {id}");
                    let tombstone = row.handle.filter(|_| known).and_then(|handle| simulated.core.table().leg(handle));
                    let tombstone = tombstone.filter(|leg| named(leg.head.id));
                    assert!(tombstone.is_none(), "rule 8: closed by absence, but its server has it: {transition:?}");
                    let ended_again = live.is_some_and(|live| self.is_ended_again(transition.before.as_ref(), live));
                    assert!(
                        live.is_none() || ended_again,
                        "rule 8: a live leg was closed: {transition:?}\n{}",
                        self.describe()
                    );
                }
                StoredState::InMeeting if row.boot == Some(simulated.core.boot()) => {
                    if let Some(live) = live {
                        assert!(live.token.epoch >= row.epoch, "rule 7: {transition:?}, but the server has {live:?}");
                    }
                    // Live, or ended since: its end is not forgotten before it is stored.
                    let had = row.handle.and_then(|handle| simulated.core.table().leg(handle));
                    let had = had.is_some_and(|leg| leg.head.id == row.leg);
                    // Or its end was stored, acknowledged, and lost.
                    let end_lost = self.seen.lost.ended.contains(&row.leg);
                    assert!(had || end_lost, "rule 7: {transition:?}, but its server never had it");
                }
                _ => {}
            }
        }
    }

    /// It runs under a key that the database has lost.
    fn is_of_lost_key(&self, live: &LegHead) -> bool {
        self.seen.lost.keys.get(&live.id).is_some_and(|lost| lost.expose() == live.secret.expose())
    }

    /// A client has ended what had never been started, as far as was stored; or its server took the end, which was stored
    /// before this term took the leg over, for a lost command of that number. The next round ends it there.
    fn is_ended_again(&self, before: Option<&StoredLeg>, live: &LegHead) -> bool {
        let lost = &self.seen.lost;
        before.is_some_and(|before| match before.state {
            StoredState::Created => lost.starts.contains(&before.leg),
            StoredState::Ending if !lost.terms.is_empty() => {
                let taken = self.store.legs.get(&before.leg).and_then(|kept| kept.taken.last_key_value());
                taken.is_some_and(|(number, epoch)| *epoch < live.token.epoch && *number <= live.intent)
            }
            _ => false,
        })
    }

    fn meetings_of_lost_keys(&self) -> BTreeSet<MeetingId> {
        let mut meetings = BTreeSet::new();
        for simulated in self.servers.values().filter(|_| !self.seen.lost.keys.is_empty()) {
            let legs = simulated.core.table().legs().filter(|leg| leg.is_live() && self.is_of_lost_key(&leg.head));
            meetings.extend(legs.map(|leg| leg.head.id.meeting));
        }
        meetings
    }

    /// What servers say passes here.
    pub(super) fn tap(&mut self, server: ServerId, packet: &Packet) {
        self.note_told(server, packet);
        if let Message::Event(event) = &packet.message {
            self.note_event(server, event);
        }
        if let Message::CommandAnswer(answer) = &packet.message {
            // Not looked at, or over since: a packet that was late or doubled. Nothing that was carried out.
            let nothing =
                [ErrorCode::NOT_ATTACHED, ErrorCode::ENDED, ErrorCode::UNKNOWN_MEETING, ErrorCode::STALE_INTENT];
            if nothing.contains(&answer.code) {
                return;
            }
            // A lost one, of a scheduler that has not heard of it.
            if !self.store.has_intent(answer.leg, answer.intent) && !self.seen.lost.terms.is_empty() {
                return;
            }
            let said = self.carried_out.entry((server, answer.leg, answer.intent)).or_default();
            let first = *said.entry(answer.boot).or_insert(answer.code);
            let (intent, leg, code) = (answer.intent, answer.leg, answer.code);
            assert_eq!(first, code, "rule 11: a server answered intent {intent} of {leg} in two ways");
        }
    }

    /// Rule 9: a leg of ours that has ended at a server never appears there again.
    fn note_event(&mut self, server: ServerId, event: &Event) {
        let boot = self.servers[&server].core.boot();
        let row = event.changes.iter().find_map(|change| match &change.state {
            RecordState::Present(Record::Leg(row)) if event.previous == 0 => Some(row),
            _ => None,
        });
        // Foreign legs of any name come and go by themselves.
        if row.is_some_and(|row| !row.title.as_str().starts_with("Foreign")) {
            let ended = self.seen.ended.get(&(server, boot, event.leg));
            let again = ended.is_some_and(|handle| *handle != event.handle);
            // Live at its server, and never started as far as is stored: it may end unheard, and be started. Or the end was
            // lost, and told again to who had stored it.
            let lost = &self.seen.lost;
            let start_lost = lost.starts.contains(&event.leg) || lost.ended.contains(&event.leg);
            assert!(!again || start_lost, "rule 9: {} has ended on server {server}, and appears again", event.leg);
            if again {
                self.carried_out.retain(|(_, leg, _), _| *leg != event.leg);
            }
            self.seen.appeared.insert((server, boot, event.handle));
        }
        if event.ended != EndCause::None {
            if self.seen.appeared.contains(&(server, boot, event.handle)) {
                self.seen.ended.insert((server, boot, event.leg), event.handle);
            }
            self.seen.ends.insert((server, event.number), (boot, event.leg, event.handle));
        }
    }

    /// Rule 6: every report adds up, and no leg was forgotten.
    pub(super) fn check_reports(&self) {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        for view in processes.flat_map(|process| process.core.server_views()) {
            for (trigger, report) in &view.reports {
                assert!(report.adds_up(), "rule 6: server {} {trigger:?}: {report:?}", view.id);
                assert!(
                    !report.pending.contains_key("uncounted"),
                    "rule 6: server {} {trigger:?}: {report:?}",
                    view.id
                );
            }
        }
    }

    /// The report that all servers' last rounds of this kind add up to.
    pub(super) fn report(&self, trigger: Trigger) -> remeet::recovery::RoundReport {
        self.core().report(trigger)
    }

    /// For people: where the world stands.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("at {:?}, life {}\n", self.calendar.now(), self.life);
        for difference in self.differences().iter().take(12) {
            let _ = writeln!(text, "- {difference}");
        }
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            let _ = writeln!(text, "{}: life {}, {:?}", node.name, process.life, process.lease);
            for view in process.core.server_views() {
                let _ = writeln!(text, "{view:?}");
            }
            let _ = writeln!(text, "pending {:?}", process.core.pending());
        }
        if std::env::var_os("REMEET_SIM_LOG").is_some() {
            let _ = writeln!(text, "{:#?}", self.process().map(|process| &process.core));
        }
        text
    }
}
