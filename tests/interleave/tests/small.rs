//! Counters, and what several threads hold under one lock.

use crate::heartbeat::{Heartbeat, Watch};
use crate::life::{LifeLimits, Lives, NoLife};
use crate::newest::Newest;
use crate::presence::Presences;
use crate::present::Present;
use crate::said::Said;
use remeet_interleave::run::{fails_in_some_order, in_drawn_orders, in_every_order};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn who_is_present_is_counted_while_it_is_and_no_longer() {
    in_every_order(|| {
        let presences = Presences::default();
        let guests = [(); 2].map(|()| {
            let presences = presences.clone();
            thread::spawn(move || {
                let presence = presences.enter();
                assert!((1..=2).contains(&presences.count()));
                drop(presence);
            })
        });
        assert!(presences.count() <= 2);
        guests.into_iter().for_each(|guest| guest.join().unwrap());
        assert_eq!(presences.count(), 0);
    });
}

#[test]
fn a_loop_that_moved_is_seen_to_move_and_one_that_stands_still_is_seen_within_two_looks() {
    in_every_order(|| {
        let heartbeat = Heartbeat::default();
        let mut watch = Watch::default();
        assert!(watch.moved(&heartbeat), "the first look has nothing to compare with");
        let beating = heartbeat.clone();
        let beats = thread::spawn(move || {
            beating.beat();
            beating.beat();
        });
        let looks = [watch.moved(&heartbeat), watch.moved(&heartbeat)];
        beats.join().unwrap();
        let last = watch.moved(&heartbeat);
        assert!(last || looks.contains(&true), "two rounds went by, and none was seen");
        assert!(!watch.moved(&heartbeat), "it stands still");
    });
}

#[test]
fn the_present_value_is_never_none_again_and_never_an_older_one() {
    in_every_order(|| {
        let present = Present::default();
        assert_eq!(present.get(), None);
        let writer = {
            let present = present.clone();
            thread::spawn(move || (1..=2).for_each(|value| present.set(value)))
        };
        let seen = [present.get(), present.get(), present.get()];
        assert!(seen.is_sorted(), "{seen:?}");
        writer.join().unwrap();
        assert_eq!(present.get(), Some(2));
    });
}

/// Two threads report at the same time; whatever was heard last is what is remembered.
fn two_speak(say: impl Fn(&Said, &'static str, &dyn Fn(&str) -> bool) + Send + Sync + Copy + 'static) {
    let said = Arc::new(Said::default());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = {
        let heard = Arc::clone(&heard);
        move |text: &str| {
            heard.lock().unwrap().push(text.to_owned());
            true
        }
    };
    let speakers = ["recovering", "in control"].map(|text| {
        let (said, hear) = (Arc::clone(&said), hear.clone());
        thread::spawn(move || say(&said, text, &hear))
    });
    speakers.into_iter().for_each(|speaker| speaker.join().unwrap());
    for text in ["in control", "recovering", "recovering"] {
        say(&said, text, &hear);
        assert_eq!(heard.lock().unwrap().last().unwrap(), text, "the manager shows another text for ever");
    }
    let heard = heard.lock().unwrap();
    assert!(heard.windows(2).all(|pair| pair[0] != pair[1]), "said again: {heard:?}");
}

#[test]
fn the_status_that_is_remembered_is_the_one_that_was_heard_last() {
    in_every_order(|| two_speak(|said, text, hear| said.say(text, hear)));
}

#[test]
fn a_status_that_is_sent_after_it_was_noted_is_found_out() {
    // As it was before this test: noted under the lock, sent outside.
    assert!(fails_in_some_order(|| two_speak(|said, text, hear| {
        let mut news = false;
        said.say(text, |_| {
            news = true;
            true
        });
        if news {
            hear(text);
        }
    })));
}

#[test]
fn a_status_that_was_not_heard_is_said_again() {
    in_every_order(|| {
        let said = Said::default();
        let mut heard = Vec::new();
        for listens in [false, true, true] {
            said.say("ready", |_| {
                heard.push(listens);
                listens
            });
        }
        assert_eq!(heard, [false, true]);
    });
}

#[test]
fn of_numbered_contents_the_newest_stays_in_whatever_order_they_are_written() {
    in_every_order(|| {
        let newest = Arc::new(Newest::default());
        let file = Arc::new(Mutex::new(0));
        // The second is not written: the disk is full.
        let writers = [1, 2, 3].map(|number| {
            let (newest, file) = (Arc::clone(&newest), Arc::clone(&file));
            thread::spawn(move || {
                newest.write(number, || {
                    if number == 2 {
                        return Err("full");
                    }
                    *file.lock().unwrap() = number;
                    Ok(())
                })
            })
        });
        for (number, writer) in (1..).zip(writers) {
            let written = writer.join().unwrap();
            assert!(written.is_ok() || number == 2);
        }
        assert_eq!(*file.lock().unwrap(), 3);
        assert_eq!(newest.write(2, || Err("written over a newer one")), Ok(()));
    });
}

/// Calls that find a silent cache with their time-outs, and one that answers at last.
#[test]
fn a_silent_connection_is_given_up_once_however_many_calls_wait_for_it() {
    /// Connections before this one are silent.
    const ANSWERS: u64 = 2;
    let now = Instant::now();
    in_drawn_orders(move || {
        let lives = Arc::new(Lives::new(LifeLimits { timeouts: 2, rest: Duration::from_secs(1) }));
        let made = Arc::new(Mutex::new(0_u64));
        let replaced = Arc::new(Mutex::new(Vec::new()));
        let callers = [(); 3].map(|()| {
            let (lives, made, replaced) = (Arc::clone(&lives), Arc::clone(&made), Arc::clone(&replaced));
            thread::spawn(move || {
                let mut before = 0;
                for round in 0..4_u32 {
                    // Each round later than any rest.
                    let now = now + Duration::from_secs(60) * round;
                    let (connection, number) = match lives.get(now, || {
                        let mut made = made.lock().unwrap();
                        *made += 1;
                        Ok::<_, ()>(*made - 1)
                    }) {
                        Ok(got) => got,
                        Err(NoLife::Resting(count)) => {
                            assert!(count >= 2, "the first replacement is no reason to rest");
                            continue;
                        }
                        Err(NoLife::NotMade(())) => unreachable!("it is always made"),
                    };
                    assert_eq!(connection, number, "a number is of one connection");
                    assert!(number >= before, "given up, and given out again");
                    before = number;
                    if number >= ANSWERS {
                        lives.answered(number);
                    } else if lives.timed_out(number, now) {
                        replaced.lock().unwrap().push(number);
                    }
                }
            })
        });
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        let mut replaced = replaced.lock().unwrap().clone();
        replaced.sort_unstable();
        let expected: Vec<u64> = (0..u64::try_from(replaced.len()).unwrap()).collect();
        assert_eq!(replaced, expected, "each silent connection is replaced once");
        assert!(*made.lock().unwrap() <= ANSWERS + 1, "one that answers is kept");
    });
}

#[test]
fn calls_rest_after_a_second_silent_connection_in_a_row_longer_each_time_until_one_answers() {
    in_every_order(|| {
        let (rest, mut now) = (Duration::from_millis(250), Instant::now());
        let lives = Lives::new(LifeLimits { timeouts: 1, rest });
        let get = |now| lives.get(now, || Ok::<_, ()>(())).map(|(_, number)| number);
        for (replacement, doublings) in
            [(1, None), (2, Some(0)), (3, Some(1)), (4, Some(2)), (5, Some(3)), (6, Some(4)), (7, Some(4))]
        {
            assert!(lives.timed_out(get(now).unwrap(), now), "one time-out is enough here");
            if let Some(doublings) = doublings {
                assert_eq!(get(now), Err(NoLife::Resting(replacement)));
                now += rest * (1 << doublings);
            }
        }
        let number = get(now).unwrap();
        assert!(lives.answered(number), "that is news");
        assert!(!lives.answered(number), "and only once");
        assert!(lives.timed_out(number, now));
        assert!(get(now).is_ok(), "the first in a row again: no rest");
        lives.give_up(get(now).unwrap());
        assert_eq!(get(now), Ok(number + 2), "given up for another reason");
    });
}
