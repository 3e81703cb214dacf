//! What the cache still holds of meetings that have ended: a scheduler that died between the end's commit and the
//! cache's forgetting left it there, and no server need name such a meeting any more. Once in a term, and with every
//! comparison of everything, names are compared; content is not read.

use super::core::{Core, Reading};
use super::{CacheTask, Output, Read};
use crate::model::StoredState;
use remeet_protocol::{DomainId, LegId};
use std::collections::BTreeSet;

impl Core {
    /// When no round runs any more, so that most legs are in memory: asks for the names.
    pub(super) fn sweep_cache(&mut self) {
        if self.swept || self.servers.values().any(|server| server.round.is_some()) {
            return;
        }
        self.swept = true;
        let domains: BTreeSet<DomainId> = self.servers.values().map(|server| server.domain).collect();
        for domain in domains {
            let id = self.read_id();
            self.reads.insert(id, Reading::CachedNames(domain));
            self.put(Output::Read { id, read: Read::CachedNames(domain) });
        }
    }

    /// What is cached and not known to live: whether it has ended is for the store to say.
    pub(super) fn cached_names(&mut self, domain: DomainId, names: Result<Vec<LegId>, String>) {
        let Ok(names) = names else {
            // The next round's end asks again.
            self.swept = false;
            return;
        };
        for leg in names {
            if self.legs.get(&leg).is_none_or(|known| known.row.state == StoredState::Ended) {
                self.put(Output::Cache(CacheTask::ForgetEnded(domain, leg)));
            }
        }
    }
}
