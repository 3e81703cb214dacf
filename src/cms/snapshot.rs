//! A subscriber's snapshot on its way: read and sent a page at a time, so that neither many subscribers nor many
//! meetings need more memory than a page each (rule 17).

use super::envelope::Envelope;
use super::views::{self, Page, Unavailable};
use crate::scheduler::Handle;
use remeet_protocol::message::{ListEnd, ListPage};
use remeet_protocol::wire::pack;
use remeet_protocol::{MeetingId, Message, Packet};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Pages that are read at a time, over all connections: after a restart every subscriber comes at once. The store
/// has a handful of connections for reads; more readers would wait there, before those of a round.
pub(super) const PAGES_AT_A_TIME: usize = 4;

/// See the module's page.
pub(super) struct Snapshot {
    source: Source,
    /// It answers the `Subscribe`; else it follows a `Reset`, as notices.
    is_answer: bool,
    /// The next packet's index.
    index: u32,
    entries: u32,
    /// A task of its own: what it holds of the store is let go of however slowly the client reads.
    page: AbortOnDropHandle<Result<Page, Unavailable>>,
}

/// What it is read from.
#[derive(Clone)]
pub(super) struct Source {
    pub handle: Handle,
    pub turns: Arc<Semaphore>,
    /// One meeting only, or all.
    pub meeting: Option<MeetingId>,
}

impl Source {
    fn read(&self, after: MeetingId) -> AbortOnDropHandle<Result<Page, Unavailable>> {
        let Self { handle, turns, meeting } = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let _turn = turns.acquire().await.map_err(|_| Unavailable("the scheduler stops".to_owned()))?;
            views::snapshot(&handle, meeting, after).await
        }))
    }
}

impl Snapshot {
    /// Begins to read. Its first packet has index `index`.
    pub(super) fn begin(source: Source, is_answer: bool, index: u32) -> Self {
        let page = source.read(MeetingId::default());
        Self { source, is_answer, index, entries: 0, page }
    }

    /// The page that is being read; never, if there is no snapshot. Cancel-safe; once it is there, it must be taken.
    pub(super) async fn page(snapshot: &mut Option<Self>) -> Result<Page, Unavailable> {
        match snapshot {
            Some(snapshot) => match (&mut snapshot.page).await {
                Ok(page) => page,
                Err(error) => Err(Unavailable(format!("a snapshot's page was not read: {error}"))),
            },
            None => std::future::pending().await,
        }
    }

    /// The page's packets, and the snapshot if more of it is to come.
    pub(super) fn take(mut self, page: Page, envelope: Envelope) -> (Vec<Packet>, Option<Self>) {
        let Page { entries, after, complete } = page;
        self.entries = self.entries.saturating_add(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        let mut messages: Vec<Message> =
            pack(entries, ListPage::ENTRIES_ROOM).into_iter().map(|entries| ListPage { entries }.into()).collect();
        if complete {
            messages.push(ListEnd { after, entries: self.entries, complete }.into());
        }
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let packets = if self.is_answer {
            envelope.part(messages, self.index, complete)
        } else {
            envelope.notices(messages, self.index, complete)
        };
        if complete {
            return (packets, None);
        }
        self.index = self.index.saturating_add(count);
        self.page = self.source.read(after);
        (packets, Some(self))
    }
}
