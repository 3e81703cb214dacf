//! Takeovers: many claims, a packet each 14, every claim answered once.

use super::pages::{Added, Pages};
use super::question::Step;
use super::{Settings, TakeoverResults};
use remeet_protocol::message::{Message, Takeover, TakeoverClaim, TakeoverResult};
use remeet_protocol::packet::Header;
use remeet_protocol::wire::{Wire, pack};
use remeet_protocol::{Handle, LegId};

/// Claims a packet. 17 would fit, but a result is longer than a claim (72 bytes in its list against 60),
/// and an answer of 14 results still fits one packet: 26 + 14 × 70 = 1006 of 1024 bytes.
pub(super) const CLAIMS_MAX: usize = 14;

/// One packet's claims, those not answered yet.
#[derive(Debug)]
pub(super) struct TakeoverAsk {
    claims: Vec<TakeoverClaim>,
    answered: Vec<(Handle, LegId)>,
    rounds: u32,
    pages: Pages,
}

impl TakeoverAsk {
    /// Splits claims into packets.
    pub(super) fn split(claims: Vec<TakeoverClaim>) -> Vec<TakeoverAsk> {
        let Some(first) = claims.first() else { return Vec::new() };
        let room = 2 + CLAIMS_MAX * (2 + first.encoded_len());
        pack(claims, room)
            .into_iter()
            .map(|claims| Self { claims, answered: Vec::new(), rounds: 0, pages: Pages::default() })
            .collect()
    }

    pub(super) fn takeover(&self) -> Takeover {
        Takeover { claims: self.claims.clone() }
    }

    /// Legs not answered yet.
    pub(super) fn legs(&self) -> Vec<LegId> {
        self.claims.iter().map(|claim| claim.leg).collect()
    }

    pub(super) fn has_part(&self) -> bool {
        !self.pages.is_empty()
    }

    pub(super) fn answer(
        &mut self,
        header: &Header,
        message: Message,
        settings: &Settings,
    ) -> (Option<TakeoverResults>, Step) {
        let Message::TakeoverAnswer(answer) = &message else {
            return (None, Step::Broken(format!("{} as the answer to Takeover", message.name())));
        };
        let (boot, table_revision) = (answer.boot, answer.table_revision);
        let given = answer.results.clone();
        let index_max = u32::try_from(self.claims.len() + self.answered.len()).unwrap_or(u32::MAX);
        let mut added = self.pages.add(header, message, index_max);
        if added == Added::Changed {
            // A repeat that the server answered anew: each result stands for itself.
            self.pages.clear();
            added = Added::Part;
        }
        if let Added::Broken(reason) = added {
            return (None, Step::Broken(reason));
        }
        let (results, foreign) = self.settle(given);
        let results = (!results.is_empty()).then_some(TakeoverResults { boot, table_revision, results });
        let step = match (foreign, added) {
            (Some(foreign), _) => Step::Broken(format!("a takeover result for leg {foreign}, which was not asked")),
            (None, _) if self.claims.is_empty() => Step::Done,
            (None, Added::Whole) => self.next_round(settings),
            (None, Added::Holes) => Step::Holes,
            (None, Added::Repeat) => Step::Repeat,
            (None, _) => Step::Part,
        };
        (results, step)
    }

    /// Sorts results to their claims. A result for no claim is named, and ends it.
    fn settle(&mut self, given: Vec<TakeoverResult>) -> (Vec<TakeoverResult>, Option<LegId>) {
        let mut results = Vec::new();
        for result in given {
            let name = (result.handle, result.leg);
            if let Some(place) = self.claims.iter().position(|claim| (claim.handle, claim.leg) == name) {
                self.claims.remove(place);
                self.answered.push(name);
                results.push(result);
            } else if !self.answered.contains(&name) {
                return (results, Some(result.leg));
            }
        }
        (results, None)
    }

    /// The answer is whole, yet leaves claims out: these are asked again.
    fn next_round(&mut self, settings: &Settings) -> Step {
        self.pages.clear();
        self.rounds += 1;
        if self.rounds >= settings.takeover_rounds_max {
            return Step::Broken(format!("takeover answers left out {} claims again and again", self.claims.len()));
        }
        Step::Afresh
    }
}
