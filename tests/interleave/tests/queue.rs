//! The queue to one peer, between who sends and who writes.

use crate::outbox::{Outbox, Outgoing, SendError, outbox};
use remeet_interleave::run::in_drawn_orders;
use remeet_protocol::message::KeepAlive;
use remeet_protocol::packet::Header;
use remeet_protocol::{Address, Packet};
use shuttle::future;
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeMap;

const PACKETS_MAX: usize = 4;

/// Packets `sender:0`, `sender:1`, … from `first`.
fn batch(sender: u64, first: u64, count: u64) -> Vec<Packet> {
    let packet = |n| Packet {
        destination: Address::default(),
        source: Address::default(),
        header: Header { request: sender << 32 | n, ..Header::default() },
        message: KeepAlive {}.into(),
    };
    (first..first + count).map(packet).collect()
}

fn numbers(packets: &[Packet]) -> impl Iterator<Item = (u64, u64)> {
    packets.iter().map(|packet| (packet.header.request >> 32, packet.header.request & 0xffff_ffff))
}

/// Waits for room, and sends three batches, one larger than the queue. How many were taken.
async fn patient(outbox: Outbox, sender: u64) -> Result<u64, u64> {
    let mut sent = 0;
    for count in [3, 5, 2] {
        if outbox.send(batch(sender, sent, count)).await.is_err() {
            return Err(sent);
        }
        sent += count;
    }
    Ok(sent)
}

/// Sends if there is room, else leaves it.
fn hasty(outbox: &Outbox, sender: u64) -> u64 {
    let mut sent = 0;
    for count in [2, 1, 3] {
        match outbox.try_send(batch(sender, sent, count)) {
            Ok(()) => sent += count,
            Err(SendError::Full(back)) => {
                assert_eq!(back, batch(sender, sent, count), "what is refused comes back whole")
            }
            Err(SendError::Closed) => break,
        }
    }
    sent
}

/// Writes until there is nothing more to come. Never has it more in hand than the queue is long, but for one batch.
async fn written(mut outgoing: Outgoing) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    while let Some(first) = outgoing.next().await {
        let mut in_hand = vec![first];
        in_hand.extend(std::iter::from_fn(|| outgoing.ready()));
        let packets: usize = in_hand.iter().map(Vec::len).sum();
        assert!(packets <= PACKETS_MAX || in_hand.len() == 1, "{packets} packets were queued");
        all.extend(in_hand.iter().flat_map(|packets| numbers(packets)));
        outgoing.written();
    }
    all
}

#[test]
fn whatever_is_taken_by_a_queue_is_written_once_and_in_order_and_its_bound_holds() {
    in_drawn_orders(|| {
        future::block_on(async {
            let (outbox, outgoing) = outbox(PACKETS_MAX);
            let patient = future::spawn(patient(outbox.clone(), 1));
            let hurried = outbox.clone();
            let hasty = future::spawn(async move { hasty(&hurried, 2) });
            let writer = future::spawn(written(outgoing));
            let sent = BTreeMap::from([(1, patient.await.unwrap().unwrap()), (2, hasty.await.unwrap())]);
            drop(outbox);
            let mut seen = BTreeMap::from([(1, 0), (2, 0)]);
            for (sender, number) in writer.await.unwrap() {
                let next = seen.get_mut(&sender).unwrap();
                assert_eq!(number, *next, "sender {sender}'s packets are written in order");
                *next += 1;
            }
            assert_eq!(seen, sent);
        });
    });
}

#[test]
fn after_an_old_connections_packets_are_forgotten_there_is_room_for_as_many_as_before() {
    in_drawn_orders(|| {
        future::block_on(async {
            let (outbox, mut outgoing) = outbox(PACKETS_MAX);
            let over = Arc::new(AtomicBool::new(false));
            let patient = future::spawn(patient(outbox.clone(), 1));
            let hurried = outbox.clone();
            let hasty = future::spawn(async move { hasty(&hurried, 2) });
            let clearing = {
                let over = Arc::clone(&over);
                future::spawn(async move {
                    while !over.load(Ordering::SeqCst) {
                        outgoing.clear();
                        future::yield_now().await;
                    }
                    outgoing.clear();
                    outgoing
                })
            };
            assert_eq!(patient.await.unwrap(), Ok(10));
            hasty.await.unwrap();
            over.store(true, Ordering::SeqCst);
            let _outgoing = clearing.await.unwrap();
            assert_eq!(outbox.room(), PACKETS_MAX);
        });
    });
}

#[test]
fn who_waits_for_room_is_told_of_the_connections_end() {
    in_drawn_orders(|| {
        future::block_on(async {
            let (outbox, mut outgoing) = outbox(PACKETS_MAX);
            let senders = [1, 2].map(|sender| future::spawn(patient(outbox.clone(), sender)));
            let connection = future::spawn(async move {
                let first = outgoing.next().await.unwrap();
                outgoing.written();
                first.len()
            });
            connection.await.unwrap();
            // Twenty packets have no room in four: whoever is left waits, or comes too late.
            let mut refused = 0;
            for sender in senders {
                refused += usize::from(sender.await.unwrap().is_err());
            }
            assert!(refused > 0);
            assert_eq!(outbox.try_send(batch(3, 0, 1)), Err(SendError::Closed));
        });
    });
}
