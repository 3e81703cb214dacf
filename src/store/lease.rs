//! The lease: who may begin a term. It is for liveness only; what keeps two schedulers apart is the fencing (rules 2
//! to 4). All its times are the database's.

use super::StoreError;
use super::fault::Fault;
use super::text::{original, stored};
use remeet_protocol::{Epoch, Holder, Token};
use std::time::Duration;

/// What is asked of the store to begin a term.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The node. The caller holds its file lock: no other process speaks in its name.
    pub node: &'a str,
    /// The random id of this process's life.
    pub holder: Holder,
    /// How long the term's lease lasts unless it is renewed.
    pub lease: Duration,
    /// The new epoch is also above this (design §6, database regressed).
    pub epoch_above: Epoch,
}

/// What became of a [`Candidate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The term began, with its lease.
    Granted(Token),
    /// Another node's lease stands.
    Held(Standing),
}

/// The term that stands, and what its lease has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The term.
    pub token: Token,
    /// The node that it was granted to.
    pub node: String,
    /// What its lease has left, by the database's clock. Zero: it has run out or was released.
    pub remaining: Duration,
}

impl Standing {
    /// Whether a candidate of `node` has to wait.
    #[must_use]
    pub fn keeps_out(&self, node: &str) -> bool {
        !self.remaining.is_zero() && self.node != node
    }
}

/// What a lease of `lasts_ms` has left that ends in `left_ms`. The clock may have been set back, and then a dead lease
/// would stand for as long as it was set back by: what has more left than two such leases has run out. (Not one, so
/// that a small step costs no change of term.)
pub(super) fn remaining(left_ms: i64, lasts_ms: i64) -> Duration {
    if left_ms > lasts_ms.saturating_mul(2) {
        return Duration::ZERO;
    }
    Duration::from_millis(u64::try_from(left_ms.min(lasts_ms)).unwrap_or(0))
}

/// A duration as the database takes it.
pub(super) fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// How long a renewal or a release may take: with two tries before the next is due, it is told in time.
pub(super) fn renewal_span(lease: Duration) -> Duration {
    (lease / 4).clamp(Duration::from_millis(100), Duration::from_secs(2))
}

/// A [`Candidate`] that can be given to a task.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) node: String,
    pub(super) holder: Holder,
    pub(super) lease_ms: i64,
    pub(super) above: i64,
}

impl Asked {
    pub(super) fn of(candidate: Candidate<'_>, doing: &'static str) -> Result<Self, StoreError> {
        let above = candidate.epoch_above;
        let Ok(above) = i64::try_from(above.0) else {
            return Err(StoreError::Broken { doing, reason: format!("no epoch can follow {above}") });
        };
        let lease_ms = milliseconds(candidate.lease);
        Ok(Self { node: candidate.node.to_owned(), holder: candidate.holder, lease_ms, above })
    }

    /// The node as it is stored.
    pub(super) fn stored_node(&self) -> String {
        stored(&self.node)
    }

    pub(super) fn token(&self, epoch: i64) -> Token {
        Token { epoch: Epoch(epoch.cast_unsigned()), holder: self.holder }
    }
}

/// The rows of a term and its lease, as read.
pub(super) struct Rows {
    pub(super) epoch: i64,
    pub(super) holder: Holder,
    pub(super) node: String,
    pub(super) left_ms: i64,
    pub(super) lasts_ms: i64,
}

impl Rows {
    pub(super) fn standing(self) -> Result<Standing, Fault> {
        let Some(node) = original(&self.node) else {
            return Err(Fault::Broken(format!("the term's node {:?} was not written by this program", self.node)));
        };
        Ok(Standing {
            token: Token { epoch: Epoch(self.epoch.cast_unsigned()), holder: self.holder },
            node: node.into_owned(),
            remaining: remaining(self.left_ms, self.lasts_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_on_time_and_a_clock_that_was_set_back_does_not_keep_it() {
        let ms = Duration::from_millis;
        assert_eq!(remaining(5_999, 6_000), ms(5_999));
        assert_eq!(remaining(1, 6_000), ms(1));
        assert_eq!(remaining(0, 6_000), ms(0));
        assert_eq!(remaining(-3_600_000, 6_000), ms(0));
        // Set back a little: nobody takes over for that.
        assert_eq!(remaining(11_000, 6_000), ms(6_000));
        // Set back by an hour.
        assert_eq!(remaining(3_600_000, 6_000), ms(0));
        assert_eq!(remaining(i64::MAX, i64::MAX), ms(i64::MAX.cast_unsigned()));
    }

    #[test]
    fn a_renewal_is_given_a_part_of_the_lease_at_most() {
        assert_eq!(renewal_span(Duration::from_secs(6)), Duration::from_millis(1_500));
        assert_eq!(renewal_span(Duration::from_secs(3_600)), Duration::from_secs(2));
        assert_eq!(renewal_span(Duration::ZERO), Duration::from_millis(100));
    }
}
