//! A plan that is made and shown, and not carried out: what a round would do now. It asks for inventories and
//! reads the store; it attaches to nothing, so a standby can be asked as well.

use super::core::{Asked, Core, Reading};
use super::plan::{Bucket, Planned, Seen, plan, takeover_order};
use super::{Output, Read, Waiter};
use crate::model::StoredLeg;
use crate::session::{Inventory, Request, RequestError, Ticket};
use crate::store::LookUp;
use remeet_protocol::{BootId, LegId, ServerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Dry runs under way, over all servers: an operator has a few terminals open, and a comparison reads every leg.
const DRY_RUNS_MAX: usize = 4;

/// What a round over one server would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerPlan {
    /// The server.
    pub server: ServerId,
    /// Why there is no plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The life of its table.
    pub boot: BootId,
    /// The revision of its table that the inventory was cut at.
    pub table_revision: u64,
    /// What would be done, in the order of takeovers; legs that need nothing are left out.
    pub legs: Vec<PlannedLeg>,
}

/// What a round would do about one leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedLeg {
    /// Where the plan puts it, and why.
    #[serde(flatten)]
    pub place: Planned,
    /// It is in control already: only its content would be compared.
    pub in_control: bool,
}

/// A dry run under way.
#[derive(Debug)]
pub(super) struct DryRun {
    waiter: Waiter,
    /// Servers whose plan is not made yet.
    open: BTreeSet<ServerId>,
}

impl Core {
    /// Begins a dry run over `servers`: each one's plan comes as [`Output::Planned`].
    pub(super) fn dry_run(&mut self, waiter: Waiter, servers: Vec<ServerId>) {
        if self.dry_runs.len() >= DRY_RUNS_MAX {
            let trouble = format!("{DRY_RUNS_MAX} dry runs are under way: try again when one has ended");
            let mut servers = servers.into_iter().peekable();
            while let Some(server) = servers.next() {
                let last = servers.peek().is_none();
                self.put(Output::Planned { waiter, plan: Box::new(no_plan(server, trouble.clone())), last });
            }
            return;
        }
        self.dry_runs.push(DryRun { waiter, open: servers.iter().copied().collect() });
        for server in servers {
            match self.servers.get(&server) {
                Some(known) if known.up => {
                    self.ask(server, Asked::DryRun(server, waiter), Request::Inventory, None);
                }
                known => {
                    let why = known.and_then(|known| known.trouble.clone());
                    let why = why.unwrap_or_else(|| "it is not connected".to_owned());
                    self.planned(waiter, no_plan(server, why));
                }
            }
        }
    }

    /// A dry run's inventory is there: says whether it was one.
    pub(super) fn dry_run_inventory(&mut self, ticket: Ticket, result: &Result<Inventory, RequestError>) -> bool {
        let Some(Asked::DryRun(server, waiter)) = self.tickets.get(&ticket).cloned() else { return false };
        self.tickets.remove(&ticket);
        match result {
            Ok(inventory) => {
                let legs = inventory.entries.iter().map(|entry| entry.leg).collect();
                let id = self.read_id();
                self.reads.insert(id, Reading::DryRun(server, waiter, Box::new(inventory.clone())));
                self.put(Output::Read { id, read: Read::LookUp { server, legs } });
            }
            Err(error) => self.planned(waiter, no_plan(server, format!("inventory: {error}"))),
        }
        true
    }

    pub(super) fn dry_run_looked_up(
        &mut self,
        server: ServerId,
        waiter: Waiter,
        inventory: &Inventory,
        found: Result<LookUp, String>,
    ) {
        let found = match found {
            Ok(found) => found,
            Err(reason) => return self.planned(waiter, no_plan(server, format!("look-up: {reason}"))),
        };
        let rows: BTreeMap<LegId, &StoredLeg> = found.found.iter().map(|found| (found.row.leg, &found.row)).collect();
        let unreadable: BTreeSet<&str> = found.bad.iter().map(|bad| bad.leg.as_str()).collect();
        let seen = Seen {
            server,
            boot: inventory.boot,
            table_revision: inventory.table_revision,
            inventory: &inventory.entries,
            stored: &rows,
        };
        let mut legs: Vec<PlannedLeg> = plan(&seen)
            .into_iter()
            .map(|mut place| {
                if place.bucket == Bucket::Orphan && unreadable.contains(place.leg.to_string().as_str()) {
                    place.bucket = Bucket::Unclear("its stored row cannot be read");
                }
                let in_control = place.bucket == Bucket::TakeOver
                    && self.legs.get(&place.leg).is_some_and(|known| known.is_ours(self.token));
                PlannedLeg { place, in_control }
            })
            .collect();
        legs.sort_by_key(|leg| {
            let first = rows.get(&leg.place.leg).is_some_and(|row| row.first);
            takeover_order(first, leg.place.terminals, leg.place.handle.unwrap_or_default())
        });
        let plan =
            ServerPlan { server, trouble: None, boot: inventory.boot, table_revision: inventory.table_revision, legs };
        self.planned(waiter, plan);
    }

    fn planned(&mut self, waiter: Waiter, plan: ServerPlan) {
        let Some(run) = self.dry_runs.iter_mut().find(|run| run.waiter == waiter) else { return };
        run.open.remove(&plan.server);
        let last = run.open.is_empty();
        if last {
            self.dry_runs.retain(|run| run.waiter != waiter);
        }
        self.put(Output::Planned { waiter, plan: Box::new(plan), last });
    }
}

fn no_plan(server: ServerId, trouble: String) -> ServerPlan {
    ServerPlan { server, trouble: Some(trouble), boot: BootId::default(), table_revision: 0, legs: Vec::new() }
}
