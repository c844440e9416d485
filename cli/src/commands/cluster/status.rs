//! `streamhouse cluster status`: how each controller stands, and how far it is behind.

use serde::Serialize;
use streamhouse_client::{Admin, Cluster, ControllerStatus, Role};

use crate::commands::status::{leader, term};
use crate::exit;
use crate::output::{self, Format};

/// What `cluster status --output json` prints.
#[derive(Debug, Serialize)]
struct Status {
    cluster: String,
    generation: String,
    /// Id of the controller that leads with a majority behind it; null while there is none.
    leader: Option<u64>,
    /// The last index that the leader knows to be committed.
    committed: Option<u64>,
    /// Which encodings the cluster may use: the highest level that any controller has applied; null if none tells.
    feature_level: Option<u32>,
    controllers: Vec<Controller>,
}

/// A controller; what one that does not answer cannot tell is null.
#[derive(Debug, Serialize)]
struct Controller {
    id: u64,
    address: String,
    role: &'static str,
    term: Option<u64>,
    last_log: Option<u64>,
    applied: Option<u64>,
    /// Entries that the leader has committed and this one has not applied; null without a leader.
    lag: Option<u64>,
    /// Index of its snapshot, 0 before the first.
    snapshot: Option<u64>,
    /// How long ago that was written; null without one.
    snapshot_age_seconds: Option<f64>,
    /// The id of its disk.
    disk: Option<String>,
    /// The size of its state, estimated.
    state_bytes: Option<u64>,
    /// Synced writes of its log since it started.
    log_syncs: Option<u64>,
    /// The highest feature level that its release reads; the cluster's rises to the lowest of all.
    reads_level: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Prints what can be told, and fails if nobody leads.
pub(super) async fn run(admin: &Admin, format: Format) -> anyhow::Result<()> {
    let (cluster, controllers) = futures::join!(admin.cluster(), admin.controllers());
    let status = Status::of(&cluster?, controllers?);
    let printed = format.print(&status, human);
    exit::after_printing(printed, exit::led(status.leader))
}

impl Status {
    fn of(cluster: &Cluster, mut controllers: Vec<ControllerStatus>) -> Self {
        controllers.sort_by_key(|controller| controller.id);
        let leader = leader(&controllers);
        let (leader, committed) = (leader.map(|c| c.id), leader.map(|c| c.committed));
        Self {
            cluster: cluster.id.to_string(),
            generation: cluster.generation.to_string(),
            leader,
            committed,
            feature_level: controllers
                .iter()
                .map(|c| c.feature_level)
                .max()
                .filter(|level| *level > 0),
            controllers: controllers.into_iter().map(|c| Controller::of(c, committed)).collect(),
        }
    }
}

impl Controller {
    fn of(status: ControllerStatus, committed: Option<u64>) -> Self {
        let answered = status.role != Role::Unreachable;
        let told = |number: u64| answered.then_some(number);
        Self {
            id: status.id,
            term: term(&status),
            address: status.address,
            role: status.role.as_str(),
            last_log: told(status.last_log),
            applied: told(status.applied),
            lag: committed.and_then(|committed| told(committed.saturating_sub(status.applied))),
            snapshot: told(status.snapshot),
            snapshot_age_seconds: status.snapshot_age.map(|age| age.as_secs_f64()),
            disk: answered.then_some(status.disk),
            state_bytes: told(status.state_bytes),
            log_syncs: told(status.log_syncs),
            reads_level: answered.then_some(status.reads_level.max(1)),
            problem: status.problem,
        }
    }
}

fn human(status: &Status) -> String {
    let heads = [
        "controller",
        "address",
        "role",
        "term",
        "last log",
        "applied",
        "lag",
        "snapshot",
        "age",
        "state",
        "log syncs",
        "reads level",
        "disk",
    ];
    let mut controllers = output::table(heads);
    for c in &status.controllers {
        let age = c.snapshot_age_seconds.map(|age| format!("{age:.0} s"));
        controllers.add_row([
            c.id.to_string(),
            c.address.clone(),
            c.role.to_owned(),
            output::or_dash(c.term),
            output::or_dash(c.last_log),
            output::or_dash(c.applied),
            output::or_dash(c.lag),
            output::or_dash(c.snapshot),
            output::or_dash(age),
            output::or_dash(c.state_bytes.map(output::bytes)),
            output::or_dash(c.log_syncs),
            output::or_dash(c.reads_level),
            output::or_dash(c.disk.clone()),
        ]);
    }
    let leader = match status.leader {
        Some(leader) => format!("controller {leader} leads"),
        None => "nobody leads".to_owned(),
    };
    let level = output::or_dash(status.feature_level);
    let mut text = format!(
        "cluster {} · generation {} · feature level {level} · {leader}\n{controllers}",
        status.cluster, status.generation
    );
    for c in &status.controllers {
        if let Some(problem) = &c.problem {
            text.push_str(&format!("\ncontroller {}: {problem}", c.id));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use streamhouse_segment::ids::{ClusterId, Generation};

    use super::*;

    fn controller(id: u64, role: Role, applied: u64) -> ControllerStatus {
        ControllerStatus {
            id,
            address: format!("c{id}:1"),
            role,
            pid: 7,
            term: 3,
            applied,
            last_log: applied,
            snapshot: 0,
            state_hash: String::new(),
            committed: applied,
            leader: Some(1),
            disk: "d".to_owned(),
            snapshot_age: Some(Duration::from_secs(4)),
            state_bytes: 2_048,
            log_syncs: 9,
            feature_level: 2,
            reads_level: 2,
            problem: None,
        }
    }

    fn cluster() -> Cluster {
        Cluster {
            id: ClusterId::from_bytes([1; 16]),
            generation: Generation { counter: 1, random: 2 },
            store_url: None,
            controllers: Vec::new(),
            leader: None,
            topics: 0,
            applied: 0,
        }
    }

    #[test]
    fn lag_counts_from_what_the_leader_has_committed() {
        let all = vec![
            controller(2, Role::Follower, 90),
            controller(1, Role::Leader, 100),
            ControllerStatus {
                problem: Some("gone".into()),
                ..controller(3, Role::Unreachable, 0)
            },
        ];
        let status = Status::of(&cluster(), all);
        assert_eq!((status.leader, status.committed), (Some(1), Some(100)));
        let lags: Vec<_> = status.controllers.iter().map(|c| c.lag).collect();
        assert_eq!(lags, [Some(0), Some(10), None]);
        let text = human(&status);
        assert!(
            text.contains("controller 1 leads") && text.contains("controller 3: gone"),
            "{text}"
        );
    }

    #[test]
    fn a_term_that_a_starting_controller_does_not_know_yet_is_none() {
        let starting = ControllerStatus { term: 0, ..controller(2, Role::Follower, 90) };
        let status = Status::of(&cluster(), vec![controller(1, Role::Leader, 100), starting]);
        let terms: Vec<_> = status.controllers.iter().map(|c| c.term).collect();
        assert_eq!(terms, [Some(3), None]);
    }

    #[test]
    fn a_leader_without_a_majority_is_none() {
        let alone = ControllerStatus { leader: None, ..controller(1, Role::Leader, 100) };
        let status = Status::of(&cluster(), vec![alone, controller(2, Role::Unreachable, 0)]);
        assert_eq!((status.leader, status.controllers[0].lag), (None, None));
        assert!(human(&status).contains("nobody leads"));
    }
}
