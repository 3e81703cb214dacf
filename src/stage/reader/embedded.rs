//! Reads the dump of the cache that is inside the scheduler: a leg or a key an item.

use super::ReadError;
use super::facts::{Cached, CachedHead, CachedKey, CachedLeg, Held};
use remeet_protocol::message::MeetingState;
use remeet_protocol::record::{Mark, RecordState};
use remeet_protocol::{BootId, Change, DomainId, Epoch, Handle, LegId, ServerId};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Item {
    Leg(Leg),
    Key(Key),
}

#[derive(Deserialize)]
struct Leg {
    head: Head,
    mark: Mark,
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Head {
    leg: LegId,
    domain: DomainId,
    server: ServerId,
    boot: BootId,
    handle: Handle,
    state: MeetingState,
    epoch: Epoch,
}

#[derive(Deserialize)]
struct Key {
    leg: LegId,
    generation: u64,
    epoch: Epoch,
    secret_sha256: String,
}

/// Takes the dump's items.
pub(crate) fn read(items: Vec<Value>) -> Result<Cached, ReadError> {
    let mut cached = Cached::default();
    for item in items {
        match serde_json::from_value(item).map_err(|error| ReadError::new("reading the cache's dump", error))? {
            Item::Leg(Leg { head, mark, changes }) => {
                let records = changes.into_iter().filter_map(|change| match change.state {
                    RecordState::Present(record) => Some((record.key(), Held { revision: change.revision, record })),
                    RecordState::Removed(_) => None,
                });
                let Head { leg, domain, server, boot, handle, state, epoch } = head;
                let head = CachedHead { domain, server, boot, handle, state, mark };
                cached.legs.insert(leg, CachedLeg { head, epoch, records: records.collect() });
            }
            Item::Key(Key { leg, generation, epoch, secret_sha256 }) => {
                cached.keys.insert(leg, CachedKey { generation, epoch, secret_sha256, whole: None });
            }
        }
    }
    Ok(cached)
}
