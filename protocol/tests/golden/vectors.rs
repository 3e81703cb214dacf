//! The vectors of digest, proof and CRC: `golden/vectors.txt`.

use crate::hex;
use crate::world::{claim, mark, records, secret, takeover_proof};
use bytes::BytesMut;
use remeet_protocol::record::{Digest, Record, RecordState};
use remeet_protocol::wire::Wire;
use std::fmt::Write;

/// What the file must hold.
pub(crate) fn text() -> String {
    let mut out = String::from(
        "# Vectors of SPEC.md P-5 (crc), D-1 to D-3 (record, leg) and T-2 (proof). All values are hexadecimal,\n\
         # except count. Made and checked like the golden packets (README.md).\n\n",
    );
    let nine = b"123456789";
    writeln!(out, "[crc]\nbytes {}\ncrc {:08x}\n", hex(nine), crc32fast::hash(nine)).unwrap();
    let mut sum = Digest::default();
    for change in records() {
        let RecordState::Present(record) = change.state else { continue };
        let mut canonical = BytesMut::new();
        record.put_canonical(&mut canonical);
        sum = sum.plus(record.digest());
        let (name, part) = (kind(&record), record.digest());
        writeln!(out, "[record]\n# {name}\ncanonical {}\npart {part}\n", hex(&canonical)).unwrap();
    }
    assert_eq!(sum, mark().digest);
    writeln!(out, "[leg]\n# all of the records above\ncount {}\ndigest {sum}\n", mark().count).unwrap();

    let claim = claim();
    writeln!(out, "[proof]\nsecret {}", hex(secret().expose())).unwrap();
    for (name, value) in [
        ("server", bytes(&claim.server)),
        ("boot", bytes(&claim.boot)),
        ("handle", bytes(&claim.handle)),
        ("meeting", bytes(&claim.leg.meeting)),
        ("leg", bytes(&claim.leg.leg)),
        ("epoch", bytes(&claim.token.epoch)),
        ("holder", bytes(&claim.token.holder)),
    ] {
        writeln!(out, "{name} {}", hex(&value)).unwrap();
    }
    writeln!(out, "proof {}", hex(&takeover_proof())).unwrap();
    out
}

fn kind(record: &Record) -> &'static str {
    match record {
        Record::Leg(_) => "leg row",
        Record::Terminal(_) => "terminal",
        Record::Window(_) => "window",
        Record::Entry(_) => "entry",
    }
}

fn bytes(value: &impl Wire) -> BytesMut {
    let mut out = BytesMut::new();
    value.put(&mut out);
    out
}
