//! What a recovery does most, each alone: encode, decode, prove, digest, plan, merge.
//!
//! `cargo bench -p remeet-micro`. The numbers are in BENCHMARKS.md.

#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod core;

use crate::core::{Legs, Rehearsal};
use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use remeet::model::LegContent;
use remeet::recovery::StoredDigest;
use remeet::simulator::Fill;
use remeet_protocol::message::{Message, PullPage, TakeoverAnswer, TakeoverResult};
use remeet_protocol::packet::Header;
use remeet_protocol::proof::{Claim, prove, verify};
use remeet_protocol::record::Mark;
use remeet_protocol::{
    Address, BootId, Change, DomainId, ErrorCode, Handle, LegId, Packet, PacketCodec, ServerId, Token,
};
use tokio_util::codec::{Decoder, Encoder};

fn main() {
    divan::main();
}

/// Legs of one server of a large network.
const LEGS: u32 = 1_500;

fn fill() -> Fill {
    Fill { seed: 1, first: 0, count: LEGS, terminals: 10, token: Token::default() }
}

fn changes(place: u32) -> (LegId, Mark, Vec<Change>) {
    let leg = fill().leg(DomainId(1), place, Handle(1), 0);
    (leg.head.id, leg.head.mark, leg.changes(0, u64::MAX, false).collect())
}

/// The two packets that a recovery has most of: answers to claims, and content.
#[derive(Clone, Copy, Debug)]
enum Kind {
    TakeoverAnswer,
    PullPage,
}

impl Kind {
    fn packet(self) -> Packet {
        let (leg, mark, changes) = changes(7);
        let message: Message = match self {
            Kind::TakeoverAnswer => {
                let result =
                    TakeoverResult { handle: Handle(7), leg, code: ErrorCode::OK, retry_after_ms: 0, mark, intent: 3 };
                TakeoverAnswer { boot: BootId::default(), table_revision: 9, results: vec![result; 14] }.into()
            }
            Kind::PullPage => {
                let pages = remeet_protocol::wire::pack(changes, PullPage::CHANGES_ROOM);
                PullPage { leg, changes: pages.into_iter().next().unwrap() }.into()
            }
        };
        Packet {
            destination: Address::scheduler(DomainId(1)),
            source: Address::server(ServerId(1)),
            header: Header { request: 9, ..Header::default() },
            message,
        }
    }
}

#[divan::bench(args = [Kind::TakeoverAnswer, Kind::PullPage])]
fn encode(bencher: Bencher<'_, '_>, kind: Kind) {
    let packet = kind.packet();
    let mut out = BytesMut::with_capacity(1 << 16);
    PacketCodec::stream().encode(&packet, &mut out).unwrap();
    let bytes = out.len();
    bencher.counter(BytesCount::new(bytes)).counter(ItemsCount::new(1_usize)).bench_local(|| {
        out.clear();
        PacketCodec::stream().encode(black_box(&packet), &mut out).unwrap();
    });
}

#[divan::bench(args = [Kind::TakeoverAnswer, Kind::PullPage])]
fn decode(bencher: Bencher<'_, '_>, kind: Kind) {
    let mut whole = BytesMut::new();
    PacketCodec::stream().encode(&kind.packet(), &mut whole).unwrap();
    bencher
        .counter(BytesCount::new(whole.len()))
        .counter(ItemsCount::new(1_usize))
        .with_inputs(|| whole.clone())
        .bench_local_values(|mut bytes| PacketCodec::stream().decode(&mut bytes).unwrap().unwrap());
}

#[divan::bench]
fn prove_and_verify(bencher: Bencher<'_, '_>) {
    let leg = fill().leg(DomainId(1), 7, Handle(7), 0);
    let claim = Claim {
        server: ServerId(1),
        boot: BootId::default(),
        handle: Handle(7),
        leg: leg.head.id,
        token: Token::default(),
    };
    bencher.bench_local(|| {
        let proof = prove(black_box(&leg.head.secret), black_box(&claim));
        assert!(verify(&leg.head.secret, &claim, &proof));
    });
}

/// A leg's stored rows, counted again: ten terminals, and what goes with them.
#[divan::bench]
fn digest(bencher: Bencher<'_, '_>) {
    let (leg, mark, changes) = changes(7);
    let content = LegContent { leg, place: None, mark, changes };
    bencher
        .counter(ItemsCount::new(content.changes.len()))
        .bench_local(|| assert_eq!(StoredDigest::count(black_box(&content)).rows.digest, content.mark.digest));
}

/// From the inventory and the look-up to the claims: what is to be done with each leg.
#[divan::bench]
fn plan(bencher: Bencher<'_, '_>) {
    let legs = Legs::new(&fill(), 0);
    bencher
        .counter(ItemsCount::new(LEGS))
        .with_inputs(|| Rehearsal::new(&legs))
        .bench_local_values(|mut rehearsal| assert_eq!(rehearsal.until_claims(), LEGS as usize));
}

/// A whole round of one server in the core, nothing changed; the store and the cache answer at once.
#[divan::bench]
fn round_unchanged(bencher: Bencher<'_, '_>) {
    let legs = Legs::new(&fill(), 0);
    bencher.counter(ItemsCount::new(LEGS)).with_inputs(|| Rehearsal::new(&legs)).bench_local_values(|mut rehearsal| {
        rehearsal.until_claims();
        assert_eq!(rehearsal.until_the_end(), (LEGS as usize, 0));
    });
}

/// The same, everything changed: the pulls' pages are merged, stored and counted.
#[divan::bench]
fn round_merging_all(bencher: Bencher<'_, '_>) {
    let legs = Legs::new(&fill(), 5);
    bencher.counter(ItemsCount::new(LEGS)).with_inputs(|| Rehearsal::new(&legs)).bench_local_values(|mut rehearsal| {
        rehearsal.until_claims();
        assert_eq!(rehearsal.until_the_end(), (LEGS as usize, LEGS as usize));
    });
}
