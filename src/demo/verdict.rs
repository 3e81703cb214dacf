//! What the demo came to: a line for people, an object for programs.

use serde::Serialize;

/// Which act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActName {
    /// The scheduler was killed and started again.
    Restart,
    /// One server's link was cut and restored.
    LinkRestored,
}

/// What an act came to. `meetings_live` = recovered + orphans + pending + ended (rule 6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Act {
    /// Which.
    pub act: ActName,
    /// Legs that the servers of the round reported live.
    pub meetings_live: u64,
    /// Of these taken over.
    pub recovered: u64,
    /// Of these foreign: kept and not touched.
    pub orphans: u64,
    /// Stored as live, gone without an end.
    pub vanished: u64,
    /// Reported live, and their end finished.
    pub ended: u64,
    /// Not recovered.
    pub pending: u64,
    /// Fields that differ between a server's truth and database or cache.
    pub differences: u64,
    /// Recovery keys that the database served.
    pub keys_from_database: u64,
    /// Recovery keys that the cache served.
    pub keys_from_cache: u64,
    /// From the scheduler's spawn, or the link's return, to the last acceptance.
    pub in_control_ms: u64,
    /// The same to the last back-fill write.
    pub backfilled_ms: u64,
    /// The term.
    pub epoch: u64,
    /// Clients that are connected and see all their meetings.
    pub clients_connected: u64,
    /// The others.
    pub clients_lost: u64,
}

impl Act {
    /// Rule 6.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.meetings_live == self.recovered + self.orphans + self.pending + self.ended
    }
}

/// What the whole demo came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// No difference, and everything as expected.
    pub ok: bool,
    /// The acts, in order.
    pub acts: Vec<Act>,
    /// What was not as expected.
    #[serde(skip)]
    pub problems: Vec<String>,
}

impl Verdict {
    /// A verdict from the acts and what went wrong besides their numbers.
    pub(crate) fn new(acts: Vec<Act>, mut problems: Vec<String>) -> Self {
        for act in &acts {
            if !act.adds_up() {
                problems.push(format!("act {}: its report does not add up (rule 6): {act:?}", act.act.words()));
            }
            if act.differences > 0 {
                problems.push(format!("act {}: {} differences", act.act.words(), act.differences));
            }
        }
        Self { ok: problems.is_empty() && !acts.is_empty(), acts, problems }
    }

    /// One line for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        if !self.ok {
            return format!("NOT OK: {}", self.problems.join("; "));
        }
        let acts: Vec<String> = self
            .acts
            .iter()
            .map(|act| {
                format!(
                    "{}: {} live meetings in control after {} ms, back-filled after {} ms",
                    act.act.words(),
                    act.recovered,
                    act.in_control_ms,
                    act.backfilled_ms
                )
            })
            .collect();
        format!("OK: no difference between the servers' truth and database and cache; {}", acts.join("; "))
    }

    /// One object for programs.
    #[must_use]
    pub fn json(&self) -> String {
        // Numbers, names, truth values: always JSON.
        serde_json::to_string(self).unwrap_or_else(|_| "{\"ok\":false,\"acts\":[]}".to_owned())
    }
}

impl ActName {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            ActName::Restart => "restart",
            ActName::LinkRestored => "link restored",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn act() -> Act {
        Act {
            act: ActName::LinkRestored,
            meetings_live: 10,
            recovered: 7,
            orphans: 1,
            vanished: 0,
            ended: 2,
            pending: 0,
            differences: 0,
            keys_from_database: 1,
            keys_from_cache: 6,
            in_control_ms: 5,
            backfilled_ms: 9,
            epoch: 2,
            clients_connected: 4,
            clients_lost: 0,
        }
    }

    #[test]
    fn rule_6_a_report_that_does_not_add_up_is_not_ok() {
        assert!(Verdict::new(vec![act()], Vec::new()).ok);
        assert!(!Verdict::new(vec![Act { recovered: 8, ..act() }], Vec::new()).ok);
    }

    #[test]
    fn a_difference_or_a_problem_is_not_ok() {
        assert!(!Verdict::new(vec![Act { differences: 1, ..act() }], Vec::new()).ok);
        assert!(!Verdict::new(vec![act()], vec!["a client was lost".to_owned()]).ok);
        assert!(!Verdict::new(Vec::new(), Vec::new()).ok, "nothing was shown");
    }

    #[test]
    fn the_object_has_exactly_the_fields_that_are_promised() {
        let text = Verdict::new(vec![act()], Vec::new()).json();
        let expected = r#"{"ok":true,"acts":[{"act":"link_restored","meetings_live":10,"recovered":7,"orphans":1,"vanished":0,"ended":2,"pending":0,"differences":0,"keys_from_database":1,"keys_from_cache":6,"in_control_ms":5,"backfilled_ms":9,"epoch":2,"clients_connected":4,"clients_lost":0}]}"#;
        assert_eq!(text, expected);
        assert!(!text.contains('\n'));
    }
}
