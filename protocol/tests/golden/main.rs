//! Goal: the bytes of `golden/*.hex` are what this crate writes and reads, for every message.
//!
//! Method: each file is decoded to the value that this test defines, and the value is encoded to exactly
//! these bytes. `golden/check.py` reads the same files with the field tables of SPEC.md and nothing of
//! this crate. To write the files anew after a wanted change (then look at the difference):
//!
//! ```text
//! REMEET_GOLDEN_WRITE=1 cargo test --release -p remeet-protocol --test golden
//! ```

#![allow(clippy::unwrap_used)]

mod bad;
mod clients;
mod servers;
mod vectors;
mod world;

use bad::{Outcome, bytes_of};
use bytes::BytesMut;
use remeet_protocol::message::{ClientOp, Op};
use remeet_protocol::{Incoming, Message, PacketCodec};
use servers::Golden;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use tokio_util::codec::Decoder;

#[test]
fn every_golden_packet_is_read_and_written_as_its_file_says() {
    written_if_asked();
    for (name, packet) in golden() {
        let bytes = hex_of(&folder().join(format!("{name}.hex")));
        assert_eq!(bytes_of(&packet), bytes, "{name}: written otherwise than its file says");
        for mut codec in [PacketCodec::stream(), PacketCodec::datagram()] {
            let mut input = BytesMut::from(&bytes[..]);
            assert_eq!(codec.decode(&mut input).unwrap().unwrap().unwrap(), packet, "{name}: read otherwise");
            assert!(input.is_empty(), "{name}: bytes are left");
        }
    }
}

#[test]
fn every_bad_packet_comes_to_what_the_specification_says() {
    written_if_asked();
    for bad in bad::all() {
        let name = bad.name;
        let bytes = hex_of(&folder().join(format!("bad/{name}.hex")));
        assert_eq!(bad.bytes, bytes, "{name}: made otherwise than its file says");
        let stream = decoded_stream(&bytes);
        let datagram = PacketCodec::datagram().decode(&mut BytesMut::from(&bytes[..])).map_err(|e| e.to_string());
        match bad.outcome {
            Outcome::Frame(said) => {
                assert_eq!(stream.unwrap_err(), said, "{name}");
                datagram.unwrap_err();
            }
            Outcome::Cut(said) => {
                assert_eq!(
                    stream.unwrap_err(),
                    format!("the stream ended {} bytes into a packet", bytes.len()),
                    "{name}"
                );
                assert_eq!(datagram.unwrap_err(), said, "{name}");
            }
            Outcome::Rejected(reason, code) => {
                for incoming in [stream.unwrap(), datagram.unwrap()] {
                    let rejected = incoming.unwrap().unwrap_err();
                    assert_eq!((rejected.reason, rejected.code()), (reason, code), "{name}");
                }
            }
            Outcome::Accepted(packet) => {
                for incoming in [stream.unwrap(), datagram.unwrap()] {
                    assert_eq!(incoming.unwrap().unwrap(), *packet, "{name}");
                }
            }
        }
    }
}

#[test]
fn no_message_and_no_operation_is_without_a_golden_packet() {
    let golden = golden();
    let kinds: BTreeSet<u16> = golden.iter().map(|(_, packet)| packet.message.kind()).collect();
    for (kind, name) in Message::ALL {
        assert!(kinds.contains(kind), "message {name} ({kind:#06x}) has no golden packet");
    }
    let ops: BTreeSet<&str> = golden.iter().filter_map(|(_, packet)| op_name(&packet.message)).collect();
    let client_ops: BTreeSet<&str> = golden.iter().filter_map(|(_, packet)| client_op_name(&packet.message)).collect();
    assert_eq!((ops.len(), client_ops.len()), (7, 11), "an operation has no golden packet: {ops:?} {client_ops:?}");
}

#[test]
fn no_golden_file_is_left_over() {
    written_if_asked();
    let names: BTreeSet<String> = golden().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(hex_files(&folder()), names);
    let bad: BTreeSet<String> = bad::all().iter().map(|bad| bad.name.to_owned()).collect();
    assert_eq!(hex_files(&folder().join("bad")), bad);
}

#[test]
fn digests_and_proofs_are_those_of_the_vectors() {
    written_if_asked();
    assert_eq!(vectors::text(), std::fs::read_to_string(folder().join("vectors.txt")).unwrap());
}

/// SPEC.md's tables, zlib's CRC, hashlib's SHA-256 and hmac's HMAC against the files.
#[test]
fn an_independent_reader_agrees_with_the_files_and_the_specification() {
    written_if_asked();
    let Ok(output) = Command::new("python3").arg(folder().join("check.py")).output() else {
        // scripts/test installs it; whoever runs cargo alone may do without.
        assert!(std::env::var_os("REMEET_TEST_POSTGRES").is_none(), "there is no python3: golden/check.py was not run");
        eprintln!("SKIPPED: there is no python3; golden/check.py was not run");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "golden/check.py found:\n{said}");
    println!("{said}");
}

fn golden() -> Vec<Golden> {
    let mut packets = servers::handshake();
    packets.extend(servers::inventory());
    packets.extend(servers::control());
    packets.extend(servers::content());
    packets.extend(servers::commands());
    packets.extend(servers::events());
    packets.extend(clients::commands());
    packets.extend(clients::reading());
    packets
}

fn op_name(message: &Message) -> Option<&'static str> {
    match message {
        Message::Command(command) => Some(Op::name(&command.op)),
        _ => None,
    }
}

fn client_op_name(message: &Message) -> Option<&'static str> {
    match message {
        Message::ClientCommand(command) => Some(ClientOp::name(&command.op)),
        _ => None,
    }
}

/// All that a stream of these bytes and its end give: one packet, or an error.
fn decoded_stream(bytes: &[u8]) -> Result<Option<Incoming>, String> {
    let mut input = BytesMut::from(bytes);
    let mut codec = PacketCodec::stream();
    let incoming = codec.decode(&mut input).map_err(|error| error.to_string())?;
    let rest = codec.decode_eof(&mut input).map_err(|error| error.to_string())?;
    assert!(rest.is_none(), "a second packet came out");
    Ok(incoming)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The bytes of a file: hexadecimal digits; `#` begins a comment.
fn hex_of(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}; REMEET_GOLDEN_WRITE=1 writes it", path.display()));
    let digits: String = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().chars())
        .filter(|character| !character.is_whitespace())
        .collect();
    assert!(digits.len().is_multiple_of(2), "{}: an odd number of digits", path.display());
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn hex_files(folder: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".hex").map(str::to_owned)).collect()
}

/// With `REMEET_GOLDEN_WRITE=1`: writes every file, then lets `check.py` add a comment for each field.
fn written_if_asked() {
    static WRITTEN: Once = Once::new();
    if std::env::var_os("REMEET_GOLDEN_WRITE").is_none() {
        return;
    }
    WRITTEN.call_once(|| {
        for sub in ["", "bad"] {
            for old in hex_files(&folder().join(sub)) {
                std::fs::remove_file(folder().join(sub).join(format!("{old}.hex"))).unwrap();
            }
        }
        for (name, packet) in golden() {
            let about = format!("# {} ({:#06x})\n", packet.message.name(), packet.message.kind());
            std::fs::write(folder().join(format!("{name}.hex")), about + &hex(&bytes_of(&packet))).unwrap();
        }
        for bad in bad::all() {
            let path = folder().join(format!("bad/{}.hex", bad.name));
            std::fs::write(path, format!("# {}\n", bad.about) + &hex(&bad.bytes)).unwrap();
        }
        std::fs::write(folder().join("vectors.txt"), vectors::text()).unwrap();
        match Command::new("python3").arg(folder().join("check.py")).arg("--write").status() {
            Ok(status) => assert!(status.success(), "golden/check.py --write failed"),
            Err(error) => eprintln!("python3: {error}; the files are written without a comment for each field"),
        }
    });
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
