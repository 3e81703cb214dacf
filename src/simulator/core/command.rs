//! Commands on legs (SPEC C-1 to C-9): fenced by the session, numbered by intent, executed only for the
//! token that started the leg or took it over.

use super::attach::Admission;
use super::journal::Entry;
use super::leg::LegHead;
use super::roster::Refusal;
use super::{Asked, Core, HELD_MAX};
use remeet_protocol::message::{Command, CommandAnswer, EndCause, Op, Start};
use remeet_protocol::record::{LegRow, Mark, Record};
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, Handle, Token};

/// What becomes of a command that passed the session's fence.
enum Verdict {
    /// Refused before execution: nothing is kept.
    Refused(ErrorCode, &'static str),
    /// Answered before: the same answer.
    Kept(Box<CommandAnswer>),
    /// Executed, well or not: the answer is kept with the leg.
    Executed(Handle, Result<(), Refusal>),
}

impl Core {
    pub(super) fn command(&mut self, now_ms: u64, asked: Asked, command: Command) {
        let token = match self.admit(asked) {
            Admission::Do(token) => token,
            // An id that was used for another command is the peer's mistake: intents decide then.
            Admission::Again(_, Some(kept)) if kept.leg == command.leg && kept.intent == command.intent => {
                return self.answer_kept(asked, *kept);
            }
            Admission::Again(token, _) => token,
            Admission::Answered => return,
        };
        if let Some(retry_after_ms) = self.busy_ms {
            self.stats.commands_refused += 1;
            return self.busy(asked, retry_after_ms);
        }
        if self.held.len() >= HELD_MAX {
            // The peer does not acknowledge events: their answers may not pile up.
            self.stats.commands_refused += 1;
            return self.busy(asked, 100);
        }
        let verdict = match &command.op {
            Op::Start(start) => self.start(now_ms, token, &command, start),
            _ => self.on_leg(now_ms, token, &command),
        };
        match verdict {
            Verdict::Refused(code, detail) => {
                self.stats.commands_refused += 1;
                let answer = self.command_answer(&command, command.handle, Mark::default(), code, detail);
                self.answer(asked, vec![answer.into()]);
            }
            Verdict::Kept(kept) => {
                self.stats.duplicates_answered += 1;
                self.answer_kept(asked, *kept);
            }
            Verdict::Executed(handle, result) => {
                self.stats.commands_executed += 1;
                let (code, detail) = match result {
                    Ok(()) => (ErrorCode::OK, String::new()),
                    Err(Refusal { code, detail }) => (code, detail),
                };
                let Some(head) = self.table.leg(handle).map(|leg| &leg.head) else { return };
                let (mark, after) = (head.mark, head.last_event);
                let answer = self.command_answer(&command, handle, mark, code, &detail);
                self.journal.note(&Entry::Done(asked.header.request, answer.clone()));
                self.keep_answer(asked.header.request, answer.clone());
                self.answer_after(asked, after, answer.into());
            }
        }
    }

    fn answer_kept(&mut self, asked: Asked, kept: CommandAnswer) {
        let after = self.table.leg(kept.handle).map_or(0, |leg| leg.head.last_event);
        self.answer_after(asked, after, kept.into());
    }

    /// Keeps a command's answer with its leg and in the window.
    pub(super) fn keep_answer(&mut self, request: u64, answer: CommandAnswer) {
        if let Some(leg) = self.table.leg_mut(answer.handle)
            && answer.intent >= leg.head.intent
        {
            leg.head.intent = answer.intent;
            leg.head.kept = Some(answer.clone());
        }
        self.window.note(request, Some(answer));
    }

    fn command_answer(
        &self,
        command: &Command,
        handle: Handle,
        mark: Mark,
        code: ErrorCode,
        detail: &str,
    ) -> CommandAnswer {
        CommandAnswer {
            leg: command.leg,
            handle,
            intent: command.intent,
            code,
            detail: Text::cut(detail),
            boot: self.boot,
            table_revision: self.table.revision,
            mark,
        }
    }

    /// Start, recognised by the leg's name: started already, the same answer; ended, `ended`.
    fn start(&mut self, now_ms: u64, token: Token, command: &Command, start: &Start) -> Verdict {
        if let Some(leg) = self.table.handle(&command.leg).and_then(|handle| self.table.leg(handle)) {
            if !leg.is_live() {
                return Verdict::Refused(ErrorCode::ENDED, "the meeting has ended; its tombstone is still here");
            }
            if leg.head.secret != start.secret {
                return Verdict::Refused(ErrorCode::BAD_KEY, "a leg of this name runs under another secret");
            }
            if let Some(kept) = &leg.head.kept
                && kept.intent == command.intent
                && leg.head.token == token
            {
                return Verdict::Kept(Box::new(kept.clone()));
            }
            // The secret in the start proves as much as a takeover does.
            let (handle, before) = (leg.head.handle, leg.head.token);
            self.count_execution(token, before);
            self.journal.note(&Entry::Taken(0, token, vec![handle]));
            self.give(handle, token);
            return Verdict::Executed(handle, Ok(()));
        }
        if command.intent == 0 {
            return Verdict::Refused(ErrorCode::MALFORMED, "intent numbers begin at 1");
        }
        if self.table.is_full() {
            return Verdict::Refused(ErrorCode::TOO_MANY, "the server carries no more legs");
        }
        self.count_execution(token, Token::default());
        let handle = self.table.next_handle();
        let row = LegRow { started_at_ms: now_ms, ..start.row.clone() };
        self.appear(
            LegHead {
                id: command.leg,
                handle,
                secret: start.secret.clone(),
                generation: start.generation,
                token,
                mark: Mark::default(),
                ended: EndCause::None,
                intent: 0,
                kept: None,
                last_event: 0,
                floor: 0,
            },
            row,
        );
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
        {
            return Verdict::Kept(Box::new(kept.clone()));
        }
        if !leg.is_live() {
            return Verdict::Refused(ErrorCode::ENDED, ErrorCode::ENDED.sentence());
        }
        if command.intent <= leg.head.intent {
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
