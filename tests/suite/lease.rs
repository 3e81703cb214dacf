//! Goal: who may command, and until when, as rule 5 and design §6 say. Method: the pure lease, with a store that
//! answers what the test says, in virtual time.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use remeet::model::Moment;
use remeet::recovery::lease::{
    Evidence, Incumbent, Lease, LeaseAnswer, LeaseAsk, LeaseChange, LeaseTiming, LeaseView, LifeEnd,
};
use remeet_protocol::{Epoch, Holder, ServerId, Token};
use std::time::Duration;

const SERVER: ServerId = ServerId(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000)
}

fn timing() -> LeaseTiming {
    LeaseTiming::of(ms(6_000), ms(10))
}

fn token(epoch: u64) -> Token {
    Token { epoch: Epoch(epoch), holder: Holder::from_bytes([7; 16]) }
}

fn incumbent(epoch: u64, remaining: u64) -> LeaseAnswer {
    LeaseAnswer::Held(Incumbent { node: "a".to_owned(), epoch: Epoch(epoch), remaining: ms(remaining) })
}

/// One that holds a term that was asked for at 0 and granted at 50 ms.
fn active() -> Lease {
    let mut lease = Lease::new(timing());
    assert_eq!(lease.ask(at(0)), Some(LeaseAsk::Begin { above: Epoch(0) }));
    assert_eq!(lease.ask(at(1)), None, "one question at a time");
    assert_eq!(
        lease.answered(at(50), LeaseAnswer::Granted(token(5))),
        Some(LeaseChange::Began { token: token(5), lost: None })
    );
    lease
}

#[test]
fn design_5_a_lease_of_6_s_is_renewed_each_2_s_and_given_up_1_s_before_its_end() {
    let timing = timing();
    assert_eq!((timing.renew_every, timing.stop_before), (ms(2_000), ms(1_000)));
}

#[test]
fn rule_5_a_holder_commands_until_a_second_before_its_lease_ends_counted_from_before_it_was_asked() {
    let mut lease = active();
    assert!(lease.may_command(at(50)));
    assert_eq!(lease.next_wake(), Some(at(2_000)));
    // The renewal is asked in time; its answer does not come.
    assert_eq!(lease.ask(at(2_000)), Some(LeaseAsk::Renew(token(5))));
    assert!(lease.may_command(at(4_999)));
    assert!(!lease.may_command(at(5_000)), "5 s after it was asked for, not after it was granted");
    assert_eq!(lease.wake(at(4_999)), None);
    assert_eq!(lease.wake(at(5_000)), Some(LeaseChange::Lapsed));
    assert_eq!(lease.wake(at(5_001)), None, "said once");
    assert_eq!(lease.view(at(5_001)), LeaseView::Lapsed);
    // It comes after all: counted from when it was asked, the lease lasts until 8 s.
    assert_eq!(lease.answered(at(6_500), LeaseAnswer::Renewed), Some(LeaseChange::Resumed));
    assert!(lease.may_command(at(6_999)) && !lease.may_command(at(7_000)));
}

#[test]
fn an_answer_that_comes_after_the_end_of_what_it_grants_lets_nothing_be_sent() {
    let mut lease = Lease::new(timing());
    lease.ask(at(0));
    assert_eq!(
        lease.answered(at(5_500), LeaseAnswer::Granted(token(1))),
        Some(LeaseChange::Began { token: token(1), lost: None })
    );
    assert!(!lease.may_command(at(5_500)));
    assert_eq!(lease.ask(at(5_500)), Some(LeaseAsk::Renew(token(1))), "renewed at once");
    assert_eq!(lease.wake(at(5_500)), Some(LeaseChange::Lapsed));
    assert_eq!(lease.answered(at(5_600), LeaseAnswer::Renewed), Some(LeaseChange::Resumed));
    assert!(lease.may_command(at(5_600)));
}

#[test]
fn a_renewal_that_fails_is_asked_again_and_twice_it_may_fail() {
    let mut lease = active();
    assert_eq!(lease.ask(at(2_000)), Some(LeaseAsk::Renew(token(5))));
    assert_eq!(lease.answered(at(3_500), LeaseAnswer::Failed("down".to_owned())), None);
    assert_eq!(lease.trouble(), Some("down"));
    assert_eq!(lease.ask(at(3_600)), Some(LeaseAsk::Renew(token(5))));
    assert_eq!(lease.answered(at(4_900), LeaseAnswer::Renewed), None, "it never lapsed");
    assert!(lease.may_command(at(8_599)) && !lease.may_command(at(8_600)));
    assert_eq!(lease.trouble(), None);
}

#[test]
fn another_term_ends_the_life_and_the_next_begins_as_a_standby() {
    let mut lease = active();
    lease.ask(at(2_000));
    assert_eq!(lease.answered(at(2_010), LeaseAnswer::Fenced), Some(LeaseChange::Over(LifeEnd::Fenced)));
    assert!(!lease.may_command(at(2_010)));
    assert_eq!((lease.ask(at(3_000)), lease.next_wake(), lease.token()), (None, None, None));
    lease.live_again(at(3_000));
    assert_eq!(lease.ask(at(3_000)), Some(LeaseAsk::Begin { above: Epoch(0) }));
}

#[test]
fn a_standby_asks_when_the_lease_can_have_run_out_and_each_second() {
    let mut lease = Lease::new(timing());
    lease.ask(at(0));
    let held = lease.answered(at(10), incumbent(3, 5_500));
    assert!(matches!(held, Some(LeaseChange::Held(_))), "{held:?}");
    assert_eq!(lease.next_wake(), Some(at(1_010)));
    lease.ask(at(1_010));
    assert_eq!(lease.answered(at(1_020), incumbent(3, 400)), None, "the same one as before");
    // 10 ms after it has run out: other standbys have another spread.
    assert_eq!(lease.next_wake(), Some(at(1_430)));
    assert!(!lease.may_command(at(1_430)));
    let view = lease.view(at(1_120));
    assert!(matches!(view, LeaseView::Standby { incumbent_remaining_ms: 300, held_back_ms: 0, .. }), "{view:?}");
}

#[test]
fn a_release_that_is_told_is_acted_on_at_once() {
    let mut lease = Lease::new(timing());
    lease.ask(at(0));
    lease.answered(at(10), incumbent(3, 5_500));
    lease.released(at(300));
    assert_eq!(lease.ask(at(300)), Some(LeaseAsk::Begin { above: Epoch(0) }));
}

#[test]
fn one_that_has_handed_over_leaves_the_others_a_lease_of_time() {
    let mut lease = active();
    lease.live_again(at(7_000));
    assert_eq!(lease.ask(at(6_999)), None);
    lease.released(at(2_000));
    assert_eq!(lease.ask(at(6_999)), None, "its own release does not wake it");
    assert!(matches!(lease.view(at(2_000)), LeaseView::Standby { held_back_ms: 5_000, .. }));
    assert!(lease.ask(at(7_000)).is_some());
}

#[test]
fn a_store_that_does_not_answer_is_asked_again_with_growing_pauses_up_to_a_second() {
    let mut lease = Lease::new(timing());
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        assert!(lease.ask(now).is_some());
        lease.answered(now, LeaseAnswer::Failed("down".to_owned()));
        let next = lease.next_wake().unwrap();
        pauses.push(next.since(now));
        now = next;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000].map(ms));
}

#[test]
fn a_servers_higher_epoch_counts_only_once_the_database_has_confirmed_the_term_after_it() {
    let mut lease = active();
    // Under way already when the server speaks: its answer says nothing.
    lease.ask(at(2_000));
    assert_eq!(lease.evidence(at(2_005), SERVER, Epoch(9)), Evidence::Checking);
    assert_eq!(lease.answered(at(2_010), LeaseAnswer::Renewed), None);
    let ask = lease.ask(lease.next_wake().unwrap());
    assert_eq!(ask, Some(LeaseAsk::Renew(token(5))));
    let change = lease.answered(at(4_100), LeaseAnswer::Renewed);
    assert_eq!(change, Some(LeaseChange::Over(LifeEnd::Regressed(Epoch(9)))));
    lease.live_again(at(4_100));
    assert_eq!(lease.ask(at(4_100)), Some(LeaseAsk::Begin { above: Epoch(9) }), "the next term is above it");
    lease.answered(at(4_110), LeaseAnswer::Granted(token(10)));
    // The same server again, within the hour: it raises its epoch by itself.
    assert!(matches!(lease.evidence(at(5_000), SERVER, Epoch(11)), Evidence::Refused(_)));
    assert_eq!(lease.evidence(at(5_000), ServerId(2), Epoch(11)), Evidence::Checking, "another one is believed");
    assert_eq!(lease.evidence(at(3_700_000), SERVER, Epoch(12)), Evidence::Checking, "and this one an hour later");
}

#[test]
fn a_servers_higher_epoch_is_another_schedulers_if_the_term_does_not_stand() {
    let mut lease = active();
    assert_eq!(lease.evidence(at(100), SERVER, Epoch(6)), Evidence::Checking);
    assert_eq!(lease.ask(at(100)), Some(LeaseAsk::Renew(token(5))), "asked at once");
    assert_eq!(lease.answered(at(110), LeaseAnswer::Fenced), Some(LeaseChange::Over(LifeEnd::Fenced)));
    lease.live_again(at(110));
    assert_eq!(lease.ask(at(110)), Some(LeaseAsk::Begin { above: Epoch(0) }));
}

#[test]
fn only_what_began_a_term_counts_against_a_server_and_it_is_told_once() {
    let mut lease = active();
    lease.evidence(at(100), SERVER, Epoch(6));
    lease.ask(at(100));
    lease.answered(at(110), LeaseAnswer::Fenced);
    lease.live_again(at(110));
    lease.ask(at(110));
    let change = lease.answered(at(120), LeaseAnswer::Granted(token(7)));
    assert_eq!(change, Some(LeaseChange::Began { token: token(7), lost: None }), "it was another scheduler's");
    // Within the hour the database goes back.
    assert_eq!(lease.evidence(at(200), SERVER, Epoch(8)), Evidence::Checking);
    lease.ask(at(200));
    // A repeat while the question is under way does not put the answer off.
    assert_eq!(lease.evidence(at(205), SERVER, Epoch(8)), Evidence::Checking);
    let change = lease.answered(at(210), LeaseAnswer::Renewed);
    assert_eq!(change, Some(LeaseChange::Over(LifeEnd::Regressed(Epoch(8)))));
    // The next term tells of it; the one after that does not.
    for (at_ms, began, lost) in [(300, token(9), Some(Epoch(8))), (400, token(10), None)] {
        lease.live_again(at(at_ms));
        lease.ask(at(at_ms));
        let change = lease.answered(at(at_ms + 10), LeaseAnswer::Granted(began));
        assert_eq!(change, Some(LeaseChange::Began { token: began, lost }));
    }
}

#[test]
fn an_epoch_that_no_history_explains_is_not_believed() {
    let mut lease = active();
    assert_eq!(lease.evidence(at(100), SERVER, Epoch(4)), Evidence::None, "below the own");
    assert!(matches!(lease.evidence(at(100), SERVER, Epoch(5 + (1 << 20) + 1)), Evidence::Refused(_)));
    assert!(matches!(lease.evidence(at(100), SERVER, Epoch(u64::MAX)), Evidence::Refused(_)));
    assert_eq!(lease.evidence(at(100), SERVER, Epoch(5 + (1 << 20))), Evidence::Checking);
    let mut standby = Lease::new(timing());
    assert_eq!(standby.evidence(at(0), SERVER, Epoch(4)), Evidence::None, "who holds nothing is not concerned");
}

/// Two nodes and a store with one lease row, whose clock is the world's; each node's clock runs at its own pace up
/// to the drift that a sixth of the lease allows, questions and answers are late or lost, nodes stand still.
#[test]
fn rule_5_no_two_nodes_ever_may_command_at_the_same_time() {
    let mut began = 0;
    for seed in 0..200 {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut nodes = [Lease::new(timing()), Lease::new(timing())];
        // Where each node's clock began; it is never compared with another.
        let origin = [dice.next_u64() % 100_000_000, dice.next_u64() % 100_000_000];
        let local = |node: usize, now: u64| Moment(now - origin[node].min(now));
        let (mut term, mut holder, mut expires) = (0_u64, usize::MAX, 0_u64);
        // (arrives at the store, node, ask), (arrives at the node, node, answer)
        let mut asks: Vec<(u64, usize, LeaseAsk)> = Vec::new();
        let mut answers: Vec<(u64, usize, LeaseAnswer)> = Vec::new();
        let mut frozen = [0_u64; 2];
        let start = 200_000_000;
        let mut now = start;
        while now < start + 120_000_000 {
            now += dice.random_range(1_000..20_000);
            for node in 0..2 {
                if now < frozen[node] {
                    continue;
                }
                if dice.random_bool(0.002) {
                    frozen[node] = now + dice.random_range(0..12_000_000);
                    continue;
                }
                nodes[node].wake(local(node, now));
                if let Some(ask) = nodes[node].ask(local(node, now)) {
                    asks.push((now + dice.random_range(0..400_000), node, ask));
                }
            }
            for (_, node, ask) in asks.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>() {
                let answer = match ask {
                    LeaseAsk::Begin { .. } if now >= expires || holder == node => {
                        (term, holder, expires) = (term + 1, node, now + 6_000_000);
                        LeaseAnswer::Granted(token(term))
                    }
                    LeaseAsk::Begin { .. } => incumbent(term, (expires - now) / 1_000),
                    LeaseAsk::Renew(asked) if asked.epoch.0 == term => {
                        expires = now + 6_000_000;
                        LeaseAnswer::Renewed
                    }
                    LeaseAsk::Renew(_) => LeaseAnswer::Fenced,
                };
                let late = now + dice.random_range(0..400_000);
                if dice.random_bool(0.1) {
                    // Its answer is lost: the question ends at its deadline.
                    answers.push((now + 1_500_000, node, LeaseAnswer::Failed("no answer".to_owned())));
                } else {
                    answers.push((late, node, answer));
                }
            }
            for (_, node, answer) in
                answers.extract_if(.., |(at, node, _)| *at <= now && now >= frozen[*node]).collect::<Vec<_>>()
            {
                match nodes[node].answered(local(node, now), answer) {
                    Some(LeaseChange::Over(_)) => nodes[node].live_again(local(node, now)),
                    Some(LeaseChange::Began { .. }) => began += 1,
                    _ => {}
                }
            }
            let may = [0, 1].map(|node| nodes[node].may_command(local(node, now)));
            assert_ne!(may, [true, true], "seed {seed}, {now}");
        }
    }
    assert!(began > 400, "terms change hands: {began} in 200 runs");
}
