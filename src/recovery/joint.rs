//! Commands on all legs of a meeting: start and end (SPEC K-15). What they do is committed in one unit, under one
//! command's id; the client is answered with the result of the last leg, by what the legs then are. So the answer is
//! right also if a crash came between two results.

use super::commands::Waiting;
use super::core::{After, Core, lane};
use super::leg::OpenIntent;
use super::meetings::leg_row;
use crate::model::{CommandId, StoredState};
use crate::store::{Expect, StateWrite, Unit, Write};
use remeet_protocol::message::{ClientOp, End, EndCause, Op, Start};
use remeet_protocol::{ErrorCode, LegId, MeetingId};

/// What a command on all legs does with one.
enum Step {
    Start,
    End,
    /// Not started, so no server need be told.
    Close,
    /// It is as the command wants it, or is becoming so.
    Nothing,
    /// It cannot be commanded now.
    Blocked,
}

impl Core {
    /// Whether the command is about several legs.
    pub(super) fn is_joint(&self, waiting: &Waiting) -> bool {
        let all = matches!(waiting.command.op, ClientOp::Start | ClientOp::End);
        all && self.live_legs_of(waiting.command.meeting).len() > 1
    }

    fn step(&self, leg: LegId, ends: bool) -> Step {
        let Some(known) = self.legs.get(&leg) else { return Step::Nothing };
        let attached = self.servers.get(&known.row.server).is_some_and(|server| server.attached.is_some());
        match (ends, known.row.state) {
            (_, StoredState::Ended | StoredState::Ending) | (false, StoredState::InMeeting) => Step::Nothing,
            (false, StoredState::Created) if attached && known.unstarted.is_some() => Step::Start,
            (true, StoredState::Created) => Step::Close,
            (true, StoredState::InMeeting) if known.is_ours(self.token) => Step::End,
            _ => Step::Blocked,
        }
    }

    /// Carries a start or an end out on every leg of the meeting. `late`: legs that cannot be commanded now have been
    /// waited for; the others need not wait longer.
    pub(super) fn joint(&mut self, meeting: MeetingId, waiting: Waiting, late: bool) {
        let ends = matches!(waiting.command.op, ClientOp::End);
        let steps: Vec<(LegId, Step)> =
            self.live_legs_of(meeting).into_iter().map(|leg| (leg, self.step(leg, ends))).collect();
        let blocked = steps.iter().find(|(_, step)| matches!(step, Step::Blocked)).map(|(leg, _)| *leg);
        let acts = steps.iter().any(|(_, step)| matches!(step, Step::Start | Step::End | Step::Close));
        match blocked {
            Some(leg) if !late => return self.wait(leg, waiting),
            Some(leg) if !acts => return self.refuse_late(leg, &waiting),
            None if !acts => {
                let (code, detail) = if ends {
                    (ErrorCode::WRONG_STATE, "the meeting is being ended")
                } else {
                    (ErrorCode::OK, "it had started")
                };
                return self.refuse(&waiting, code, detail);
            }
            _ => {}
        }
        let mut unit = Unit { writes: Vec::new() };
        let mut after = Vec::new();
        let mut intents = Vec::new();
        for (leg, step) in steps {
            match step {
                Step::Start => intents.extend(self.start_of(leg).map(|op| (leg, op, StoredState::Starting))),
                Step::End => {
                    let cause = if waiting.rights.operator { EndCause::Operator } else { EndCause::Commanded };
                    intents.push((leg, Op::End(End { cause }), StoredState::Ending));
                }
                Step::Close => {
                    unit.writes.extend(self.close_created(leg));
                    after.push(After::Closed { leg, answer: None });
                }
                Step::Nothing | Step::Blocked => {}
            }
        }
        let command = CommandId::from(&waiting.command);
        let mut open = Vec::new();
        for (leg, op, state) in intents {
            let Some((intent, writes)) = self.new_intent(leg, op, Some(command), Some(state)) else { continue };
            unit.writes.extend(writes);
            after.push(After::Intent(leg, intent.number));
            open.push((leg, intent));
        }
        if open.is_empty() {
            // Nothing was started of what is closed: no server is asked, and no result follows.
            let (code, detail) = self.joint_result(meeting, ends, None, ErrorCode::OK, "");
            let answer = super::instances::answer(&waiting.command, code, &detail, meeting);
            unit.writes.push(Write::Answer(self.answer_row(&answer)));
            // With a close it may be lost: then nobody is told that it was done.
            match after.last_mut() {
                Some(After::Closed { answer: told, .. }) => *told = Some(Box::new(answer)),
                _ => after.push(After::Answered { leg: None, answer: Some(Box::new(answer)) }),
            }
        }
        let closes: Vec<LegId> = after
            .iter()
            .filter_map(|one| if let After::Closed { leg, .. } = one { Some(*leg) } else { None })
            .collect();
        let id = self.persist(lane(LegId { meeting, leg: 0 }), unit, After::All(after));
        for leg in closes {
            if let Some(known) = self.legs.get_mut(&leg) {
                known.closing = Some(id);
            }
        }
        for (leg, intent) in open {
            if let Some(known) = self.legs.get_mut(&leg) {
                known.open.push(OpenIntent::storing(intent, id));
            }
            self.send_open(leg);
        }
    }

    /// What starts a leg that is created. Its key leaves memory with that.
    pub(super) fn start_of(&mut self, leg: LegId) -> Option<Op> {
        let key = self.legs.get_mut(&leg)?.unstarted.take()?;
        Some(Op::Start(Start { secret: key.secret.clone(), generation: key.generation, row: leg_row(&key) }))
    }

    /// Ends a leg that was never started, in memory at once, its secret gone; the caller hands the write to the store and
    /// notes that persist as [`Leg::closing`](super::leg::Leg::closing).
    pub(super) fn close_created(&mut self, leg: LegId) -> Option<Write> {
        let known = self.legs.get_mut(&leg)?;
        let expect = Expect { version: known.row.version, state: known.row.state };
        let cause = EndCause::Commanded;
        known.row.state = StoredState::Ended;
        known.row.cause = cause;
        known.row.version += 1;
        known.unstarted = None;
        Some(Write::State(StateWrite { leg, expect, state: StoredState::Ended, cause, accepted: None }))
    }

    /// What a client is told with the result of `of`, whose result is `code`; `None`: another leg's result is still
    /// to come, and it is told with that.
    pub(super) fn result_of(
        &self,
        of: LegId,
        open: &OpenIntent,
        code: ErrorCode,
        detail: &str,
    ) -> Option<(ErrorCode, String)> {
        let all = matches!(open.intent.op, Op::Start(_) | Op::End(_));
        let siblings: Vec<LegId> = self.legs_of(of.meeting).into_iter().filter(|leg| all && *leg != of).collect();
        if siblings.is_empty() {
            return Some((code, detail.to_owned()));
        }
        let same = |other: &OpenIntent| other.intent.command == open.intent.command;
        let more = |leg: &LegId| self.legs.get(leg).is_some_and(|known| known.open.iter().any(same));
        if siblings.iter().any(more) {
            return None;
        }
        Some(self.joint_result(of.meeting, matches!(open.intent.op, Op::End(_)), Some(of), code, detail))
    }

    /// A command on all legs is done when every leg is as it wants; else the answer names those that are not.
    fn joint_result(
        &self,
        meeting: MeetingId,
        ends: bool,
        of: Option<LegId>,
        code: ErrorCode,
        detail: &str,
    ) -> (ErrorCode, String) {
        let mut left = Vec::new();
        let mut why = if code.is_ok() { None } else { Some(code) };
        if let (Some(leg), Some(code)) = (of, why) {
            left.push(format!("leg {} was refused: {code} {detail}", leg.leg));
        }
        for leg in self.live_legs_of(meeting).into_iter().filter(|leg| Some(*leg) != of) {
            let Some(known) = self.legs.get(&leg) else { continue };
            let fits = known.row.state == StoredState::Ending || (!ends && known.row.state == StoredState::InMeeting);
            if fits {
                continue;
            }
            let up = self.servers.get(&known.row.server).is_some_and(|server| server.up);
            let state = if up { known.row.state.name() } else { "unreachable" };
            left.push(format!("leg {} on server {} is {state}", leg.leg, known.row.server.0));
            why = why.or(Some(ErrorCode::PARTLY));
        }
        match why {
            None => (ErrorCode::OK, detail.to_owned()),
            Some(why) => (why, format!("{}; the other legs are done", left.join(", "))),
        }
    }

    /// Whether an open start or end of the meeting must know the other legs before it is sent.
    pub(super) fn awaits_siblings(&self, meeting: MeetingId) -> bool {
        self.legs_of(meeting).iter().any(|leg| self.legs.get(leg).is_some_and(|known| known.unsent))
    }

    /// The client's answer to a start or an end is about all legs: they must be in memory when its result comes.
    pub(super) fn needs_siblings(&self, leg: LegId, open: &OpenIntent) -> bool {
        let all = matches!(open.intent.op, Op::Start(_) | Op::End(_)) && open.intent.command.is_some();
        all && open.asked.is_none() && !self.is_whole(leg.meeting)
    }
}
