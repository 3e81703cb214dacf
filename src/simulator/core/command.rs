//! Commands on legs (SPEC C-1 to C-9): fenced by the session, numbered by intent, executed only for the
//! token that started the leg or took it over.

use super::journal::Entry;
use super::leg::LegHead;
use super::roster::Refusal;
use super::{Asked, Core, HELD_MAX};
use crate::guard::{Guard, holds};
use remeet_protocol::message::{Command, CommandAnswer, EndCause, Op, Start};
use remeet_protocol::record::{LegRow, Mark, Record};
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, Handle, Token};

/// What becomes of a command that passed the session's fence.
enum Verdict {
    /// Refused before execution: nothing is kept.
    Refused(ErrorCode, &'static str),
    /// Answered before under the same intent number: the same answer.
    Kept(Box<CommandAnswer>),
    /// A start of a leg that runs under this key already: nothing changes (SPEC C-4).
    Started(Handle),
    /// Executed, or refused by its content: the answer is kept with the leg (SPEC C-6).
    Executed(Handle, Result<(), Refusal>),
}

impl Core {
    pub(super) fn command(&mut self, now_ms: u64, asked: Asked, command: &Command) {
        let Some(token) = self.fenced(asked) else { return };
        if let Some(retry_after_ms) = self.busy_ms {
            self.stats.commands_refused += 1;
            return self.busy(asked, retry_after_ms);
        }
        if self.held.len() >= HELD_MAX {
            // The peer does not acknowledge events: the answers that wait for them may not pile up.
            self.stats.commands_refused += 1;
            return self.busy(asked, 100);
        }
        if !self.in_window(asked) {
            return;
        }
        let verdict = match &command.op {
            Op::Start(start) => self.start(now_ms, token, command, start),
            _ => self.on_leg(now_ms, token, command),
        };
        let answer = match verdict {
            Verdict::Refused(code, detail) => {
                self.stats.commands_refused += 1;
                self.command_answer(command, code, detail)
            }
            Verdict::Kept(kept) => {
                self.stats.duplicates_answered += 1;
                *kept
            }
            Verdict::Started(handle) => {
                self.stats.duplicates_answered += 1;
                CommandAnswer { handle, ..self.command_answer(command, ErrorCode::OK, "") }
            }
            Verdict::Executed(handle, result) => {
                self.stats.commands_executed += 1;
                let (code, detail) = match result {
                    Ok(()) => (ErrorCode::OK, String::new()),
                    Err(Refusal { code, detail }) => (code, detail),
                };
                let answer = CommandAnswer { handle, ..self.command_answer(command, code, &detail) };
                self.journal.note(&Entry::Done(answer.clone()));
                self.keep_answer(answer.clone());
                answer
            }
        };
        let after = self.table.leg(answer.handle).map_or(0, |leg| leg.head.last_event);
        self.answer_after(asked, after, answer.into());
    }

    /// Keeps a command's answer with its leg.
    pub(super) fn keep_answer(&mut self, answer: CommandAnswer) {
        if let Some(leg) = self.table.leg_mut(answer.handle) {
            leg.head.intent = answer.intent;
            leg.head.kept = Some(answer);
        }
    }

    /// The answer with the leg's present mark, or 0 where there is no leg.
    fn command_answer(&self, command: &Command, code: ErrorCode, detail: &str) -> CommandAnswer {
        let leg = self.table.handle(&command.leg).and_then(|handle| self.table.leg(handle));
        CommandAnswer {
            leg: command.leg,
            handle: command.handle,
            intent: command.intent,
            code,
            detail: Text::cut(detail),
            boot: self.boot,
            table_revision: self.table.revision,
            mark: leg.map_or_else(Mark::default, |leg| leg.head.mark),
        }
    }

    /// Start, recognised by the leg's name (SPEC C-4): started already by this token, or taken over, the same answer; by
    /// another, `not attached`; ended, `ended`.
    fn start(&mut self, now_ms: u64, token: Token, command: &Command, start: &Start) -> Verdict {
        if let Some(leg) = self.table.handle(&command.leg).and_then(|handle| self.table.leg(handle)) {
            if !leg.is_live() && holds(Guard::Tombstones) {
                return Verdict::Refused(ErrorCode::ENDED, "the meeting has ended; its tombstone is still here");
            }
            if leg.head.secret != start.secret {
                return Verdict::Refused(ErrorCode::EXISTS, "a leg of this name runs under another secret");
            }
            if leg.is_live() && leg.head.token != token {
                return Verdict::Refused(ErrorCode::NOT_ATTACHED, "it has started; the token has not taken it over");
            }
            return match &leg.head.kept {
                Some(kept) if kept.intent == command.intent => Verdict::Kept(Box::new(kept.clone())),
                _ => Verdict::Started(leg.head.handle),
            };
        }
        if command.intent == 0 {
            return Verdict::Refused(ErrorCode::MALFORMED, "intent numbers begin at 1");
        }
        if self.repeated {
            // It ran, and the meeting has ended since: a repeat has no second effect (SPEC T-8).
            return Verdict::Refused(ErrorCode::ENDED, "this very start was carried out; the meeting has ended since");
        }
        if self.table.is_full() {
            return Verdict::Refused(ErrorCode::TOO_MANY, "the server carries no more legs");
        }
        self.count_execution(token, Token::default());
        let handle = self.table.next_handle();
        let row = LegRow { started_at_ms: now_ms, ..start.row.clone() };
        self.appear(LegHead::new(command.leg, handle, start.secret.clone(), start.generation, token), row);
        Verdict::Executed(handle, Ok(()))
    }

    /// A leg appears, with its leg row as the first revision.
    pub(super) fn appear(&mut self, head: LegHead, row: LegRow) {
        let handle = head.handle;
        self.journal.note(&Entry::Appeared(head.clone()));
        self.table.appear(head);
        if let Some(leg) = self.table.leg_mut(handle) {
            leg.set(Record::Leg(row));
        }
        self.publish(handle, EndCause::None);
    }

    fn on_leg(&mut self, now_ms: u64, token: Token, command: &Command) -> Verdict {
        let Some(leg) = self.table.handle(&command.leg).and_then(|handle| self.table.leg(handle)) else {
            return Verdict::Refused(ErrorCode::UNKNOWN_MEETING, ErrorCode::UNKNOWN_MEETING.sentence());
        };
        let (handle, before) = (leg.head.handle, leg.head.token);
        if command.handle != Handle(0) && command.handle != handle {
            return Verdict::Refused(ErrorCode::UNKNOWN_MEETING, "the leg has another handle: query anew");
        }
        if leg.is_live() && leg.head.token != token {
            return Verdict::Refused(ErrorCode::NOT_ATTACHED, "the token has not taken this leg over");
        }
        if let Some(kept) = &leg.head.kept
            && kept.intent == command.intent
            && holds(Guard::ExecutedMemory)
        {
            return Verdict::Kept(Box::new(kept.clone()));
        }
        if !leg.is_live() {
            return Verdict::Refused(ErrorCode::ENDED, ErrorCode::ENDED.sentence());
        }
        if (command.intent <= leg.head.intent && holds(Guard::ExecutedMemory)) || command.intent == 0 {
            return Verdict::Refused(ErrorCode::STALE_INTENT, ErrorCode::STALE_INTENT.sentence());
        }
        self.count_execution(token, before);
        let Some(leg) = self.table.leg_mut(handle) else {
            return Verdict::Refused(ErrorCode::UNKNOWN_MEETING, "");
        };
        let mut ended = EndCause::None;
        let result = match &command.op {
            // A repeated start is recognised by the leg's name, before it comes here.
            Op::Start(_) => Ok(()),
            Op::End(end) => {
                ended = if end.cause == EndCause::None { EndCause::Commanded } else { end.cause };
                Ok(())
            }
            Op::AddTerminal(op) => leg.add_terminal(now_ms, op),
            Op::RemoveTerminal(op) => leg.remove_terminal(&op.number),
            Op::SetRole(op) => leg.set_role(op),
            Op::SetDecode(op) => leg.set_decode(op),
            Op::SetExtra(op) => leg.set_extra(op),
        };
        self.publish(handle, ended);
        Verdict::Executed(handle, result)
    }
}
