//! The scripts that decide and make writes on the server, in one atomic step (rule 4).
//!
//! Numbers are compared as texts of decimal digits: Lua's own numbers are exact only up to 2^53.
//! A name of a wrong type, or a head that cannot be read, is replaced: it must not block a leg for ever.
//! Where memory may be short a refusal (OOM) leaves everything as it was: Redis refuses only a script's first write.
//! That is an `HSET`, of a key or of a head; where a whole is replaced it is the `DEL` of what was held, which is never
//! refused, and nothing after it is: it takes about the memory that it frees.

use super::Name;
use super::layout::{self, FORMAT, Kind, RecordRef, field, name};
use crate::model::RecoveryKey;
use crate::store::CacheWrite;
use ::redis::{Pipeline, Value};
use remeet_protocol::record::RecordState;
use remeet_protocol::{Change, Epoch, Record, RecordKey};
use std::collections::BTreeMap;

/// The scripts' answers.
pub(super) const APPLIED: i64 = 0;
pub(super) const STALE: i64 = 1;
pub(super) const LOST: i64 = 2;

/// How long a forgotten leg's marker stays. A write that lands late sits in a socket or in a stopped
/// server; ten minutes are far beyond the life of either's connection.
const GONE_FOR_MS: u64 = 600_000;

const COMMON: &str = r"
local function number(text)
  if text and #text <= 20 and string.find(text, '^%d+$') then return text end
end
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
-- Whether a hash with this field `format` is of the format that is written here.
local function is_ours(format)
  return not format or format == FORMAT
end
local function is_gone(name, epoch)
  local held = redis.pcall('GET', name)
  local gone = type(held) == 'string' and number(held)
  return gone and not less(gone, epoch)
end
-- The fields of a hash; none if it is absent or of a wrong type; or an error.
local function fields(name, ...)
  local held = redis.pcall('HMGET', name, ...)
  if held.err then
    if string.sub(held.err, 1, 9) ~= 'WRONGTYPE' then return nil, held end
    return {}
  end
  return held
end
";

/// KEYS: key, gone. ARGV: epoch, generation, secret, then other fields and values.
const PUT_KEY: &str = r"
if is_gone(KEYS[2], ARGV[1]) then return 2 end
local held, failed = fields(KEYS[1], 'epoch', 'generation', 'secret', 'format')
if failed then return failed end
local epoch, generation = number(held[1]), number(held[2])
if epoch and generation then
  if less(ARGV[1], epoch) then return 2 end
  if epoch == ARGV[1] and less(ARGV[2], generation) then return 2 end
  if generation == ARGV[2] and held[3] == ARGV[3] and is_ours(held[4]) then
    if epoch ~= ARGV[1] then redis.call('HSET', KEYS[1], 'epoch', ARGV[1]) end
    return 0
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'format', FORMAT, 'epoch', ARGV[1], 'generation', ARGV[2], 'secret', ARGV[3],
  unpack(ARGV, 4))
return 0
";

/// KEYS: leg, gone. ARGV: base (empty: the whole content), then epoch, boot, handle, revision, count,
/// digest, state, server, domain; the number of removed fields, these, then fields and values.
const WRITE: &str = r"
local base, epoch, boot, handle, revision = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local count, digest, state, server = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
if is_gone(KEYS[2], epoch) then return 2 end
local held, failed = fields(KEYS[1], 'epoch', 'revision', 'boot', 'handle', 'count', 'digest', 'state', 'server',
  'format')
if failed then return failed end
local function put_head()
  redis.call('HSET', KEYS[1], 'format', FORMAT, 'epoch', epoch, 'boot', boot, 'handle', handle, 'revision', revision,
    'count', count, 'digest', digest, 'state', state, 'server', server, 'domain', ARGV[10])
end
local known = number(held[1]) and number(held[2])
local same_place = known and held[3] == boot and held[4] == handle and is_ours(held[9])
if known then
  if less(epoch, held[1]) then return 2 end
  local same_epoch = epoch == held[1]
  -- Revisions compare only within one boot id and handle.
  if same_epoch and same_place and less(revision, held[2]) then return 2 end
  if same_place and held[2] == revision and held[5] == count and held[6] == digest then
    if same_epoch and held[7] ~= state then
      if held[7] == 'ended' or (held[7] == 'ending' and state ~= 'ended') then return 2 end
    end
    -- A whole content replaces what is held even so: an equal mark does not say that the records fit it.
    if base ~= '' then
      if not same_epoch or held[7] ~= state or held[8] ~= server then put_head() end
      return 0
    end
  end
end
if base ~= '' then
  if not same_place or held[2] ~= base then return 1 end
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DEL', KEYS[1])
end
put_head()
local first = 12 + tonumber(ARGV[11])
-- Lua's stack bounds how many arguments a call may have.
for from = first, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, from, math.min(from + 999, #ARGV)))
end
for from = 12, first - 1, 1000 do
  redis.call('HDEL', KEYS[1], unpack(ARGV, from, math.min(from + 999, first - 1)))
end
return 0
";

/// KEYS: key, leg, gone. ARGV: epoch, milliseconds to remember it.
const FORGET: &str = r"
for i = 1, 2 do
  local held, failed = fields(KEYS[i], 'epoch')
  if failed then return failed end
  local epoch = number(held[1])
  if not (epoch and less(ARGV[1], epoch)) then redis.call('DEL', KEYS[i]) end
end
if not is_gone(KEYS[3], ARGV[1]) then redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2]) end
return 0
";

/// A script and the hash that calls it.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) code: String,
    hash: String,
}

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) put_key: Script,
    pub(super) write: Script,
    pub(super) forget: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self { put_key: Script::new(PUT_KEY), write: Script::new(WRITE), forget: Script::new(FORGET) }
    }

    pub(super) fn put_key(&self, pipeline: &mut Pipeline, epoch: Epoch, key: &RecoveryKey) {
        let at = (key.domain, key.leg);
        self.put_key
            .call(pipeline, &[name(Kind::Key, at), name(Kind::Gone, at)])
            .arg(epoch.0)
            .arg(key.generation)
            .arg(format!("{:032x}", u128::from_be_bytes(*key.secret.expose())))
            .arg(&["domain", &key.domain.to_string(), "server", &key.server.to_string()])
            .arg(&["number", key.number.as_str(), "title", key.title.as_str()])
            .arg(&["creator", key.creator.as_str(), "creator_name", key.creator_name.as_str()])
            .arg("made_at_ms")
            .arg(key.made_at_ms);
    }

    pub(super) fn write(&self, pipeline: &mut Pipeline, write: &CacheWrite) {
        let at = (write.head.domain, write.head.leg);
        // The script puts, then removes: of a record that came and went and came, only what it is at last.
        let last: BTreeMap<RecordKey, &Change> = write.changes.iter().map(|change| (change.key(), change)).collect();
        let removed: Vec<String> = match write.base {
            Some(_) => last.values().filter_map(|change| removed_field(change)).collect(),
            // The whole content: what is not in it goes anyway.
            None => Vec::new(),
        };
        self.write
            .call(pipeline, &[name(Kind::Leg, at), name(Kind::Gone, at)])
            .arg(write.base.map_or_else(String::new, |base| base.to_string()))
            .arg(write.head.epoch.0)
            .arg(write.head.boot.to_string())
            .arg(write.head.handle.0)
            .arg(write.mark.revision)
            .arg(write.mark.count)
            .arg(write.mark.digest.to_string())
            .arg(&*layout::state_name(write.head.state))
            .arg(write.head.server.0)
            .arg(write.head.domain.0)
            .arg(removed.len())
            .arg(removed);
        for change in last.values() {
            if let RecordState::Present(record) = &change.state {
                pipeline.arg(field(&record.key())).arg(value(change.revision, record));
            }
        }
    }

    pub(super) fn forget(&self, pipeline: &mut Pipeline, epoch: Epoch, at: Name) {
        let names = [Kind::Key, Kind::Leg, Kind::Gone].map(|kind| name(kind, at));
        self.forget.call(pipeline, &names).arg(epoch.0).arg(GONE_FOR_MS);
    }
}

impl Script {
    fn new(body: &str) -> Self {
        let code = format!("local FORMAT = '{FORMAT}'{COMMON}{body}");
        let hash = ::redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    fn call<'a>(&self, pipeline: &'a mut Pipeline, names: &[String]) -> &'a mut Pipeline {
        pipeline.cmd("EVALSHA").arg(&self.hash).arg(names.len()).arg(names)
    }
}

/// Whether the server answered that it does not know the script's hash.
pub(super) fn is_unknown_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

fn removed_field(change: &Change) -> Option<String> {
    match &change.state {
        RecordState::Removed(key) => Some(field(key)),
        RecordState::Present(_) => None,
    }
}

fn value(revision: u64, record: &Record) -> String {
    // Texts, numbers, lists of bytes: nothing in a record has no form in JSON.
    serde_json::to_string(&RecordRef { revision, record }).expect("a record is always JSON")
}
