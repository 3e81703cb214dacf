//! Redis' answers, read. What cannot be read is a miss for its leg, never a fault of the others.

use super::Name;
use super::connection::server_text;
use super::layout::{FORMAT, RecordValue, field, is_record, state_from_name};
use super::scripts::{APPLIED, LOST, STALE};
use crate::store::{CacheError, CacheOutcome, CacheStamp, CachedHead, CachedKey, CachedLeg};
use ::redis::{Value, from_redis_value};
use remeet_protocol::record::{Digest, Mark, RecordState};
use remeet_protocol::{BootId, Change, Epoch, Handle, LegId, Secret, ServerId};
use std::collections::HashMap;

/// The scripts' answers.
pub(super) fn outcomes(doing: &'static str, values: &[Value]) -> Result<Vec<CacheOutcome>, CacheError> {
    let outcome = |value: &Value| match value {
        Value::Int(APPLIED) => Ok(CacheOutcome::Applied),
        Value::Int(STALE) => Ok(CacheOutcome::Stale),
        Value::Int(LOST) => Ok(CacheOutcome::Lost),
        Value::ServerError(error) => Err(CacheError { doing, reason: server_text(error) }),
        other => Err(CacheError { doing, reason: format!("an answer that no script gives: {other:?}") }),
    };
    values.iter().map(outcome).collect()
}

/// A page of a scan: the next cursor and the names. Names that are not text are nobody's here.
pub(super) fn scanned(doing: &'static str, values: Vec<Value>) -> Result<(u64, Vec<String>), CacheError> {
    let page = values.into_iter().next().unwrap_or(Value::Nil);
    let (cursor, names): (u64, Vec<Vec<u8>>) =
        from_redis_value(page).map_err(|error| CacheError { doing, reason: error.to_string() })?;
    Ok((cursor, names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect()))
}

/// A key from [`super::layout::KEY_FIELDS`].
pub(super) fn key(leg: LegId, value: &Value) -> Option<CachedKey> {
    let [epoch, generation, secret] = texts(leg, value)?;
    let read = (|| {
        Some(CachedKey {
            leg,
            epoch: Epoch(epoch.parse().ok()?),
            generation: generation.parse().ok()?,
            secret: Secret::new(hex(secret)?.to_be_bytes()),
        })
    })();
    if read.is_none() {
        tracing::warn!(%leg, "the cached key cannot be read: it counts as a miss");
    }
    read
}

/// A stamp from [`super::layout::KEY_FIELDS`] and [`super::layout::STAMP_FIELDS`].
pub(super) fn stamp(leg: LegId, key_value: &Value, leg_value: &Value) -> CacheStamp {
    let head = texts(leg, leg_value).and_then(|[revision, count, digest, boot, handle, state]| {
        let place = (boot.parse().ok()?, Handle(handle.parse().ok()?));
        Some((mark(revision, count, digest)?, place, state_from_name(state)?))
    });
    CacheStamp {
        generation: key(leg, key_value).map(|key| key.generation),
        mark: head.map(|(mark, ..)| mark),
        place: head.map(|(_, place, _)| place),
        state: head.map(|(.., state)| state),
    }
}

/// A leg from all fields of its hash.
pub(super) fn leg((domain, leg): Name, value: Value) -> Option<CachedLeg> {
    let fields: HashMap<String, String> = match from_redis_value(value) {
        Ok(fields) => fields,
        Err(error) => {
            tracing::warn!(%leg, %error, "the cached status cannot be read: it counts as a miss");
            return None;
        }
    };
    if fields.is_empty() || !is_readable(leg, fields.get("format").map(String::as_str)) {
        return None;
    }
    let read = (|| {
        let text = |name: &str| fields.get(name).map(String::as_str);
        let head = CachedHead {
            leg,
            domain,
            server: ServerId(text("server")?.parse().ok()?),
            boot: text("boot")?.parse::<BootId>().ok()?,
            handle: Handle(text("handle")?.parse().ok()?),
            state: state_from_name(text("state")?)?,
            epoch: Epoch(text("epoch")?.parse().ok()?),
        };
        let mark = mark(text("revision")?, text("count")?, text("digest")?)?;
        let records = fields.iter().filter(|(name, _)| is_record(name));
        let mut keyed = records.map(|(name, json)| record(name, json)).collect::<Option<Vec<_>>>()?;
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(CachedLeg { head, mark, changes: keyed.into_iter().map(|(_, change)| change).collect() })
    })();
    if read.is_none() {
        tracing::warn!(%leg, "the cached status cannot be read: it counts as a miss");
    }
    read
}

fn record(name: &str, json: &str) -> Option<(remeet_protocol::RecordKey, Change)> {
    let RecordValue { revision, record } = serde_json::from_str(json).ok()?;
    let key = record.key();
    (field(&key) == name).then(|| (key, Change { revision, state: RecordState::Present(record) }))
}

/// `N` texts behind a format; `None` if one is absent, the format another, or the name of a wrong type. Borrowed: after a
/// restart a dozen of each leg are read.
fn texts<const N: usize>(leg: LegId, value: &Value) -> Option<[&str; N]> {
    let read = (|| {
        let Value::Array(fields) = value else { return Err("not a list") };
        let Some((format, fields)) = fields.split_first() else { return Err("an empty list") };
        let (format, mut texts, mut there) = (text(format)?, [""; N], fields.len() == N);
        for (place, field) in texts.iter_mut().zip(fields) {
            match text(field)? {
                Some(text) => *place = text,
                None => there = false,
            }
        }
        Ok((format, there.then_some(texts)))
    })();
    match read {
        Ok((format, texts)) => is_readable(leg, format).then_some(texts)?,
        Err(error) => {
            // Never the value: it may hold a secret.
            let error = if let Value::ServerError(said) = value { server_text(said) } else { error.to_owned() };
            tracing::warn!(%leg, error, "what is cached cannot be read: it counts as a miss");
            None
        }
    }
}

fn text(field: &Value) -> Result<Option<&str>, &'static str> {
    match field {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| "not text"),
        _ => Err("a field that is not text"),
    }
}

fn is_readable(leg: LegId, format: Option<&str>) -> bool {
    let readable = format.is_none_or(|format| format == FORMAT);
    if !readable {
        tracing::warn!(%leg, format, "what is cached is of another release's format: it counts as a miss");
    }
    readable
}

fn mark(revision: &str, count: &str, digest: &str) -> Option<Mark> {
    Some(Mark { revision: revision.parse().ok()?, count: count.parse().ok()?, digest: Digest(hex(digest)?) })
}

/// Just 32 hexadecimal digits.
fn hex(text: &str) -> Option<u128> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_32_hexadecimal_digits_are_a_secret_or_digest() {
        assert_eq!(hex("0000000000000000000000000000002a"), Some(42));
        for wrong in ["", "2a", "+000000000000000000000000000002a", "0000000000000000000000000000002g"] {
            assert_eq!(hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn texts_are_read_if_all_are_there_and_of_this_format() {
        let leg = LegId { meeting: remeet_protocol::MeetingId::default(), leg: 0 };
        let bulk = |text: &[u8]| Value::BulkString(text.to_vec());
        let read = |fields: &[Value]| {
            let value = Value::Array(fields.to_vec());
            texts::<2>(leg, &value).map(|texts| texts.map(str::to_owned))
        };
        let both = Some(["a".to_owned(), String::new()]);
        assert_eq!(read(&[bulk(b"1"), bulk(b"a"), bulk(b"")]), both);
        assert_eq!(read(&[Value::Nil, bulk(b"a"), bulk(b"")]), both, "without a format it is of the first");
        for (fields, what) in [
            (vec![Value::Nil; 3], "absent"),
            (vec![bulk(b"2"), bulk(b"a"), bulk(b"b")], "another format"),
            (vec![bulk(&[0xff]), bulk(b"a"), bulk(b"b")], "a format that is not text"),
            (vec![bulk(b"1"), Value::Nil, bulk(b"b")], "one is absent"),
            (vec![bulk(b"1"), bulk(b"a")], "too few"),
            (vec![bulk(b"1"), bulk(b"a"), bulk(b"b"), bulk(b"c")], "too many"),
            (vec![bulk(b"1"), bulk(b"a"), bulk(&[0xff])], "not text"),
            (vec![bulk(b"1"), bulk(b"a"), Value::Int(1)], "a number"),
            (vec![], "empty"),
        ] {
            assert_eq!(read(&fields), None, "{what}");
        }
        assert_eq!(texts::<2>(leg, &Value::Nil), None);
    }
}
