//! The state of a meeting, derived from its legs'.

use crate::model::{StoredLeg, StoredState};
use remeet_protocol::message::MeetingState;
use remeet_protocol::{Epoch, ServerId};

/// How a leg stands: what its state is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegStands {
    /// The row's state.
    pub state: StoredState,
    /// The term that accepted it last.
    pub epoch: Epoch,
    /// Where it runs.
    pub server: ServerId,
}

impl From<&StoredLeg> for LegStands {
    fn from(row: &StoredLeg) -> Self {
        Self { state: row.state, epoch: row.epoch, server: row.server }
    }
}

/// A leg's state as clients see it. `epoch` is the current term; `reachable`: whether the leg's server answers.
pub(crate) fn leg_state(leg: LegStands, epoch: Epoch, reachable: bool) -> MeetingState {
    match leg.state {
        StoredState::Created | StoredState::Ending | StoredState::Ended => leg.state.of_meeting(),
        _ if !reachable => MeetingState::Unreachable,
        StoredState::InMeeting if leg.epoch != epoch => MeetingState::Recovering,
        _ => leg.state.of_meeting(),
    }
}

/// A meeting's state as clients see it (design §2, SPEC K-14): in-meeting when every leg that is not ended is, partly
/// when some are, ended when all are; else that of the leg in the most trouble.
///
/// `epoch` is the current term; `reachable` says whether a server answers.
pub fn meeting_state(
    legs: impl IntoIterator<Item = LegStands>,
    epoch: Epoch,
    reachable: impl Fn(ServerId) -> bool,
) -> MeetingState {
    derived(legs.into_iter().map(|leg| leg_state(leg, epoch, reachable(leg.server))))
}

fn derived(legs: impl IntoIterator<Item = MeetingState>) -> MeetingState {
    let (mut all, mut some) = (true, false);
    let mut worst = None;
    for state in legs.into_iter().filter(|state| *state != MeetingState::Ended) {
        let is_in = state == MeetingState::InMeeting;
        (all, some) = (all && is_in, some || is_in);
        worst = worst.max(Some((trouble(state), state)));
    }
    match worst {
        None => MeetingState::Ended,
        Some(_) if some && !all => MeetingState::Partly,
        Some((_, state)) => state,
    }
}

/// How much a leg's state says that it is not well.
fn trouble(state: MeetingState) -> u8 {
    match state {
        MeetingState::Unreachable => 6,
        MeetingState::Recovering => 5,
        MeetingState::Starting => 4,
        MeetingState::Adopting => 3,
        MeetingState::Ending => 2,
        MeetingState::Created => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MeetingState::{Adopting, Created, Ended, Ending, InMeeting, Partly, Recovering, Starting, Unreachable};

    const OF_A_LEG: [MeetingState; 8] =
        [Created, Starting, Adopting, InMeeting, Recovering, Unreachable, Ending, Ended];

    #[test]
    fn no_leg_or_ended_legs_only_are_an_ended_meeting() {
        assert_eq!(derived([]), Ended);
        assert_eq!(derived([Ended, Ended, Ended]), Ended);
    }

    #[test]
    fn a_meeting_of_one_leg_is_as_that_leg_is_and_ended_legs_do_not_count() {
        for state in OF_A_LEG {
            assert_eq!(derived([state]), state);
            assert_eq!(derived([state, Ended]), state);
            assert_eq!(derived([Ended, state, Ended]), state);
        }
    }

    #[test]
    fn of_all_meetings_of_three_legs_in_meeting_is_all_partly_is_some_and_order_does_not_count() {
        for a in OF_A_LEG {
            for b in OF_A_LEG {
                for c in OF_A_LEG {
                    let counted: Vec<MeetingState> = [a, b, c].into_iter().filter(|state| *state != Ended).collect();
                    let inside = counted.iter().filter(|state| **state == InMeeting).count();
                    let state = derived([a, b, c]);
                    assert_eq!(state, derived([c, a, b]));
                    assert_eq!(state == InMeeting, inside > 0 && inside == counted.len(), "{a:?} {b:?} {c:?}");
                    assert_eq!(state == Partly, inside > 0 && inside < counted.len(), "{a:?} {b:?} {c:?}");
                    assert_eq!(state == Ended, counted.is_empty(), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }

    #[test]
    fn without_a_leg_in_meeting_the_one_in_the_most_trouble_is_told() {
        assert_eq!(derived([Created, Unreachable, Recovering]), Unreachable);
        assert_eq!(derived([Created, Recovering, Starting]), Recovering);
        assert_eq!(derived([Created, Ending, Starting]), Starting);
        assert_eq!(derived([Created, Ending]), Ending);
    }
}
