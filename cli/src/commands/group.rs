//! `streamhouse group`: list, describe, reset, delete.

mod reset;

use clap::Subcommand;
use serde::Serialize;
use streamhouse_client::{Admin, GroupDescription};

use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all consumer groups.
    List {
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Show a group's members, who reads which partition, and how far behind it is.
    Describe {
        /// The group.
        group: String,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Set the offsets of a group without members.
    Reset(reset::Args),
    /// Remove a group without members, and its offsets.
    Delete {
        /// The group.
        group: String,
        #[command(flatten)]
        controllers: Controllers,
    },
}

#[derive(Debug, Serialize)]
struct Listed {
    group: String,
    state: &'static str,
    members: u32,
    epoch: u32,
    assignor: &'static str,
}

#[derive(Debug, Serialize)]
struct Described {
    group: String,
    state: &'static str,
    epoch: u32,
    assignor: &'static str,
    members: Vec<Member>,
    /// Of the partitions that have an offset; null where none has.
    lag: Option<u64>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Member {
    id: String,
    instance: Option<String>,
    client: String,
    epoch: u32,
    session_timeout_ms: u64,
    /// As `TOPIC/PARTITION`.
    partitions: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Partition {
    topic: String,
    partition: u32,
    committed: Option<u64>,
    end: u64,
    lag: Option<u64>,
    /// The member that reads it.
    owner: Option<String>,
    /// The member that is to read it, where that is another one.
    moving_to: Option<String>,
    metadata: String,
}

#[derive(Debug, Serialize)]
struct Deleted {
    group: String,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    match args.action {
        Action::List { controllers } => {
            let groups = admin(&controllers)?.list_groups().await?;
            let groups: Vec<Listed> = groups.into_iter().map(Listed::from).collect();
            format.print(&groups, |groups| human_list(groups))
        }
        Action::Describe { group, controllers } => {
            let described = admin(&controllers)?.describe_group(&group).await?;
            format.print(&Described::from(described), human_description)
        }
        Action::Reset(args) => reset::run(args, format).await,
        Action::Delete { group, controllers } => {
            admin(&controllers)?.delete_group(&group).await?;
            format.print(&Deleted { group }, |deleted| format!("deleted group {}", deleted.group))
        }
    }
}

fn admin(controllers: &Controllers) -> anyhow::Result<Admin> {
    let builder = Admin::builder().controllers(controllers.resolve()?);
    Ok(builder.connect_timeout(CONNECT_TIMEOUT).build()?)
}

impl From<streamhouse_client::GroupSummary> for Listed {
    fn from(group: streamhouse_client::GroupSummary) -> Self {
        Self {
            group: group.name,
            state: group.state.as_str(),
            members: group.members,
            epoch: group.epoch,
            assignor: group.assignor.as_str(),
        }
    }
}

impl From<GroupDescription> for Described {
    fn from(group: GroupDescription) -> Self {
        let owned = |id| {
            let owned = group.partitions.iter().filter(move |p| p.owner == Some(id));
            owned.map(|p| p.at.to_string()).collect()
        };
        let members = group.members.iter().map(|member| Member {
            id: member.id.to_string(),
            instance: member.instance.clone(),
            client: member.client.clone(),
            epoch: member.epoch,
            session_timeout_ms: member.session_timeout.as_millis() as u64,
            partitions: owned(member.id),
        });
        let partitions = group.partitions.iter().map(|p| Partition {
            topic: p.at.topic.to_string(),
            partition: p.at.partition,
            committed: p.committed,
            end: p.end,
            lag: p.lag(),
            owner: p.owner.map(|id| id.to_string()),
            moving_to: p.target.filter(|_| p.target != p.owner).map(|id| id.to_string()),
            metadata: p.metadata.clone(),
        });
        Self {
            members: members.collect(),
            lag: group.partitions.iter().filter_map(|p| p.lag()).reduce(|sum, lag| sum + lag),
            partitions: partitions.collect(),
            group: group.summary.name,
            state: group.summary.state.as_str(),
            epoch: group.summary.epoch,
            assignor: group.summary.assignor.as_str(),
        }
    }
}

fn human_list(groups: &[Listed]) -> String {
    let mut table = output::table(["group", "state", "members", "epoch", "assignor"]);
    for group in groups {
        let (members, epoch) = (group.members.to_string(), group.epoch.to_string());
        table.add_row([&group.group, group.state, &members, &epoch, group.assignor]);
    }
    table.to_string()
}

fn human_description(group: &Described) -> String {
    let Described { group: name, state, epoch, assignor, .. } = group;
    let lag = output::or_dash(group.lag.map(output::count));
    let unread = match group.partitions.iter().filter(|p| p.committed.is_none()).count() {
        0 => String::new(),
        count => format!(" · without an offset: {count} of {}", group.partitions.len()),
    };
    let mut text =
        format!("group {name} · {state} · epoch {epoch} · {assignor} · lag {lag}{unread}\n");
    if !group.members.is_empty() {
        let mut table = output::table(["member", "client", "instance", "partitions"]);
        for member in &group.members {
            let instance = output::or_dash(member.instance.as_ref());
            table.add_row([&member.id, &member.client, &instance, &member.partitions.join(" ")]);
        }
        text += &format!("{table}\n");
    }
    let heads = ["topic", "partition", "committed", "end", "lag", "owner", "moving to"];
    let mut table = output::table(heads);
    for p in &group.partitions {
        table.add_row([
            p.topic.clone(),
            p.partition.to_string(),
            output::or_dash(p.committed),
            p.end.to_string(),
            output::or_dash(p.lag),
            output::or_dash(p.owner.as_ref()),
            output::or_dash(p.moving_to.as_ref()),
        ]);
    }
    text + &table.to_string()
}
