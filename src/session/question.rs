//! One question to a server: the packet that asks it, what a right answer is, what its asker hears.

use super::inventory::InventoryReading;
use super::pull::PullReading;
use super::takeover::TakeoverAsk;
use super::{Heard, Request, RequestError, Settings, Ticket};
use remeet_protocol::message::{Adopt, Attach, Command, Message};
use remeet_protocol::packet::Header;
use remeet_protocol::{BootId, ErrorCode, Flags, Token};
use std::collections::VecDeque;

/// Order of sending. Lower lanes go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Attach, inventory: everything else waits for what they bring.
    Urgent = 0,
    /// Takeovers: control of all legs comes before everything else on them.
    Takeover = 1,
    /// Commands and adoptions.
    Command = 2,
    /// Pulls.
    Pull = 3,
}

impl Lane {
    /// Every lane, first to last.
    pub(super) const ALL: [Lane; 4] = [Lane::Urgent, Lane::Takeover, Lane::Command, Lane::Pull];

    /// Whether what it holds needs an attached session.
    pub(super) fn needs_control(self) -> bool {
        self != Lane::Urgent
    }
}

/// What a packet of an answer did to its question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing new.
    Repeat,
    /// A new part; others are missing.
    Part,
    /// The last part, but others are missing.
    Holes,
    /// Ask again under a fresh id: what has come is of no use, or only a part of it was answered.
    Afresh,
    /// This page is whole; ask for the next one.
    Next,
    /// The answer is whole, its asker has heard it.
    Done,
    /// The answer breaks a rule.
    Broken(String),
}

/// A question that waits or is in flight.
#[derive(Debug)]
pub(super) enum Question {
    Attach(Token),
    Inventory(Box<InventoryReading>),
    Takeover(TakeoverAsk),
    Pull(Box<PullReading>),
    Command(Box<Command>),
    Adopt(Box<Adopt>),
}

impl Question {
    /// The questions that a request comes to: one, but for takeovers of more legs than fit a packet.
    pub(super) fn from_request(request: Request, settings: &Settings) -> Vec<Question> {
        match request {
            Request::Inventory => vec![Question::Inventory(Box::new(InventoryReading::new(settings.packets_max)))],
            Request::Attach(token) => vec![Question::Attach(token)],
            Request::Takeover(claims) => TakeoverAsk::split(claims).into_iter().map(Question::Takeover).collect(),
            Request::Pull { handle, leg, since } => {
                vec![Question::Pull(Box::new(PullReading::new(handle, leg, since, settings.packets_max)))]
            }
            Request::Command(command) => vec![Question::Command(Box::new(command))],
            Request::Adopt(adopt) => vec![Question::Adopt(Box::new(adopt))],
        }
    }

    /// Whether it stands and falls with the token: everything but an inventory.
    pub(super) fn needs_token(&self) -> bool {
        !matches!(self, Question::Inventory(_))
    }

    pub(super) fn lane(&self) -> Lane {
        match self {
            Question::Attach(_) | Question::Inventory(_) => Lane::Urgent,
            Question::Takeover(_) => Lane::Takeover,
            Question::Command(_) | Question::Adopt(_) => Lane::Command,
            Question::Pull(_) => Lane::Pull,
        }
    }

    /// The packet's message that asks it now.
    pub(super) fn message(&self) -> Message {
        match self {
            Question::Attach(token) => Attach { token: *token }.into(),
            Question::Inventory(reading) => reading.query().into(),
            Question::Takeover(ask) => ask.takeover().into(),
            Question::Pull(reading) => reading.pull().into(),
            Question::Command(command) => (**command).clone().into(),
            Question::Adopt(adopt) => (**adopt).clone().into(),
        }
    }

    /// Takes a packet of the answer. What is whole goes to `heard`.
    pub(super) fn answer(
        &mut self,
        ticket: Ticket,
        header: &Header,
        message: Message,
        settings: &Settings,
        heard: &mut VecDeque<Heard>,
    ) -> Step {
        match (self, message) {
            (Question::Inventory(reading), message) => match reading.answer(header, message, settings) {
                Ok(inventory) => {
                    heard.push_back(Heard::Inventory(ticket, Ok(inventory)));
                    Step::Done
                }
                Err(step) => step,
            },
            (Question::Pull(reading), message) => match reading.answer(header, message, settings) {
                Ok(page) => {
                    let step = if page.complete.is_some() { Step::Done } else { Step::Next };
                    heard.push_back(Heard::Pulled(ticket, Ok(page)));
                    step
                }
                Err(step) => step,
            },
            (Question::Takeover(ask), message) => {
                let (results, step) = ask.answer(header, message, settings);
                heard.extend(results.map(|results| Heard::Takeover(ticket, Ok(results))));
                step
            }
            (_, message) if header.flags != Flags::FINAL_ANSWER || header.index != 0 => {
                Step::Broken(format!("{} as a part of an answer that has one packet", message.name()))
            }
            (Question::Attach(_), Message::Attached(attached)) if attached.session == 0 => {
                Step::Broken("session number 0, which stands for no session".into())
            }
            (Question::Attach(_), Message::Attached(attached)) => {
                heard.push_back(Heard::Attached(ticket, Ok(attached)));
                Step::Done
            }
            (Question::Command(command), Message::CommandAnswer(answer)) => {
                if (answer.leg, answer.intent) != (command.leg, command.intent) {
                    return Step::Broken(format!(
                        "the answer is for intent {} of leg {}, asked was {} of {}",
                        answer.intent, answer.leg, command.intent, command.leg
                    ));
                }
                heard.push_back(Heard::Commanded(ticket, Ok(answer)));
                Step::Done
            }
            (Question::Adopt(_), Message::AdoptAnswer(answer)) => {
                heard.push_back(Heard::Adopted(ticket, Ok(answer)));
                Step::Done
            }
            (question, message) => {
                Step::Broken(format!("{} as the answer to {}", message.name(), question.message().name()))
            }
        }
    }

    /// Prepares the question to be sent again.
    pub(super) fn again(&mut self) {
        match self {
            Question::Inventory(reading) => reading.again(),
            Question::Pull(reading) => reading.again(),
            Question::Attach(_) | Question::Takeover(_) | Question::Command(_) | Question::Adopt(_) => {}
        }
    }

    /// Whether many packets answer it: then a repeat takes a fresh request id, so that no two answers mix
    /// (SPEC M-5).
    pub(super) fn is_paged(&self) -> bool {
        matches!(self, Question::Inventory(_) | Question::Pull(_))
    }

    /// Whether part of an answer has come.
    pub(super) fn has_part(&self) -> bool {
        match self {
            Question::Inventory(reading) => reading.has_part(),
            Question::Pull(reading) => reading.has_part(),
            Question::Takeover(ask) => ask.has_part(),
            Question::Attach(_) | Question::Command(_) | Question::Adopt(_) => false,
        }
    }

    /// What the asker hears when it came to nothing.
    pub(super) fn failed(self, ticket: Ticket, error: RequestError) -> Heard {
        match self {
            Question::Attach(_) => Heard::Attached(ticket, Err(error)),
            Question::Inventory(_) => Heard::Inventory(ticket, Err(error)),
            Question::Takeover(ask) => Heard::Takeover(ticket, Err((ask.legs(), error))),
            Question::Pull(_) => Heard::Pulled(ticket, Err(error)),
            Question::Command(_) => Heard::Commanded(ticket, Err(error)),
            Question::Adopt(_) => Heard::Adopted(ticket, Err(error)),
        }
    }
}

/// Whether an answer says that a newer token has attached (SPEC T-4, T-6).
pub(super) fn is_stale(message: &Message) -> bool {
    let stale = |code| code == ErrorCode::STALE_TOKEN;
    match message {
        Message::TakeoverAnswer(answer) => answer.results.iter().any(|result| stale(result.code)),
        Message::CommandAnswer(answer) => stale(answer.code),
        Message::AdoptAnswer(answer) => stale(answer.code),
        _ => false,
    }
}

/// The life of the table that an answer speaks of. A refusal need not name one.
pub(super) fn boot_of(message: &Message) -> Option<BootId> {
    match message {
        Message::InventoryEnd(end) => Some(end.boot),
        Message::Attached(attached) => Some(attached.boot),
        Message::TakeoverAnswer(answer) => Some(answer.boot),
        Message::CommandAnswer(answer) if answer.code.is_ok() => Some(answer.boot),
        Message::AdoptAnswer(answer) if answer.code.is_ok() => Some(answer.boot),
        _ => None,
    }
}
