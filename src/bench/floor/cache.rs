//! The fields of a recovery, read from and written to Redis in pipelines. The cache inside the scheduler has no floor.

use super::Load;
use crate::stage::backing::Backing;
use crate::stage::{DOMAIN, StageError};
use crate::store::redis::layout::ask_stamp;
use ::redis::aio::MultiplexedConnection;
use ::redis::pipe;
use remeet_protocol::{DomainId, LegId};

/// Commands of a pipeline.
const COMMANDS: usize = 2_000;
/// What the cache keeps of a leg beside its records.
const HEAD: [&str; 10] =
    ["format", "epoch", "boot", "handle", "revision", "count", "digest", "state", "server", "domain"];
/// A record in the cache, as long as they are.
const RECORD: &str = r#"{"revision":17,"record":{"terminal":"5000001002","key":"temperature","value":"4711471147"}}"#;

type Stamp = Vec<Option<String>>;

pub(super) struct Plain {
    connection: MultiplexedConnection,
    legs: Vec<LegId>,
    written: usize,
    records: usize,
}

impl Plain {
    pub(super) async fn open(load: &Load, backing: &Backing) -> Result<Option<Self>, StageError> {
        let Some(mut connection) = backing.redis().await? else { return Ok(None) };
        let legs = load.all();
        if let Some(leg) = legs.first() {
            let mut pipeline = pipe();
            ask_stamp(&mut pipeline, (DomainId(DOMAIN), *leg));
            let stamps: Vec<Stamp> = pipeline.query_async(&mut connection).await.map_err(StageError::new)?;
            // Reading what is not there would be a floor of nothing.
            if stamps.iter().any(|stamp| stamp.iter().all(Option::is_none)) {
                return Err(StageError::new(format!(
                    "the floor's names are not the cache's: it holds nothing of {leg}"
                )));
            }
        }
        let (written, records) = load.cached;
        Ok(Some(Self { connection, legs, written, records }))
    }

    pub(super) async fn work(mut self) -> Result<(), StageError> {
        for legs in self.legs.chunks(COMMANDS / 2) {
            let mut pipeline = pipe();
            legs.iter().for_each(|leg| ask_stamp(&mut pipeline, (DomainId(DOMAIN), *leg)));
            pipeline.query_async::<Vec<Stamp>>(&mut self.connection).await.map_err(StageError::new)?;
        }
        for legs in self.legs[..self.written].chunks(COMMANDS) {
            let mut pipeline = pipe();
            for leg in legs {
                let set = pipeline.cmd("HSET").arg(format!("remeet-floor:{leg}"));
                for name in HEAD {
                    set.arg(name).arg("00000000000000000017");
                }
                for record in 0..self.records {
                    set.arg(format!("entry:500000{record:04}:temperature")).arg(RECORD);
                }
                set.ignore();
            }
            pipeline.query_async::<()>(&mut self.connection).await.map_err(StageError::new)?;
        }
        Ok(())
    }
}
