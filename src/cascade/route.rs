//! Which leg a command on a terminal is for (SPEC K-16).

use remeet_protocol::DomainId;
use remeet_protocol::message::ClientOp;
use remeet_protocol::record::Number;

/// A leg that a command may go to: it is started and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The leg's number.
    pub leg: u16,
    /// The domain of its server.
    pub domain: DomainId,
    /// The terminal is being called into it: told to its server, and not on its stored roster yet.
    pub called: bool,
    /// The terminal is on its stored roster.
    pub listed: bool,
}

/// The terminal that an operation is about; `None`: it is about the meeting.
#[must_use]
pub fn terminal_of(op: &ClientOp) -> Option<&Number> {
    match op {
        ClientOp::AddTerminal(op) => Some(&op.number),
        ClientOp::RemoveTerminal(op) => Some(&op.number),
        ClientOp::SetRole(op) => Some(&op.number),
        ClientOp::SetDecode(op) => Some(&op.number),
        ClientOp::SetExtra(op) => Some(&op.number),
        ClientOp::Create(_)
        | ClientOp::Start
        | ClientOp::End
        | ClientOp::Mark(_)
        | ClientOp::Adopt(_)
        | ClientOp::AddLeg(_) => None,
    }
}

/// The leg that an operation on a terminal is carried out on: the one that has it, the lowest of several; for a new
/// terminal the lowest in its home domain, else the lowest. `None`: no leg has it, and the operation calls none.
/// `legs` are in ascending order.
#[must_use]
pub fn owner_of(op: &ClientOp, legs: &[Candidate]) -> Option<u16> {
    let first = |fits: &dyn Fn(&Candidate) -> bool| legs.iter().find(|leg| fits(leg)).map(|leg| leg.leg);
    let owner = first(&|leg| leg.called).or_else(|| first(&|leg| leg.listed));
    match op {
        ClientOp::AddTerminal(add) => {
            owner.or_else(|| first(&|leg| leg.domain == add.home_domain)).or_else(|| first(&|_| true))
        }
        _ => owner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remeet_protocol::message::{AddTerminal, RemoveTerminal};
    use remeet_protocol::record::LeaveReason;
    use remeet_protocol::wire::Text;

    fn add(home: u32) -> ClientOp {
        ClientOp::AddTerminal(AddTerminal {
            number: Number::cut("601"),
            home_domain: DomainId(home),
            name: Text::default(),
        })
    }

    fn remove() -> ClientOp {
        ClientOp::RemoveTerminal(RemoveTerminal { number: Number::cut("601"), reason: LeaveReason::Removed })
    }

    fn leg(leg: u16, domain: u32) -> Candidate {
        Candidate { leg, domain: DomainId(domain), called: false, listed: false }
    }

    #[test]
    fn a_terminal_on_a_roster_is_commanded_there_the_lowest_leg_of_several() {
        let listed = |number, domain| Candidate { listed: true, ..leg(number, domain) };
        let legs = [leg(0, 1), listed(1, 2), listed(4, 3)];
        assert_eq!(owner_of(&remove(), &legs), Some(1));
        assert_eq!(owner_of(&add(3), &legs), Some(1), "it is called again where it is");
    }

    #[test]
    fn a_terminal_that_is_being_called_is_commanded_where_it_is_called() {
        let legs = [Candidate { listed: true, ..leg(0, 1) }, Candidate { called: true, ..leg(2, 2) }];
        assert_eq!(owner_of(&remove(), &legs), Some(2));
    }

    #[test]
    fn a_new_terminal_goes_to_its_home_domain_else_to_the_lowest_leg() {
        let legs = [leg(0, 1), leg(3, 2), leg(5, 2)];
        assert_eq!(owner_of(&add(2), &legs), Some(3));
        assert_eq!(owner_of(&add(9), &legs), Some(0));
        assert_eq!(owner_of(&add(2), &[]), None);
    }

    #[test]
    fn an_operation_on_a_terminal_that_no_leg_has_has_no_owner() {
        assert_eq!(owner_of(&remove(), &[leg(0, 1), leg(1, 2)]), None);
    }
}
