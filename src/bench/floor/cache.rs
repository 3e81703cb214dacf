//! The fields of a recovery, read from and written to Redis in pipelines. The cache inside the scheduler has no floor.

use super::Load;
use crate::stage::backing::Backing;
use crate::stage::{DOMAIN, StageError};
use ::redis::aio::MultiplexedConnection;
use ::redis::pipe;
use remeet_protocol::LegId;

/// Commands of a pipeline.
const COMMANDS: usize = 2_000;
/// What the cache keeps of a leg beside its records.
const HEAD: [&str; 10] =
    ["format", "epoch", "boot", "handle", "revision", "count", "digest", "state", "server", "domain"];
/// A record in the cache, as long as they are.
const RECORD: &str = r#"{"revision":17,"record":{"terminal":"5000001002","key":"temperature","value":"4711471147"}}"#;

pub(super) struct Plain {
    connection: MultiplexedConnection,
    legs: Vec<LegId>,
    changed: usize,
    records: usize,
}

impl Plain {
    pub(super) async fn open(load: &Load, backing: &Backing) -> Result<Option<Self>, StageError> {
        let Some(connection) = backing.redis().await? else { return Ok(None) };
        let records = load.changes.checked_div(load.changed).unwrap_or_default();
        Ok(Some(Self { connection, legs: load.all(), changed: load.changed, records }))
    }

    pub(super) async fn work(mut self) -> Result<(), StageError> {
        for legs in self.legs.chunks(COMMANDS / 2) {
            let mut pipeline = pipe();
            for leg in legs {
                pipeline.cmd("HMGET").arg(format!("remeet:{DOMAIN}:key:{leg}")).arg(&HEAD[..4]);
                pipeline.cmd("HMGET").arg(format!("remeet:{DOMAIN}:leg:{leg}")).arg(&HEAD[..7]);
            }
            pipeline.query_async::<Vec<Vec<Option<String>>>>(&mut self.connection).await.map_err(StageError::new)?;
        }
        for legs in self.legs[..self.changed].chunks(COMMANDS) {
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
