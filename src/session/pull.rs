//! What a right answer to a pull is (SPEC ): changes of one leg, ascending by revision, up to
//! the revision at the pull's start.
//!
//! Parts of two answers are never put together (SPEC M-5): a record that changed between them is left out
//! of the second, which splits it otherwise. A page that came in part is asked again whole, under a fresh
//! id, in fewer packets (which a link that loses packets needs).

use super::pages::{Added, Pages};
use super::question::Step;
use super::{PulledPage, Settings};
use remeet_protocol::message::{Message, Pull, PullEnd, PullPage};
use remeet_protocol::packet::Header;
use remeet_protocol::record::{Mark, RecordState};
use remeet_protocol::{Change, Flags, Handle, LegId};

/// The fewest packets asked for: below, the ends outweigh the content.
const PACKETS_MIN: u16 = 4;

/// A pull that is being read.
#[derive(Debug)]
pub(super) struct PullReading {
    handle: Handle,
    leg: LegId,
    since: u64,
    packets_max: u16,
    /// Known from the first page's end on.
    upto: Option<Mark>,
    full: bool,
    after: u64,
    changes: u64,
    pages_read: u32,
    pages: Pages,
}

impl PullReading {
    pub(super) fn new(handle: Handle, leg: LegId, since: u64, packets_max: u16) -> Self {
        Self {
            handle,
            leg,
            since,
            packets_max,
            upto: None,
            full: false,
            after: since,
            changes: 0,
            pages_read: 0,
            pages: Pages::default(),
        }
    }

    pub(super) fn pull(&self) -> Pull {
        Pull {
            handle: self.handle,
            leg: self.leg,
            since: self.since,
            upto: self.upto.map_or(0, |mark| mark.revision),
            after: self.after,
            full: self.full,
            packets_max: self.packets_max,
        }
    }

    pub(super) fn has_part(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Before a repeat: what came of the older answer is dropped.
    pub(super) fn again(&mut self) {
        if self.has_part() {
            self.pages.clear();
            self.packets_max = (self.packets_max / 2).max(PACKETS_MIN);
        }
    }

    pub(super) fn answer(
        &mut self,
        header: &Header,
        message: Message,
        settings: &Settings,
    ) -> Result<PulledPage, Step> {
        let (leg, end) = match &message {
            Message::PullPage(page) => (page.leg, false),
            Message::PullEnd(end) => (end.leg, true),
            other => return Err(Step::Broken(format!("{} as the answer to Pull", other.name()))),
        };
        if leg != self.leg {
            return Err(Step::Broken(format!("records of leg {leg} as the answer to a pull of {}", self.leg)));
        }
        if header.flags.has(Flags::LAST) != end {
            return Err(Step::Broken("LAST belongs on the pull's end, and only there".into()));
        }
        match self.pages.add(header, message, u32::from(self.packets_max)) {
            Added::Whole => self.page(settings),
            Added::Part => Err(Step::Part),
            Added::Holes => Err(Step::Holes),
            Added::Repeat => Err(Step::Repeat),
            Added::Changed => Err(Step::Afresh),
            Added::Broken(reason) => Err(Step::Broken(reason)),
        }
    }

    fn page(&mut self, settings: &Settings) -> Result<PulledPage, Step> {
        let mut packets = self.pages.take();
        let Some(Message::PullEnd(end)) = packets.pop() else {
            return Err(Step::Broken("a pull's answer without its end".into()));
        };
        let mut changes = Vec::new();
        for packet in packets {
            let Message::PullPage(PullPage { changes: more, .. }) = packet else {
                return Err(Step::Broken("two ends in one answer of a pull".into()));
            };
            changes.extend(more);
        }
        self.check(&end, &changes, settings).map_err(Step::Broken)?;
        self.upto = Some(end.upto);
        self.full = end.full;
        self.after = end.after;
        Ok(PulledPage { leg: self.leg, changes, full: end.full, complete: end.complete.then_some(end.upto) })
    }

    fn check(&mut self, end: &PullEnd, changes: &[Change], settings: &Settings) -> Result<(), String> {
        if self.since == 0 && !end.full {
            return Err("a pull since 0 that is not full".into());
        }
        if end.full && changes.iter().any(|change| matches!(change.state, RecordState::Removed(_))) {
            return Err("a removal in a full pull".into());
        }
        // The first page of a pull that turns out to be full begins at 0, whatever was asked (SPEC R-4).
        let from = if self.upto.is_none() && end.full { 0 } else { self.after };
        if u64::from(end.page_changes) != changes.len() as u64 {
            return Err(format!("the end counts {} changes in its page, {} came", end.page_changes, changes.len()));
        }
        if self.upto.is_some_and(|upto| upto != end.upto || self.full != end.full) {
            return Err("pages of one pull name different ends, or are full and not full".into());
        }
        let mut last = from;
        for change in changes {
            if change.revision <= last || change.revision > end.upto.revision {
                return Err(format!(
                    "revision {} after {last} in a pull up to {}: changes ascend up to there",
                    change.revision, end.upto.revision
                ));
            }
            last = change.revision;
        }
        self.changes += changes.len() as u64;
        self.pages_read += 1;
        if self.changes > settings.pull_changes_max {
            return Err(format!("a pull of more than {} changes", settings.pull_changes_max));
        }
        if end.complete {
            return Ok(());
        }
        if end.after <= from || end.after < last || end.after > end.upto.revision {
            return Err(format!("a page from revision {from} leads on to {}: it does not advance", end.after));
        }
        if self.pages_read >= settings.pages_max {
            return Err(format!("more than {} pages", settings.pages_max));
        }
        Ok(())
    }
}
