//! Reads Redis with commands of its own, by the layout that the cache's documentation draws.

use super::ReadError;
use super::facts::{Cached, CachedHead, CachedKey, CachedLeg, Held, KeyRow, Records, secret_hash};
use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Pipeline, cmd};
use remeet_protocol::message::MeetingState;
use remeet_protocol::record::{Digest, Mark};
use remeet_protocol::{DomainId, Epoch, Handle, LegId, Record, RecordKey, ServerId};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A command's answer comes within this; a pipeline of [`CHUNK`] legs is some megabytes.
const ANSWER: Duration = Duration::from_secs(20);
/// Names a pipeline: their content is held in memory at once.
const CHUNK: usize = 200;
/// Rounds of a scan: far more than ten million names need.
const SCANS_MAX: usize = 100_000;

/// A Redis database.
pub(crate) struct Place {
    pub(crate) client: Client,
}

fn wrong(error: ::redis::RedisError) -> ReadError {
    ReadError::new("reading Redis", error)
}

fn unreadable(name: &str, reason: impl std::fmt::Display) -> ReadError {
    ReadError::new("reading Redis", format!("{name}: {reason}"))
}

/// What a name says.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Key(DomainId, LegId),
    Leg(DomainId, LegId),
    /// The marker of a forgotten leg.
    Gone,
}

impl Place {
    /// A connection whose answers are waited for.
    pub(crate) async fn connect(&self) -> Result<MultiplexedConnection, ReadError> {
        let config =
            AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER)).set_connection_timeout(Some(ANSWER));
        self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(wrong)
    }

    /// Reads everything that is under the scheduler's names.
    pub(crate) async fn read(&self) -> Result<Cached, ReadError> {
        let mut connection = self.connect().await?;
        let names: Vec<String> = scan(&mut connection).await?.into_iter().collect();
        let mut cached = Cached::default();
        for chunk in names.chunks(CHUNK) {
            let known = chunk.iter().map(|name| Ok((name, parse(name)?))).collect::<Result<Vec<_>, ReadError>>()?;
            let known: Vec<_> = known.into_iter().filter(|(_, parsed)| *parsed != Name::Gone).collect();
            if known.is_empty() {
                continue;
            }
            let mut pipeline = Pipeline::with_capacity(known.len());
            for (name, _) in &known {
                pipeline.cmd("HGETALL").arg(*name);
            }
            let hashes: Vec<BTreeMap<String, String>> = pipeline.query_async(&mut connection).await.map_err(wrong)?;
            for ((name, parsed), fields) in known.into_iter().zip(hashes) {
                take(&mut cached, name, &parsed, &fields)?;
            }
        }
        Ok(cached)
    }

    /// Deletes keys of legs, so that the cache misses them.
    pub(crate) async fn forget_keys(&self, domain: DomainId, legs: &[LegId]) -> Result<(), ReadError> {
        let mut connection = self.connect().await?;
        let mut pipeline = Pipeline::with_capacity(legs.len());
        for leg in legs {
            pipeline.cmd("DEL").arg(format!("remeet:{{{domain}}}:key:{}:{}", leg.meeting, leg.leg));
        }
        let deleted: Vec<u64> = pipeline.query_async(&mut connection).await.map_err(wrong)?;
        let deleted: u64 = deleted.into_iter().sum();
        if deleted == legs.len() as u64 {
            return Ok(());
        }
        Err(ReadError::new("deleting keys from Redis", format!("{deleted} of {} were there", legs.len())))
    }
}

async fn scan(connection: &mut MultiplexedConnection) -> Result<BTreeSet<String>, ReadError> {
    let mut names = BTreeSet::new();
    let mut cursor = 0_u64;
    for _ in 0..SCANS_MAX {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg("remeet:*").arg("COUNT").arg(1_000);
        let (next, found): (u64, Vec<String>) = scan.query_async(connection).await.map_err(wrong)?;
        names.extend(found);
        cursor = next;
        if cursor == 0 {
            return Ok(names);
        }
    }
    Err(ReadError::new("listing Redis' names", "the scan has no end"))
}

/// `remeet:{DOMAIN}:KIND:MEETING:LEG`.
fn parse(name: &str) -> Result<Name, ReadError> {
    let strange = || unreadable(name, "a name of another layout");
    let rest = name.strip_prefix("remeet:{").ok_or_else(strange)?;
    let (domain, rest) = rest.split_once("}:").ok_or_else(strange)?;
    let mut parts = rest.split(':');
    let (Some(kind), Some(meeting), Some(leg), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(strange());
    };
    let domain = DomainId(domain.parse().map_err(|_| strange())?);
    let leg = LegId { meeting: meeting.parse().map_err(|_| strange())?, leg: leg.parse().map_err(|_| strange())? };
    match kind {
        "key" => Ok(Name::Key(domain, leg)),
        "leg" => Ok(Name::Leg(domain, leg)),
        "gone" => Ok(Name::Gone),
        _ => Err(strange()),
    }
}

struct Fields<'a> {
    name: &'a str,
    fields: &'a BTreeMap<String, String>,
}

impl Fields<'_> {
    fn text(&self, field: &str) -> Result<&str, ReadError> {
        let text = self.fields.get(field).map(String::as_str);
        text.ok_or_else(|| unreadable(self.name, format!("no field {field}")))
    }

    fn parsed<T: std::str::FromStr>(&self, field: &str) -> Result<T, ReadError> {
        let text = self.text(field)?;
        text.parse().map_err(|_| unreadable(self.name, format!("field {field} is {text:?}")))
    }
}

fn take(cached: &mut Cached, name: &str, parsed: &Name, fields: &BTreeMap<String, String>) -> Result<(), ReadError> {
    let read = Fields { name, fields };
    match parsed {
        _ if fields.is_empty() => {} // deleted since the scan
        Name::Gone => {}
        Name::Key(..) | Name::Leg(..) if read.text("format")? != "1" => {
            return Err(unreadable(name, "another format than 1"));
        }
        Name::Key(domain, leg) => {
            let secret = u128::from_str_radix(read.text("secret")?, 16).map_err(|error| unreadable(name, error))?;
            same_domain(&read, *domain)?;
            let whole = KeyRow {
                domain: *domain,
                server: ServerId(read.parsed("server")?),
                generation: read.parsed("generation")?,
                number: read.text("number")?.to_owned(),
                title: read.text("title")?.to_owned(),
                creator: read.text("creator")?.to_owned(),
                creator_name: read.text("creator_name")?.to_owned(),
                made_at_ms: read.parsed("made_at_ms")?,
                secret_sha256: secret_hash(&secret.to_be_bytes()),
            };
            let key = CachedKey {
                generation: whole.generation,
                epoch: Epoch(read.parsed("epoch")?),
                secret_sha256: whole.secret_sha256.clone(),
                whole: Some(whole),
            };
            cached.keys.insert(*leg, key);
        }
        Name::Leg(domain, leg) => {
            same_domain(&read, *domain)?;
            let digest = u128::from_str_radix(read.text("digest")?, 16).map_err(|error| unreadable(name, error))?;
            let mark =
                Mark { revision: read.parsed("revision")?, count: read.parsed("count")?, digest: Digest(digest) };
            let head = CachedHead {
                domain: *domain,
                server: ServerId(read.parsed("server")?),
                boot: read.parsed("boot")?,
                handle: Handle(read.parsed("handle")?),
                state: state(read.text("state")?),
                mark,
            };
            let records = records(name, fields)?;
            cached.legs.insert(*leg, CachedLeg { head, epoch: Epoch(read.parsed("epoch")?), records });
        }
    }
    Ok(())
}

fn same_domain(read: &Fields<'_>, domain: DomainId) -> Result<(), ReadError> {
    let stored: u32 = read.parsed("domain")?;
    if stored == domain.0 { Ok(()) } else { Err(unreadable(read.name, format!("field domain is {stored}"))) }
}

fn state(name: &str) -> MeetingState {
    match name {
        "in-meeting" => MeetingState::InMeeting,
        "created" => MeetingState::Created,
        "starting" => MeetingState::Starting,
        "recovering" => MeetingState::Recovering,
        "unreachable" => MeetingState::Unreachable,
        "ending" => MeetingState::Ending,
        "ended" => MeetingState::Ended,
        "partly" => MeetingState::Partly,
        "adopting" => MeetingState::Adopting,
        // No live leg is in a state without a name.
        _ => MeetingState::from(0),
    }
}

const HEAD: [&str; 10] =
    ["format", "epoch", "domain", "server", "boot", "handle", "state", "revision", "count", "digest"];

#[derive(Deserialize)]
struct Stored {
    revision: u64,
    record: Record,
}

fn records(name: &str, fields: &BTreeMap<String, String>) -> Result<Records, ReadError> {
    let mut records = Records::new();
    for (field, json) in fields.iter().filter(|(field, _)| !HEAD.contains(&field.as_str())) {
        let Stored { revision, record } =
            serde_json::from_str(json).map_err(|error| unreadable(name, format!("field {field}: {error}")))?;
        let key = record.key();
        if field_of(&key) != *field {
            return Err(unreadable(name, format!("field {field} holds the record of {}", field_of(&key))));
        }
        records.insert(key, Held { revision, record });
    }
    Ok(records)
}

fn field_of(key: &RecordKey) -> String {
    let escaped = |number: &remeet_protocol::record::Number| number.as_str().replace('%', "%25").replace(':', "%3A");
    match key {
        RecordKey::Leg => "leg".to_owned(),
        RecordKey::Terminal(number) => format!("t:{}", escaped(number)),
        RecordKey::Window(number, window) => format!("w:{}:{window}", escaped(number)),
        RecordKey::Entry(number, key) => format!("e:{}:{key}", escaped(number)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_and_strange_ones_are_errors() {
        let name = "remeet:{7}:key:0192f0c0-0000-7000-8000-000000000001:2";
        let Name::Key(domain, leg) = parse(name).unwrap() else { panic!("a key's name") };
        assert_eq!((domain, leg.leg), (DomainId(7), 2));
        assert_eq!(parse(&name.replace("key", "gone")).unwrap(), Name::Gone);
        for strange in ["remeet:x", "remeet:{7}:key:1:2", "remeet:{7}:other:0192f0c0-0000-7000-8000-000000000001:2"] {
            assert!(parse(strange).is_err(), "{strange}");
        }
    }

    #[test]
    fn a_record_under_the_field_of_another_is_an_error() {
        let json = r#"{"revision":3,"record":{"entry":{"terminal":"1001","key":"seat","value":[1]}}}"#;
        let held = |field: &str| BTreeMap::from([(field.to_owned(), json.to_owned())]);
        assert_eq!(records("n", &held("e:1001:seat")).unwrap().len(), 1);
        assert!(records("n", &held("e:1002:seat")).is_err());
    }
}
