//! The lease by itself, with clocks: what the model of recovery takes as given is shown here, that a holder is
//! sure of its lease only while nobody else can begin a term (rule 5), and that no two terms are alike (rule 1).
//!
//! Every exchange with the database is three steps, asked, executed and answered, between which time may pass;
//! each may be the last. All clocks tick alike: that they may differ is what the margin of a whole second is for.

use super::Who;
use stateright::{Model, Property};

/// Ticks of a lease, counted by the database from the statement's execution.
const LEASE: u8 = 3;
/// Ticks until a holder stops by itself, counted by its own clock.
const SURE: u8 = LEASE - 1;

/// The model of the lease.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// Terms, of both together.
    pub terms: u8,
    /// Renewals that each asks for.
    pub renewals: u8,
    /// Crashes of each.
    pub crashes: u8,
    /// A holder counts from before it asked. Else from the answer: switched off to show that it matters.
    pub from_before: bool,
}

/// An exchange with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Exchange {
    /// For which term; none: to begin one.
    term: Option<u8>,
    /// How long the asker will be sure, if the answer is good: less with every tick.
    sure: u8,
    /// The term that it was executed for; 0: refused.
    executed: Option<u8>,
}

/// One scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Holder {
    term: Option<u8>,
    sure: u8,
    renewals: u8,
    crashes: u8,
    exchange: Option<Exchange>,
}

/// The database and both schedulers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State {
    term: u8,
    node: Option<Who>,
    left: u8,
    holders: [Holder; 2],
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes, for all.
    Tick,
    /// Asks for a term, or for the renewal of its lease.
    Ask(Who),
    /// The database executes that.
    Execute(Who),
    /// The answer comes.
    Answer(Who),
    /// The answer is given up.
    GiveUp(Who),
    /// The process dies and starts anew.
    Crash(Who),
}

impl State {
    fn is_sure(&self, who: Who) -> bool {
        self.holders[who.index()].sure > 0
    }
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        for who in Who::BOTH {
            actions.extend(
                [Action::Ask, Action::Execute, Action::Answer, Action::GiveUp, Action::Crash].map(|action| action(who)),
            );
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        match action {
            Action::Tick => {
                next.left = next.left.saturating_sub(1);
                for holder in &mut next.holders {
                    holder.sure = holder.sure.saturating_sub(1);
                    if let Some(exchange) = holder.exchange.as_mut().filter(|_| self.from_before) {
                        exchange.sure = exchange.sure.saturating_sub(1);
                    }
                }
            }
            Action::Ask(who) => {
                let holder = &mut next.holders[who.index()];
                if holder.exchange.is_some() || (holder.term.is_some() && holder.renewals == self.renewals) {
                    return None;
                }
                holder.renewals += u8::from(holder.term.is_some());
                holder.exchange = Some(Exchange { term: holder.term, sure: SURE, executed: None });
            }
            Action::Execute(who) => {
                let exchange = last.holders[who.index()].exchange.filter(|exchange| exchange.executed.is_none())?;
                let is_free = last.left == 0 || last.node == Some(who);
                let term = match exchange.term {
                    None if is_free && last.term < self.terms => last.term + 1,
                    Some(term) if term == last.term => term,
                    _ => 0,
                };
                if term > 0 {
                    (next.term, next.node, next.left) = (term, Some(who), LEASE);
                }
                next.holders[who.index()].exchange = Some(Exchange { executed: Some(term), ..exchange });
            }
            Action::Answer(who) => {
                let exchange = last.holders[who.index()].exchange?;
                let holder = &mut next.holders[who.index()];
                holder.exchange = None;
                match exchange.executed? {
                    // Refused: a holder is none any more.
                    0 => (holder.term, holder.sure, holder.renewals) = (None, 0, 0),
                    term => (holder.term, holder.sure) = (Some(term), holder.sure.max(exchange.sure)),
                }
            }
            Action::GiveUp(who) => next.holders[who.index()].exchange = None,
            Action::Crash(who) => {
                let crashes = last.holders[who.index()].crashes;
                if crashes == self.crashes {
                    return None;
                }
                next.holders[who.index()] = Holder { crashes: crashes + 1, ..Holder::default() };
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("rule 1: no two hold one term", |_, state: &State| {
                let [a, b] = state.holders;
                a.term.is_none() || a.term != b.term
            }),
            Property::always(
                "rule 5: who is sure of its lease holds the term, and nobody can take it",
                |_, state: &State| {
                    let holds = |holder: &Holder| holder.term == Some(state.term) && state.left > 0;
                    state.holders.iter().all(|holder| holder.sure == 0 || holds(holder))
                },
            ),
            Property::sometimes("a holder that was replaced believes in its term yet", |_, state: &State| {
                state.holders.iter().any(|holder| holder.term.is_some_and(|term| term < state.term))
            }),
            Property::sometimes("a third term is held and sure", |_, state: &State| {
                state.term == 3 && (state.is_sure(Who::A) || state.is_sure(Who::B))
            }),
        ]
    }
}
