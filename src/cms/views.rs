//! What a client is shown of meetings. Read from the store, which holds what was committed; the core adds
//! whether it may be behind.

#[cfg(test)]
mod tests;

use crate::model::{StoredLeg, StoredState};
use crate::scheduler::Handle;
use crate::store::StoreError;
use remeet_protocol::message::{
    EndCause, LegInfo, ListEnd, ListEntry, ListPage, MeetingEnd, MeetingInfo, MeetingRecords, MeetingState, Message,
};
use remeet_protocol::wire::{Text, pack};
use remeet_protocol::{LegId, MeetingId, ServerId};
use std::collections::BTreeMap;

/// The most entries of a list's page (SPEC K-9).
const ENTRIES_MAX: u16 = 1_000;
/// Entries of a snapshot's page: what a subscriber has in memory until it is sent, some 60 KB.
const SNAPSHOT_ENTRIES: u16 = 500;

/// The store or the scheduler did not answer.
#[derive(Debug)]
pub(super) struct Unavailable(pub String);

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<crate::scheduler::Gone> for Unavailable {
    fn from(gone: crate::scheduler::Gone) -> Self {
        Self(gone.to_string())
    }
}

/// A meeting's state and content, and whether it is still being recovered. `None`: there is none.
pub(super) async fn meeting(
    handle: &Handle,
    meeting: MeetingId,
    update: bool,
) -> Result<Option<(Vec<Message>, bool)>, Unavailable> {
    let rows = handle.store().meeting(meeting).await?;
    let Some(first) = rows.iter().min_by_key(|row| row.leg).cloned() else { return Ok(None) };
    let legs: Vec<LegId> = rows.iter().map(|row| row.leg).collect();
    let servers: Vec<ServerId> = rows.iter().map(|row| row.server).collect();
    // The meeting, then each of its legs by itself: a leg's state is that of a meeting of one.
    let asked = std::iter::once(rows.clone()).chain(rows.into_iter().map(|row| vec![row]));
    let mut derived = handle.derive(asked.collect()).await?.into_iter();
    // Read after that was asked: content from before it could lack what a recovery that is over by then has brought, and
    // no update would follow (SPEC K-7).
    let contents = handle.store().contents(&legs).await?;
    let revision = |leg: LegId| contents.iter().find(|found| found.leg == leg).map_or(0, |found| found.mark.revision);
    let (state, recovering) = derived.next().unwrap_or((MeetingState::Ended, false));
    let infos = legs.iter().zip(servers).zip(derived).map(|((leg, server), (state, _))| LegInfo {
        leg: leg.leg,
        server,
        state,
        revision: revision(*leg),
    });
    let mut legs: Vec<LegInfo> = infos.collect();
    legs.sort_by_key(|info| info.leg);
    let info = MeetingInfo {
        meeting,
        state,
        cause: if state == MeetingState::Ended { first.cause } else { EndCause::None },
        recovering,
        update,
        epoch: handle.epoch(),
        server: first.server,
        number: first.number,
        title: first.title,
        revision: revision(first.leg),
        legs,
    };
    let mut messages = vec![Message::from(info)];
    let mut records = 0;
    for content in contents {
        records += u32::try_from(content.changes.len()).unwrap_or(u32::MAX);
        for changes in pack(content.changes, MeetingRecords::CHANGES_ROOM) {
            messages.push(MeetingRecords { leg: content.leg, changes }.into());
        }
    }
    messages.push(MeetingEnd { meeting, records }.into());
    Ok(Some((messages, recovering)))
}

/// Some of the meetings that are not ended, in ascending order.
#[derive(Debug)]
pub(super) struct Page {
    pub entries: Vec<ListEntry>,
    /// Where the next page begins.
    pub after: MeetingId,
    /// There are no more.
    pub complete: bool,
}

/// One page of the meetings that are not ended.
pub(super) async fn list(handle: &Handle, after: MeetingId, entries_max: u16) -> Result<Vec<Message>, Unavailable> {
    let Page { entries, after, complete } = page(handle, after, entries_max.clamp(1, ENTRIES_MAX)).await?;
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let mut messages: Vec<Message> =
        pack(entries, ListPage::ENTRIES_ROOM).into_iter().map(|entries| ListPage { entries }.into()).collect();
    messages.push(ListEnd { after, entries: count, complete }.into());
    Ok(messages)
}

/// A page of what a new subscriber must know: of all meetings that are not ended, or the one.
pub(super) async fn snapshot(
    handle: &Handle,
    meeting: Option<MeetingId>,
    after: MeetingId,
) -> Result<Page, Unavailable> {
    let Some(meeting) = meeting else { return page(handle, after, SNAPSHOT_ENTRIES).await };
    let rows = handle.store().meeting(meeting).await?;
    let entries = entries(handle, rows).await?;
    Ok(Page { after: entries.last().map_or(after, |entry| entry.meeting), entries, complete: true })
}

async fn page(handle: &Handle, after: MeetingId, max: u16) -> Result<Page, Unavailable> {
    let rows = handle.store().live_legs(after, max).await?;
    let Some(last) = rows.last().map(|row| row.leg.meeting) else {
        return Ok(Page { entries: Vec::new(), after, complete: true });
    };
    // A page that is not full may have left a meeting of several legs to the next.
    let complete = rows.len() < usize::from(max) && handle.store().live_legs(last, 1).await?.is_empty();
    Ok(Page { entries: entries(handle, rows).await?, after: last, complete })
}

async fn entries(handle: &Handle, rows: Vec<StoredLeg>) -> Result<Vec<ListEntry>, Unavailable> {
    let mut meetings: BTreeMap<MeetingId, Vec<StoredLeg>> = BTreeMap::new();
    for row in rows {
        meetings.entry(row.leg.meeting).or_default().push(row);
    }
    let mut entries: Vec<ListEntry> = meetings
        .iter()
        .filter_map(|(meeting, rows)| {
            let first = rows.first()?;
            Some(ListEntry {
                meeting: *meeting,
                state: MeetingState::Ended,
                server: first.server,
                revision: first.mark.revision,
                number: first.number.clone(),
                title: Text::cut(first.title.as_str()),
                legs: u16::try_from(rows.iter().filter(|row| row.state != StoredState::Ended).count())
                    .unwrap_or(u16::MAX),
            })
        })
        .collect();
    let states = handle.derive(meetings.into_values().collect()).await?;
    for (entry, (state, _)) in entries.iter_mut().zip(states) {
        entry.state = state;
    }
    Ok(entries)
}
