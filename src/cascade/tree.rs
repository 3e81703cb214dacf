//! Which server is under which: a parent relays for the servers below it (SPEC L-1).

use remeet_protocol::ServerId;
use std::collections::{BTreeMap, BTreeSet};

/// The servers of a configuration, each with the one that it is under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    parents: BTreeMap<ServerId, Option<ServerId>>,
}

/// Why a server cannot be reached as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misplaced {
    /// It is under a server that is not configured.
    UnknownParent(ServerId),
    /// It is, by way of others, under itself.
    Circle,
    /// So many relays are in between, which is more than allowed.
    TooDeep(usize),
}

impl Tree {
    /// A tree of servers, each with the one that it is under; `None`: it is dialled.
    pub fn new(servers: impl IntoIterator<Item = (ServerId, Option<ServerId>)>) -> Self {
        Self { parents: servers.into_iter().collect() }
    }

    /// The servers that `server` is under, the nearest first. Ends where it meets itself, or one that is unknown.
    fn above(&self, server: ServerId) -> Vec<ServerId> {
        let mut above = Vec::new();
        let mut seen = BTreeSet::from([server]);
        let mut at = server;
        while let Some(parent) = self.parents.get(&at).copied().flatten() {
            above.push(parent);
            if !seen.insert(parent) {
                break;
            }
            at = parent;
        }
        above
    }

    /// What is wrong with the place of `server`, with at most `relays_max` relays on its way.
    #[must_use]
    pub fn misplaced(&self, server: ServerId, relays_max: usize) -> Option<Misplaced> {
        let above = self.above(server);
        if let Some(unknown) = above.iter().find(|above| !self.parents.contains_key(above)) {
            return Some(Misplaced::UnknownParent(*unknown));
        }
        if above.last().is_some_and(|last| self.parents.get(last).copied().flatten().is_some()) {
            return Some(Misplaced::Circle);
        }
        (above.len() > relays_max).then_some(Misplaced::TooDeep(above.len()))
    }

    /// The server that is dialled to reach `server`: itself, if it is under none.
    #[must_use]
    pub fn dialled(&self, server: ServerId) -> ServerId {
        self.above(server).last().copied().unwrap_or(server)
    }

    /// Every server that is reached through `dialled`, in ascending order, without itself.
    #[must_use]
    pub fn reached_through(&self, dialled: ServerId) -> Vec<ServerId> {
        self.parents.keys().copied().filter(|id| *id != dialled && self.dialled(*id) == dialled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(servers: &[(u32, u32)]) -> Tree {
        Tree::new(servers.iter().map(|(id, under)| (ServerId(*id), (*under != 0).then_some(ServerId(*under)))))
    }

    #[test]
    fn a_server_is_reached_through_the_top_of_its_branch() {
        let tree = tree(&[(1, 0), (2, 1), (3, 1), (4, 3), (5, 0)]);
        assert_eq!(tree.dialled(ServerId(4)), ServerId(1));
        assert_eq!(tree.dialled(ServerId(5)), ServerId(5));
        assert_eq!(tree.reached_through(ServerId(1)), [ServerId(2), ServerId(3), ServerId(4)]);
        assert_eq!(tree.reached_through(ServerId(5)), []);
        assert!((1..=5).all(|id| tree.misplaced(ServerId(id), 2).is_none()));
        assert_eq!(tree.misplaced(ServerId(4), 1), Some(Misplaced::TooDeep(2)));
    }

    #[test]
    fn circles_and_unknown_parents_are_found_from_every_server_of_the_branch() {
        let circle = tree(&[(1, 3), (2, 1), (3, 2), (4, 3)]);
        assert!((1..=4).all(|id| circle.misplaced(ServerId(id), 8) == Some(Misplaced::Circle)));
        assert_eq!(tree(&[(1, 1)]).misplaced(ServerId(1), 8), Some(Misplaced::Circle));
        let unknown = tree(&[(1, 9), (2, 1)]);
        assert!((1..=2).all(|id| unknown.misplaced(ServerId(id), 8) == Some(Misplaced::UnknownParent(ServerId(9)))));
    }

    proptest! {
        /// Whatever is configured, every walk ends, and what is not misplaced hangs below one dialled server.
        #[test]
        fn any_tree_is_walked_to_an_end(parents in proptest::collection::vec(0_u32..12, 1..12)) {
            let servers: Vec<(u32, u32)> = (1..).zip(parents).collect();
            let tree = tree(&servers);
            for (id, _) in &servers {
                let id = ServerId(*id);
                let dialled = tree.dialled(id);
                if tree.misplaced(id, 12).is_none() {
                    prop_assert_eq!(tree.parents[&dialled], None);
                    prop_assert!(id == dialled || tree.reached_through(dialled).contains(&id));
                }
            }
        }
    }
}
