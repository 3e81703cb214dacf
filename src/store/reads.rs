//! What both databases read, put together from a few statements. Each function runs in one transaction.

use super::fault::Fault;
use super::judge::{Fact, Facts};
use super::records::Table;
use super::rows::{Bad, Versions};
use super::settle::{Asked, Evidence, Found as Settled};
use super::text::stored;
use super::{BadRow, Found, Instance, LEGS_CHUNK, LookUp};
use crate::model::{ClientAnswerRow, Intent, LegContent, RecoveryKey, StoredLeg};
use foldhash::fast::RandomState;
use remeet_protocol::record::{Mark, Number};
use remeet_protocol::{BootId, Change, Handle, LegId, MeetingId, ServerId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// A control row with its key; or why the row, or only the key, cannot be read.
pub(super) type LegRow = Result<(StoredLeg, Result<Option<RecoveryKey>, Bad>), BadRow>;
/// Where legs are found in a list: looked up for every row.
type Places = HashMap<LegId, usize, RandomState>;
/// Where a page of legs ended.
pub(super) type After = (Uuid, i32);

/// A value of a leg, or why it cannot be read.
pub(super) type OfLeg<T> = (LegId, Result<T, Bad>);
/// Where a leg's content is of, and up to where it goes.
pub(super) type Marked = OfLeg<(Option<(BootId, Handle)>, Mark)>;

/// The reading statements, on a connection in a transaction. Lists of legs have at most [`LEGS_CHUNK`] items.
pub(super) trait Tables: Send {
    /// The named legs.
    fn named(&mut self, legs: &[LegId]) -> impl Future<Output = Result<Vec<LegRow>, Fault>> + Send;
    /// The legs that are not ended, in ascending order: of one server or of all, behind `after`, at most `limit`;
    /// and where the page ended.
    fn live(
        &mut self,
        server: Option<ServerId>,
        after: After,
        limit: usize,
    ) -> impl Future<Output = Result<(Vec<LegRow>, Option<After>), Fault>> + Send;
    /// The legs of a meeting, in ascending order.
    fn of_meeting(&mut self, meeting: MeetingId) -> impl Future<Output = Result<Vec<LegRow>, Fault>> + Send;
    /// The legs' open intents, in ascending order of number, or which could not be read.
    fn open_intents(
        &mut self,
        legs: &[LegId],
    ) -> impl Future<Output = Result<Vec<Result<Intent, BadRow>>, Fault>> + Send;
    /// Those of the intent numbers that are taken, by an intent that is there or by one that was done and pruned.
    fn taken(&mut self, numbers: &[(LegId, u64)]) -> impl Future<Output = Result<Vec<(LegId, u64)>, Fault>> + Send;
    /// Intents by number, each with whether it is open. One that cannot be read is absent.
    fn numbered(&mut self, numbers: &[(LegId, u64)])
    -> impl Future<Output = Result<Vec<(Intent, bool)>, Fault>> + Send;
    /// The legs' versions, whatever else the rows hold.
    fn versions(&mut self, legs: &[LegId]) -> impl Future<Output = Result<Vec<Versions>, Fault>> + Send;
    /// The legs' places and marks.
    fn marks(&mut self, legs: &[LegId]) -> impl Future<Output = Result<Vec<Marked>, Fault>> + Send;
    /// The legs' records of one table.
    fn records(
        &mut self,
        table: Table,
        legs: &[LegId],
    ) -> impl Future<Output = Result<Vec<OfLeg<Change>>, Fault>> + Send;
    /// An instance's kept answers, in ascending order of number.
    fn answers(&mut self, instance: u64) -> impl Future<Output = Result<Vec<ClientAnswerRow>, Fault>> + Send;
    /// Up to which number an instance's answers are pruned.
    fn pruned(&mut self, instance: u64) -> impl Future<Output = Result<u64, Fault>> + Send;
    /// Legs of the meeting on whose roster the terminal is, in ascending order; its number as it is stored.
    fn roster(&mut self, meeting: MeetingId, terminal: &str) -> impl Future<Output = Result<Vec<LegId>, Fault>> + Send;
    /// An instance's open intents: command number, leg, intent number.
    fn open_of_instance(&mut self, instance: u64)
    -> impl Future<Output = Result<Vec<(u64, LegId, u64)>, Fault>> + Send;
}

/// The named legs, and a server's that are not ended.
pub(super) async fn look_up(
    tables: &mut impl Tables,
    server: Option<ServerId>,
    legs: &[LegId],
) -> Result<LookUp, Fault> {
    let mut rows: Vec<LegRow> = Vec::new();
    if server.is_some() {
        let mut after = (Uuid::nil(), -1);
        loop {
            let (page, last) = tables.live(server, after, LEGS_CHUNK).await?;
            let whole = page.len() < LEGS_CHUNK;
            rows.extend(page);
            match last {
                Some(last) if !whole => after = last,
                _ => break,
            }
        }
    }
    // What was found so is not read once more by name: after a restart that is nearly all.
    let known: HashSet<LegId, RandomState> = rows.iter().filter_map(|row| Some(row.as_ref().ok()?.0.leg)).collect();
    let others: Vec<LegId> = legs.iter().copied().filter(|leg| !known.contains(leg)).collect();
    for legs in others.chunks(LEGS_CHUNK) {
        rows.extend(tables.named(legs).await?);
    }
    let mut look_up = LookUp::default();
    let mut spoilt: HashSet<String> = HashSet::new();
    let mut places: Places = Places::with_capacity_and_hasher(rows.len(), RandomState::default());
    look_up.found.reserve_exact(rows.len());
    for row in rows {
        // A leg whose key cannot be read is not one without a key.
        let row = row.and_then(|(row, key)| match key {
            Ok(key) => Ok((row, key)),
            Err(reason) => Err(BadRow { leg: row.leg.to_string(), reason: format!("recovery key: {reason}") }),
        });
        match row {
            Ok((row, key)) => {
                if let Entry::Vacant(place) = places.entry(row.leg) {
                    place.insert(look_up.found.len());
                    look_up.found.push(Found { row, key, open: Vec::new() });
                }
            }
            Err(bad) if spoilt.insert(bad.leg.clone()) => look_up.bad.push(bad),
            Err(_) => {}
        }
    }
    let found: Vec<LegId> = look_up.found.iter().map(|found| found.row.leg).collect();
    spoilt.clear();
    for legs in found.chunks(LEGS_CHUNK) {
        for intent in tables.open_intents(legs).await? {
            match intent {
                Ok(intent) => {
                    if let Some(place) = places.get(&intent.leg) {
                        look_up.found[*place].open.push(intent);
                    }
                }
                Err(bad) if spoilt.insert(bad.leg.clone()) => look_up.bad.push(bad),
                Err(_) => {}
            }
        }
    }
    // A leg with an intent that cannot be read cannot be commanded in order.
    if !spoilt.is_empty() {
        look_up.found.retain(|found| !spoilt.contains(&found.row.leg.to_string()));
    }
    Ok(look_up)
}

/// Marks and records.
pub(super) async fn contents(tables: &mut impl Tables, legs: &[LegId]) -> Result<Vec<LegContent>, Fault> {
    let mut contents: Vec<LegContent> = Vec::with_capacity(legs.len());
    let mut places: Places = Places::with_capacity_and_hasher(legs.len(), RandomState::default());
    for (leg, marked) in tables.marks(legs).await? {
        places.insert(leg, contents.len());
        let (place, mark) = marked.unwrap_or_else(|reason| (None, unreadable(leg, &reason)));
        contents.push(LegContent { leg, place, mark, changes: Vec::new() });
    }
    for table in Table::ALL {
        for (leg, change) in tables.records(table, legs).await? {
            let Some(content) = places.get(&leg).map(|place| &mut contents[*place]) else { continue };
            match change {
                Ok(change) => content.changes.push(change),
                Err(reason) => content.mark = unreadable(leg, &reason),
            }
        }
    }
    Ok(contents)
}

/// The mark of a leg with a row that cannot be read: zero, so that everything is pulled anew and replaced.
fn unreadable(leg: LegId, reason: &str) -> Mark {
    tracing::error!(%leg, reason, "a stored row cannot be read: the leg's content counts as not stored");
    Mark::default()
}

/// Control rows that could be read; the others are named in the log.
fn readable(rows: Vec<LegRow>) -> Vec<StoredLeg> {
    let read = |row: LegRow| match row {
        Ok((row, _)) => Some(row),
        Err(BadRow { leg, reason }) => {
            tracing::error!(leg, reason, "a control row cannot be read and is left out");
            None
        }
    };
    rows.into_iter().filter_map(read).collect()
}

/// The legs of a meeting.
pub(super) async fn meeting(tables: &mut impl Tables, meeting: MeetingId) -> Result<Vec<StoredLeg>, Fault> {
    Ok(readable(tables.of_meeting(meeting).await?))
}

/// A page of legs that are not ended. A meeting is cut only if it alone has more legs than fit.
pub(super) async fn live_legs(tables: &mut impl Tables, after: MeetingId, max: u16) -> Result<Vec<StoredLeg>, Fault> {
    let max = usize::from(max);
    // Behind every leg of that meeting.
    let mut after = (after.0, i32::MAX);
    loop {
        let (page, last) = tables.live(None, after, max + 1).await?;
        let whole = page.len() <= max;
        let mut legs = readable(page);
        if !whole && let Some(last) = legs.last().map(|leg| leg.leg.meeting) {
            let before = legs.iter().take_while(|leg| leg.leg.meeting != last).count();
            legs.truncate(if before > 0 { before } else { max });
        }
        match last {
            // A page of unreadable rows only is not the end.
            Some(last) if legs.is_empty() && !whole => after = last,
            _ => return Ok(legs),
        }
    }
}

/// What is kept of a client's instance.
pub(super) async fn instance(tables: &mut impl Tables, instance: u64) -> Result<Instance, Fault> {
    Ok(Instance {
        answers: tables.answers(instance).await?,
        pruned: tables.pruned(instance).await?,
        open: tables.open_of_instance(instance).await?,
    })
}

/// Legs of the meeting on whose roster the terminal is.
pub(super) async fn roster(
    tables: &mut impl Tables,
    meeting: MeetingId,
    terminal: &Number,
) -> Result<Vec<LegId>, Fault> {
    tables.roster(meeting, &stored(terminal.as_str())).await
}

/// What decides about units.
pub(super) async fn facts(tables: &mut impl Tables, asked: &Asked) -> Result<Facts, Fault> {
    let mut facts = Facts::new();
    for legs in asked.legs.chunks(LEGS_CHUNK) {
        for Versions { leg, version, .. } in tables.versions(legs).await? {
            facts.insert(leg, Fact { version, state: None, key: None, taken: HashSet::new() });
        }
        for (row, key) in tables.named(legs).await?.into_iter().flatten() {
            if let Some(fact) = facts.get_mut(&row.leg) {
                fact.state = Some(row.state);
                fact.key = key.ok().flatten().map(|key| (key.generation, *key.secret.expose()));
            }
        }
    }
    for numbers in asked.intents.chunks(LEGS_CHUNK) {
        for (leg, number) in tables.taken(numbers).await? {
            if let Some(fact) = facts.get_mut(&leg) {
                fact.taken.insert(number);
            }
        }
    }
    Ok(facts)
}

/// What tells after an unknown commit what stands. The versions have been raised in the same transaction.
pub(super) async fn evidence(tables: &mut impl Tables, asked: &Asked) -> Result<Settled, Fault> {
    let mut found = Settled::default();
    for versions in tables.versions(&asked.legs).await? {
        let evidence = Evidence {
            row: None,
            key: None,
            version: versions.version,
            state_version: versions.state_version,
            intents_pruned: versions.intents_pruned,
            intents: Vec::new(),
            content: Vec::new(),
        };
        found.legs.insert(versions.leg, evidence);
    }
    for (row, key) in tables.named(&asked.legs).await?.into_iter().flatten() {
        if let Some(leg) = found.legs.get_mut(&row.leg) {
            (leg.row, leg.key) = (Some(row), key.ok().flatten());
        }
    }
    for numbers in asked.intents.chunks(LEGS_CHUNK) {
        for (intent, open) in tables.numbered(numbers).await? {
            if let Some(leg) = found.legs.get_mut(&intent.leg) {
                leg.intents.push((intent, open));
            }
        }
    }
    if !asked.contents.is_empty() {
        for table in Table::ALL {
            for (leg, change) in tables.records(table, &asked.contents).await? {
                if let (Some(leg), Ok(change)) = (found.legs.get_mut(&leg), change) {
                    leg.content.push(change);
                }
            }
        }
    }
    for instance in &asked.instances {
        found.answers.extend(tables.answers(*instance).await?.into_iter().map(|answer| answer.command));
        found.pruned.insert(*instance, tables.pruned(*instance).await?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::model::StoredState;
    use futures_util::FutureExt as _;
    use remeet_protocol::{DomainId, Secret, wire::Text};

    /// Legs of a server, in order, and others; and which were asked for by name.
    #[derive(Default)]
    struct Shelf {
        live: Vec<LegRow>,
        others: Vec<LegRow>,
        named: Vec<LegId>,
        pages: usize,
    }

    fn leg_id(number: usize) -> LegId {
        LegId { meeting: MeetingId(Uuid::from_u128(number as u128 + 1)), leg: 0 }
    }

    fn row(number: usize) -> LegRow {
        let key = RecoveryKey {
            leg: leg_id(number),
            domain: DomainId(7),
            server: ServerId(1),
            secret: Secret::new([1; 16]),
            generation: 1,
            number: Text::cut("9"),
            title: Text::cut(""),
            creator: Text::cut("1"),
            creator_name: Text::cut(""),
            made_at_ms: 0,
        };
        Ok((StoredLeg::new(&key, StoredState::InMeeting), Ok(Some(key))))
    }

    fn bad(number: usize) -> LegRow {
        Err(BadRow { leg: leg_id(number).to_string(), reason: "spoilt".to_owned() })
    }

    fn name(row: &LegRow) -> LegId {
        match row {
            Ok((row, _)) => row.leg,
            Err(bad) => (0..).map(leg_id).find(|leg| leg.to_string() == bad.leg).unwrap(),
        }
    }

    impl Tables for Shelf {
        async fn named(&mut self, legs: &[LegId]) -> Result<Vec<LegRow>, Fault> {
            assert!(legs.len() <= LEGS_CHUNK);
            self.named.extend(legs);
            let all = self.live.iter().chain(&self.others);
            Ok(all.filter(|row| legs.contains(&name(row))).cloned().collect())
        }
        async fn live(
            &mut self,
            _: Option<ServerId>,
            after: After,
            limit: usize,
        ) -> Result<(Vec<LegRow>, Option<After>), Fault> {
            self.pages += 1;
            let behind = |row: &&LegRow| (name(row).meeting.0, i32::from(name(row).leg)) > after;
            let page: Vec<LegRow> = self.live.iter().filter(behind).take(limit).cloned().collect();
            let last = page.last().map(|row| (name(row).meeting.0, i32::from(name(row).leg)));
            Ok((page, last))
        }
        async fn open_intents(&mut self, legs: &[LegId]) -> Result<Vec<Result<Intent, BadRow>>, Fault> {
            assert!(legs.len() <= LEGS_CHUNK);
            Ok(Vec::new())
        }
        async fn of_meeting(&mut self, _: MeetingId) -> Result<Vec<LegRow>, Fault> {
            Ok(Vec::new())
        }
        async fn taken(&mut self, _: &[(LegId, u64)]) -> Result<Vec<(LegId, u64)>, Fault> {
            Ok(Vec::new())
        }
        async fn numbered(&mut self, _: &[(LegId, u64)]) -> Result<Vec<(Intent, bool)>, Fault> {
            Ok(Vec::new())
        }
        async fn versions(&mut self, _: &[LegId]) -> Result<Vec<Versions>, Fault> {
            Ok(Vec::new())
        }
        async fn marks(&mut self, _: &[LegId]) -> Result<Vec<Marked>, Fault> {
            Ok(Vec::new())
        }
        async fn records(&mut self, _: Table, _: &[LegId]) -> Result<Vec<OfLeg<Change>>, Fault> {
            Ok(Vec::new())
        }
        async fn answers(&mut self, _: u64) -> Result<Vec<ClientAnswerRow>, Fault> {
            Ok(Vec::new())
        }
        async fn pruned(&mut self, _: u64) -> Result<u64, Fault> {
            Ok(0)
        }
        async fn roster(&mut self, _: MeetingId, _: &str) -> Result<Vec<LegId>, Fault> {
            Ok(Vec::new())
        }
        async fn open_of_instance(&mut self, _: u64) -> Result<Vec<(u64, LegId, u64)>, Fault> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_look_up_asks_by_name_only_for_what_the_servers_live_legs_did_not_bring() {
        // Legs 1 and 4 cannot be read, 5 is another server's (or has ended), 6 is stored nowhere.
        let live = vec![row(0), bad(1), row(2), row(3)];
        let mut shelf = Shelf { live, others: vec![bad(4), row(5)], ..Shelf::default() };
        let asked: Vec<LegId> = (0..7).map(leg_id).collect();
        let found = look_up(&mut shelf, Some(ServerId(1)), &asked).now_or_never().unwrap().unwrap();
        assert_eq!(shelf.named, [1, 4, 5, 6].map(leg_id));
        assert_eq!(found.found.iter().map(|found| found.row.leg).collect::<Vec<_>>(), [0, 2, 3, 5].map(leg_id));
        let mut spoilt: Vec<&str> = found.bad.iter().map(|bad| bad.leg.as_str()).collect();
        spoilt.sort_unstable();
        assert_eq!(spoilt, [leg_id(1).to_string(), leg_id(4).to_string()], "each is named once");
    }

    #[test]
    fn a_look_up_of_more_legs_than_a_page_holds_brings_each_once() {
        let count = LEGS_CHUNK + 5;
        let mut shelf = Shelf { live: (0..count).map(row).collect(), ..Shelf::default() };
        let asked: Vec<LegId> = (0..count).map(leg_id).collect();
        let found = look_up(&mut shelf, Some(ServerId(1)), &asked).now_or_never().unwrap().unwrap();
        assert_eq!((shelf.named.len(), shelf.pages), (0, 2));
        let legs: Vec<LegId> = found.found.iter().map(|found| found.row.leg).collect();
        assert_eq!(legs, asked);
    }
}
