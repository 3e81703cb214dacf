//! The autonomous server.

use super::network::{Answer, Packet, Reply, Request};
use super::state::{Fault, Leg, State};
use super::{Part, Recovery, Who};

impl Recovery {
    /// A packet reaches the server.
    pub(crate) fn deliver(&self, state: &mut State, packet: Packet) -> Option<()> {
        let Packet { request, term, boot } = packet;
        if request == Request::Attach {
            return self.attach(state, term);
        }
        if term < state.highest && self.has(Part::Fencing) {
            state.refused = true;
            return Some(());
        }
        // A session ends with the server's restart, and with its table's life.
        if boot != state.boot || (!state.session && term == state.highest) {
            return None;
        }
        let reply = match request {
            Request::Attach => return None,
            Request::Takeover => match state.leg {
                Leg::Live => {
                    self.commanded(state, term);
                    state.owner = term;
                    Reply::TakenOver
                }
                Leg::Tombstone => Reply::Ended,
                Leg::Never | Leg::Forgotten => Reply::Unknown,
            },
            // A command is executed for the token only that started the leg or took it over, and a start is answered for
            // it only.
            Request::Command | Request::End | Request::Start
                if state.leg == Leg::Live && state.owner != term && self.has(Part::Fencing) =>
            {
                return None;
            }
            Request::Start => self.start(state, term),
            Request::Command if state.leg != Leg::Live => return None,
            Request::Command => {
                if !state.seen_command {
                    self.commanded(state, term);
                    if state.executed {
                        state.fault = Some(Fault::ExecutedTwice);
                    }
                    (state.seen_command, state.executed) = (true, true);
                }
                Reply::Done
            }
            Request::End if state.leg == Leg::Live => {
                self.commanded(state, term);
                if state.refused_end {
                    state.fault = Some(Fault::Killed);
                }
                self.ends_itself(state)?;
                Reply::Ended
            }
            Request::End if state.leg == Leg::Tombstone => Reply::Ended,
            Request::End => return None,
            Request::Acknowledge if state.leg == Leg::Tombstone => {
                state.leg = Leg::Forgotten;
                return Some(());
            }
            Request::Acknowledge => return None,
        };
        state.answers.send(reply, term, boot);
        Some(())
    }

    /// Fences every older token. (One that is attached already may attach again.)
    fn attach(&self, state: &mut State, term: u8) -> Option<()> {
        if term < state.highest {
            return None;
        }
        if term > state.highest {
            // Request ids are a token's.
            state.seen_start = false;
        }
        (state.highest, state.session) = (term, true);
        if self.bounds.lease && self.has(Part::Fencing) {
            // Whatever older tokens have under way is refused, and nothing more comes of them.
            let is_command = |packet: &Packet| !matches!(packet.request, Request::Attach | Request::Acknowledge);
            let mut commands = state.packets.iter().filter(is_command);
            state.refused = commands.any(|packet| packet.term < term);
            state.packets.keep(|packet| packet.term >= term);
        }
        state.answers.send(Reply::Attached(state.leg.revision()), term, state.boot);
        if state.leg == Leg::Tombstone {
            state.answers.send(Reply::EndEvent, term, state.boot);
        }
        Some(())
    }

    fn start(&self, state: &mut State, term: u8) -> Reply {
        match state.leg {
            Leg::Live => Reply::Started,
            Leg::Tombstone => Reply::Ended,
            // It ran, and the meeting has ended since (SPEC T-8).
            Leg::Never | Leg::Forgotten if state.seen_start => Reply::Ended,
            Leg::Never | Leg::Forgotten => {
                self.commanded(state, term);
                if state.leg == Leg::Forgotten || state.row.has_ended() {
                    state.fault = Some(Fault::RanTwice);
                }
                (state.leg, state.owner, state.seen_start) = (Leg::Live, term, true);
                Reply::Started
            }
        }
    }

    fn commanded(&self, state: &mut State, term: u8) {
        if term < state.highest {
            state.fault = Some(Fault::StaleCommand);
        }
    }

    pub(crate) fn ends_itself(&self, state: &mut State) -> Option<()> {
        if state.leg != Leg::Live {
            return None;
        }
        // To who is attached. Otherwise it waits for an attach.
        if state.session {
            state.answers.send(Reply::EndEvent, state.highest, state.boot);
        }
        state.leg = if self.has(Part::Tombstones) { Leg::Tombstone } else { Leg::Forgotten };
        // What it was commanded by and had executed is of no use to anybody.
        (state.owner, state.seen_command) = (0, false);
        Some(())
    }

    /// The inventory, as it is now. It changes nothing here, so of several answers to one question one will do: that
    /// another one is received is that this one was not cut.
    pub(crate) fn cut_inventory(&self, state: &mut State, who: Who) -> Option<()> {
        let term = state.of(who).term?;
        let is_inventory = |answer: Answer| answer.term == term && matches!(answer.reply, Reply::Inventory(_));
        if state.of(who).asked.is_none() || state.answers.iter().any(is_inventory) {
            return None;
        }
        state.answers.send(Reply::Inventory(state.leg), term, state.boot);
        Some(())
    }

    pub(crate) fn restart(&self, state: &mut State) -> Option<()> {
        state.session = false;
        if !self.has(Part::ExecutedMemory) {
            (state.seen_start, state.seen_command) = (false, false);
        }
        Some(())
    }

    pub(crate) fn loss(&self, state: &mut State) -> Option<()> {
        if state.boot == self.bounds.losses {
            return None;
        }
        state.boot += 1;
        let boot = state.boot;
        state.packets.keep(|packet| packet.request == Request::Attach || packet.boot == boot);
        state.session = false;
        (state.leg, state.owner) = (Leg::Never, 0);
        // A new life of the table: what was executed in the old one is gone with it.
        (state.seen_start, state.seen_command, state.executed) = (false, false, false);
        Some(())
    }
}
