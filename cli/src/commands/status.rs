//! `streamhouse status`: who is there and what they do.

use std::time::Duration;

use serde::Serialize;
use streamhouse_client::{Admin, AdminError, AgentStatus, ControllerStatus, Role};

use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::exit;
use crate::output::{self, Format};

/// How long one question may take: a status is asked for when something does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
const TRY: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    controllers: Controllers,
}

/// What `status --output json` prints.
#[derive(Debug, Serialize)]
struct Status {
    cluster: String,
    generation: String,
    /// Id of the controller that leads with a majority behind it; null while there is none.
    leader: Option<u64>,
    store: Option<String>,
    topics: u64,
    controllers: Vec<Controller>,
    agents: Vec<Agent>,
    /// Why a part could not be told; that part is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A controller; what one that does not answer cannot tell is null.
#[derive(Debug, Serialize)]
struct Controller {
    id: u64,
    address: String,
    pid: Option<u32>,
    role: &'static str,
    term: Option<u64>,
    applied: Option<u64>,
    last_log: Option<u64>,
    snapshot: Option<u64>,
    state_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Agent {
    /// Counts the agents of this answer, by address.
    id: usize,
    address: String,
    pid: u32,
    session: u64,
    leases: u64,
    group: String,
    zone: String,
    draining: bool,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let admin = Admin::builder()
        .controllers(args.controllers.resolve()?)
        .operation_timeout(PATIENCE)
        .connect_timeout(CONNECT_TIMEOUT)
        .try_timeout(TRY)
        .build()?;
    let status = ask(&admin).await?;
    let printed = format.print(&status, human);
    exit::after_printing(printed, exit::led(status.leader))
}

async fn ask(admin: &Admin) -> Result<Status, AdminError> {
    let (cluster, controllers, agents) =
        futures::join!(admin.cluster(), admin.controllers(), admin.agents());
    let cluster = cluster?;
    let controllers = controllers?;
    let leader = leader(&controllers).map(|leader| leader.id);
    let mut controllers: Vec<Controller> = controllers.into_iter().map(Controller::from).collect();
    controllers.sort_by_key(|controller| controller.id);
    let (agents, problem) = match agents {
        Ok(agents) => (numbered(agents), None),
        Err(error) => (Vec::new(), Some(format!("agents are not known: {error}"))),
    };
    Ok(Status {
        cluster: cluster.id.to_string(),
        generation: cluster.generation.to_string(),
        leader,
        store: cluster.store_url,
        topics: cluster.topics,
        controllers,
        agents,
        problem,
    })
}

/// The one that leads with a majority behind it.
pub(super) fn leader(controllers: &[ControllerStatus]) -> Option<&ControllerStatus> {
    // One that was deposed may not know it yet; a term has one leader only.
    let leads = |c: &&ControllerStatus| c.role == Role::Leader && c.leader == Some(c.id);
    controllers.iter().filter(leads).max_by_key(|c| c.term)
}

/// The term of a controller that answered; one that has only just started does not know it yet.
pub(super) fn term(status: &ControllerStatus) -> Option<u64> {
    (status.term != 0).then_some(status.term)
}

impl From<ControllerStatus> for Controller {
    fn from(status: ControllerStatus) -> Self {
        let answered = status.role != Role::Unreachable;
        // A candidate is a follower that has lost its leader: one moment's difference.
        let role = match status.role {
            Role::Candidate => Role::Follower,
            role => role,
        };
        Self {
            id: status.id,
            term: term(&status),
            address: status.address,
            pid: answered.then_some(status.pid),
            role: role.as_str(),
            applied: answered.then_some(status.applied),
            last_log: answered.then_some(status.last_log),
            snapshot: answered.then_some(status.snapshot),
            state_hash: answered.then_some(status.state_hash),
            problem: status.problem,
        }
    }
}

fn numbered(mut agents: Vec<AgentStatus>) -> Vec<Agent> {
    agents.sort_by(|a, b| (&a.address, a.session).cmp(&(&b.address, b.session)));
    let numbered = agents.into_iter().zip(1..);
    numbered
        .map(|(agent, id)| Agent {
            id,
            address: agent.address,
            pid: agent.pid,
            session: agent.session.0,
            leases: agent.leases,
            group: agent.group,
            zone: agent.zone,
            draining: agent.draining,
        })
        .collect()
}

fn human(status: &Status) -> String {
    let mut controllers =
        output::table(["controller", "address", "pid", "role", "term", "applied"]);
    for c in &status.controllers {
        controllers.add_row([
            c.id.to_string(),
            c.address.clone(),
            output::or_dash(c.pid),
            c.role.to_owned(),
            output::or_dash(c.term),
            output::or_dash(c.applied),
        ]);
    }
    let mut agents = output::table(["agent", "address", "pid", "session", "leases", "state"]);
    for a in &status.agents {
        agents.add_row([
            a.id.to_string(),
            a.address.clone(),
            a.pid.to_string(),
            a.session.to_string(),
            a.leases.to_string(),
            if a.draining { "draining" } else { "serving" }.to_owned(),
        ]);
    }
    let store = status.store.as_deref().unwrap_or("not known before the first agent");
    let mut text = format!(
        "cluster {} · generation {} · {} · store {store}\n{controllers}\n{agents}",
        status.cluster,
        status.generation,
        output::counted(status.topics, "topic")
    );
    if status.leader.is_none() {
        text.push_str("\nno controller leads with a majority behind it just now");
    }
    if let Some(problem) = &status.problem {
        text.push_str(&format!("\n{problem}"));
    }
    text
}
