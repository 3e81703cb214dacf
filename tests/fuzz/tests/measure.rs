//! What one packet costs the decoder: time and memory. Not a check: `cargo test` leaves it out; see docs/testing.md.

use bytes::BytesMut;
use remeet_fuzz::counting::allocated;
use remeet_fuzz::packets::repaired;
use remeet_protocol::PacketCodec;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio_util::codec::Decoder;

/// Each packet is read so many times: the machine's pauses are in the figures, and so is every packet's own cost.
const ROUNDS: usize = 200;

/// Every kept input of the targets that make packets, and bodies of the greatest length that repeat it.
fn packets() -> Vec<Vec<u8>> {
    let kept = |target: &str| {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__").join(target).join("corpus");
        let files = std::fs::read_dir(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        let paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let mut inputs = kept("wire__packets_with_a_right_frame_are_read_or_rejected");
    inputs.extend(kept("wire__any_bytes_are_read_or_refused"));
    let longest = inputs.clone().into_iter().filter(|input| input.len() > 60).map(|input| {
        let (head, body) = input.split_at(50);
        [head, &body.iter().copied().cycle().take(1_024).collect::<Vec<u8>>()].concat()
    });
    inputs.extend(longest.collect::<Vec<_>>());
    inputs.iter().map(|input| repaired(input)).collect()
}

#[test]
#[ignore = "a measurement: run it alone, with --ignored --nocapture"]
#[allow(clippy::disallowed_methods, reason = "this measures time")]
fn what_a_packet_costs_the_decoder() {
    let packets = packets();
    let (mut nanoseconds, mut bytes_most, mut readable) = (Vec::new(), 0, 0);
    for _ in 0..ROUNDS {
        for packet in &packets {
            let mut bytes = BytesMut::from(&packet[..]);
            let mut codec = PacketCodec::stream();
            let began = Instant::now();
            let (decoded, bytes_allocated) = allocated(|| codec.decode(&mut bytes));
            nanoseconds.push(began.elapsed().as_nanos());
            bytes_most = bytes_most.max(bytes_allocated);
            readable += usize::from(matches!(decoded, Ok(Some(Ok(_)))));
            black_box(decoded).ok();
        }
    }
    nanoseconds.sort_unstable();
    let count = nanoseconds.len();
    let part = |thousandths: usize| nanoseconds[(count - 1) * thousandths / 1_000];
    println!("{} packets, each {ROUNDS} times, {readable} of {count} readable", packets.len());
    println!("ns a packet: p50 {}, p99 {}, p99.9 {}, most {}", part(500), part(990), part(999), part(1_000));
    println!("allocated for one packet: {bytes_most} bytes at most");
}
