//! A term begins; a server comes, goes, or is another's: what that means for its legs.

use super::core::{Asked, Core};
use super::leg::Control;
use super::{AlarmKind, Trigger};
use remeet_protocol::message::EventKind;
use remeet_protocol::{BootId, ErrorCode, LegId, ServerId, Token};
use std::collections::BTreeMap;

impl Core {
    pub(super) fn term_began(&mut self, token: Token) {
        self.token = Some(token);
        self.reconcile_at = Some(self.now + self.settings.reconcile_every);
        let up: Vec<ServerId> = self.servers.values().filter(|server| server.up).map(|server| server.id).collect();
        for server in up {
            self.want_round(server, Trigger::Restart);
        }
    }

    pub(super) fn up(&mut self, server: ServerId, boot: BootId) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        let mut orphans = BTreeMap::new();
        if known.last_boot.replace(boot).is_some_and(|before| before != boot) {
            // Event numbers begin anew with a boot id; what was held belongs to a life that is over.
            known.unacknowledged.clear();
            known.strangers.clear();
            known.gaps.clear();
            // Their handles mean nothing in the new table: one that is adopted now would be another leg, or none.
            orphans = std::mem::take(&mut known.orphans);
            for leg in &known.legs {
                if let Some(leg) = self.legs.get_mut(leg) {
                    leg.held.clear();
                }
            }
        }
        known.up = true;
        known.attached = None;
        known.trouble = None;
        known.retry_at = None;
        for orphan in orphans.into_values() {
            self.condition_over(AlarmKind::Orphan, Some(server), Some(orphan.leg));
        }
        self.want_round(server, Trigger::LinkRestored);
    }

    pub(super) fn down(&mut self, server: ServerId, reason: String) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        // Dialling again fails the same way for as long as it lasts: said once.
        if known.up || known.trouble.as_ref() != Some(&reason) {
            tracing::warn!(
                server = server.0,
                "the link is down, the server's meetings go on without command: {reason}"
            );
        }
        known.up = false;
        known.attached = None;
        known.trouble = Some(reason);
        if let Some(round) = known.round.take() {
            known.gaps.extend(round.gaps);
        }
        known.again = None;
        known.retry_at = None;
        // Events that were heard stay: the session hands each up once within a boot id.
        self.control_lost(server, "the link to its server was lost: it is pulled whole when the server is back");
    }

    /// A newer token has attached to the server: its legs are not commanded from here any more. To attach again tells
    /// which token it is, and the lease then asks the database whose term stands.
    pub(super) fn fenced(&mut self, server: ServerId) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        let text = "a newer token has attached to the server";
        known.attached = None;
        known.trouble = Some(text.to_owned());
        tracing::warn!(
            server = server.0,
            "{text}: its meetings are not commanded from here until an attach is granted"
        );
        self.fail_round(server, text);
        self.control_lost(server, "another scheduler commands its server");
        self.want_round_later(server);
    }

    /// Nothing of the server's legs is in hand any more; who waits for a leg to be pulled is told why.
    fn control_lost(&mut self, server: ServerId, why: &str) {
        let Some(known) = self.servers.get_mut(&server) else { return };
        known.pulls.clear();
        known.pulling = 0;
        let legs: Vec<LegId> = known.legs.iter().copied().collect();
        for leg in legs {
            let Some(known) = self.legs.get_mut(&leg) else { continue };
            let was_ours = known.control == Control::Ours;
            known.link_lost();
            self.answer_lifts(leg, ErrorCode::UNREACHABLE, why);
            if was_ours {
                self.publish(leg, EventKind::State, Vec::new());
            }
            self.settle_if_ended(leg);
        }
        self.tickets.retain(|_, asked| *asked != Asked::Round(server));
    }
}
