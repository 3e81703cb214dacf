//! What a client is shown of meetings. Read from the store, which holds what was committed; the core adds
//! whether it may be behind.

use crate::model::StoredLeg;
use crate::scheduler::Handle;
use crate::store::StoreError;
use remeet_protocol::message::{
    EndCause, ListEnd, ListEntry, ListPage, MeetingEnd, MeetingInfo, MeetingRecords, MeetingState, Message,
};
use remeet_protocol::wire::{Text, pack};
use remeet_protocol::{LegId, MeetingId};
use std::collections::BTreeMap;

/// The most entries of a list's page (SPEC K-9).
const ENTRIES_MAX: u16 = 1_000;

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
    let contents = handle.store().contents(&legs).await?;
    let derived = handle.derive(vec![rows]).await?;
    let (state, recovering) = derived.first().copied().unwrap_or((MeetingState::Ended, false));
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
        revision: contents.iter().find(|content| content.leg == first.leg).map_or(0, |content| content.mark.revision),
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

/// One page of the meetings that are not ended.
pub(super) async fn list(handle: &Handle, after: MeetingId, entries_max: u16) -> Result<Vec<Message>, Unavailable> {
    let max = entries_max.clamp(1, ENTRIES_MAX);
    let rows = handle.store().live_legs(after, max).await?;
    let complete = rows.len() < usize::from(max);
    let entries = entries(handle, rows).await?;
    let after = entries.last().map_or(after, |entry| entry.meeting);
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let mut messages: Vec<Message> =
        pack(entries, ListPage::ENTRIES_ROOM).into_iter().map(|entries| ListPage { entries }.into()).collect();
    messages.push(ListEnd { after, entries: count, complete }.into());
    Ok(messages)
}

/// Everything that a new subscriber must know: all meetings that are not ended, or one.
pub(super) async fn snapshot(handle: &Handle, meeting: Option<MeetingId>) -> Result<Vec<Message>, Unavailable> {
    let mut messages = Vec::new();
    let mut total = 0;
    let mut after = MeetingId::default();
    loop {
        let rows = match meeting {
            Some(meeting) => handle.store().meeting(meeting).await?,
            None => handle.store().live_legs(after, ENTRIES_MAX).await?,
        };
        let complete = meeting.is_some() || rows.len() < usize::from(ENTRIES_MAX);
        let entries = entries(handle, rows).await?;
        after = entries.last().map_or(after, |entry| entry.meeting);
        total += u32::try_from(entries.len()).unwrap_or(u32::MAX);
        messages.extend(
            pack(entries, ListPage::ENTRIES_ROOM).into_iter().map(|entries| Message::from(ListPage { entries })),
        );
        if complete {
            messages.push(ListEnd { after, entries: total, complete: true }.into());
            return Ok(messages);
        }
    }
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
            })
        })
        .collect();
    let states = handle.derive(meetings.into_values().collect()).await?;
    for (entry, (state, _)) in entries.iter_mut().zip(states) {
        entry.state = state;
    }
    Ok(entries)
}
