//! Pull of a leg's records since a mark (SPEC ).

use super::inventory::PACKETS_MAX;
use super::{Asked, Core, Misbehaviour};
use remeet_protocol::message::{Failure, Message, Pull, PullEnd, PullPage};
use remeet_protocol::record::{Change, Mark};
use remeet_protocol::wire::Wire;
use remeet_protocol::{ErrorCode, Handle};
use std::collections::{BTreeMap, VecDeque};

/// Marks kept for pulls of several pages: the pulls that may be in the midst at once, over all
/// connections. A pull whose mark is gone is begun anew.
const PULLS_MAX: usize = 65_536;

/// The marks at which pulls began that are not complete. A leg's mark at a revision is a fact, so it
/// does not matter who asked.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    marks: BTreeMap<(Handle, u64), Mark>,
    order: VecDeque<(Handle, u64)>,
}

impl Pulls {
    fn keep(&mut self, handle: Handle, mark: Mark) {
        if self.marks.insert((handle, mark.revision), mark).is_none() {
            self.order.push_back((handle, mark.revision));
            if self.order.len() > PULLS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.marks.remove(&oldest);
            }
        }
    }
}

impl Core {
    pub(super) fn pull(&mut self, asked: Asked, pull: &Pull) {
        if self.admit(asked).is_none() {
            return;
        }
        self.stats.pulls += 1;
        match self.pulled(pull) {
            Ok((pages, end)) => {
                self.stats.pulled_changes += u64::from(end.page_changes);
                self.stats.full_pulls += u64::from(end.full && pull.upto == 0);
                let mut messages: Vec<Message> =
                    pages.into_iter().map(|changes| PullPage { leg: pull.leg, changes }.into()).collect();
                messages.push(end.into());
                self.answer(asked, messages);
            }
            Err(code) => self.fail(asked, Failure::new(code, code.sentence())),
        }
    }

    fn pulled(&mut self, pull: &Pull) -> Result<(Vec<Vec<Change>>, PullEnd), ErrorCode> {
        let leg = self.table.leg(pull.handle).filter(|leg| leg.head.id == pull.leg);
        let leg = leg.ok_or(ErrorCode::UNKNOWN_MEETING)?;
        if !leg.is_live() {
            return Err(ErrorCode::ENDED);
        }
        let begins = pull.upto == 0;
        let (full, after) = if begins {
            // Without the removals back to the mark only a full answer tells what is gone (SPEC R-3).
            let full = pull.since == 0 || pull.since < leg.head.floor || pull.since > leg.head.mark.revision;
            (full, if full { 0 } else { pull.since })
        } else {
            (pull.full, pull.after)
        };
        let upto = if begins || pull.upto == leg.head.mark.revision {
            leg.head.mark
        } else {
            *self.pulls.marks.get(&(pull.handle, pull.upto)).ok_or(ErrorCode::CUT_GONE)?
        };
        if !full && after < leg.head.floor {
            return Err(ErrorCode::CUT_GONE); // Removals between two pages were forgotten.
        }
        let most = usize::from(pull.packets_max).clamp(1, PACKETS_MAX);
        let mut end = PullEnd { leg: pull.leg, full, upto, after, page_changes: 0, complete: true };
        let mut pages: Vec<Vec<Change>> = Vec::new();
        let mut used = PullPage::CHANGES_ROOM;
        for change in leg.changes(after, upto.revision, !full) {
            let size = change.encoded_len() + 2;
            if used + size > PullPage::CHANGES_ROOM {
                if pages.len() == most {
                    end.complete = false;
                    break;
                }
                pages.push(Vec::new());
                used = 2;
            }
            used += size;
            end.after = change.revision;
            end.page_changes += 1;
            if let Some(page) = pages.last_mut() {
                page.push(change);
            }
        }
        self.stats.breaches +=
            u64::from(matches!(self.misbehaviour, Misbehaviour::LyingCount | Misbehaviour::EndlessPages));
        match self.misbehaviour {
            Misbehaviour::LyingCount => end.page_changes += 1,
            Misbehaviour::EndlessPages => end.complete = false,
            _ => {}
        }
        if !end.complete {
            self.pulls.keep(pull.handle, upto);
        }
        end.upto = self.told(upto);
        Ok((pages, end))
    }
}
