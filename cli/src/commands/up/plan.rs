//! What the cluster is to be made of: what was asked for, against what the data folder says.

use anyhow::Context as _;
use url::Url;

use super::Args;
use crate::commands::stores;
use crate::exit::Failure;
use crate::local::folder::Folder;
use crate::local::record::{Member, Record};

const CONTROLLERS: u16 = 3;
const AGENTS: u16 = 2;
const BASE_PORT: u16 = 7600;

/// The record to go by. What a cluster is for good cannot be changed; agents come and go.
pub(super) fn reconcile(
    args: &Args,
    folder: &Folder,
    known: Option<Record>,
) -> anyhow::Result<Record> {
    if let Some(store) = &args.store {
        stores::require_shared("--store", store)?;
    }
    let Some(mut record) = known else {
        let store = match &args.store {
            Some(store) => store.clone(),
            None => Url::from_file_path(folder.objects())
                .ok()
                .context("the data folder's path cannot be written as a URL")?
                .to_string(),
        };
        return Ok(Record::new(
            args.base_port.unwrap_or(BASE_PORT),
            args.controllers.unwrap_or(CONTROLLERS),
            args.agents.unwrap_or(AGENTS),
            store,
        ));
    };
    keep(folder, "--controllers", args.controllers, &record.controllers)?;
    keep(folder, "--base-port", args.base_port, &record.base_port)?;
    keep(folder, "--store", args.store.clone(), &record.store)?;
    if let Some(agents) = args.agents {
        for beyond in (agents + 1..=record.agents).map(Member::Agent) {
            if record.running(beyond).is_some() {
                return Err(Failure::usage(format!(
                    "--agents {agents}: {beyond} is running; `streamhouse down` first"
                ))
                .into());
            }
            record.processes.remove(&beyond);
        }
        record.agents = agents;
    }
    Ok(record)
}

fn keep<T: PartialEq + std::fmt::Display>(
    folder: &Folder,
    option: &str,
    asked: Option<T>,
    known: &T,
) -> Result<(), Failure> {
    match asked {
        Some(asked) if asked != *known => Err(Failure::usage(format!(
            "{option} {asked}: the cluster in {} was made with {known}, which is for good; take another --data for \
             another cluster",
            folder.path().display()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::process::ProcessId;

    fn args() -> Args {
        Args {
            controllers: None,
            agents: None,
            data: ".".into(),
            store: None,
            base_port: None,
            detach: false,
        }
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        (dir, folder)
    }

    #[test]
    fn a_new_cluster_has_the_defaults_and_its_objects_in_its_folder() {
        let (_dir, folder) = folder();
        let record = reconcile(&args(), &folder, None).unwrap();
        assert_eq!((record.base_port, record.controllers, record.agents), (7600, 3, 2));
        assert!(record.store.starts_with("file:///") && record.store.ends_with("/objects"));
    }

    #[test]
    fn what_a_cluster_is_for_good_cannot_be_changed() {
        let (_dir, folder) = folder();
        let known = || Some(Record::new(7600, 3, 2, "s3://a".into()));
        let same = Args { controllers: Some(3), base_port: Some(7600), ..args() };
        assert_eq!(reconcile(&same, &folder, known()).unwrap(), known().unwrap());
        for (changed, option) in [
            (Args { controllers: Some(5), ..args() }, "--controllers 5"),
            (Args { base_port: Some(7700), ..args() }, "--base-port 7700"),
            (Args { store: Some("s3://b".into()), ..args() }, "--store s3://b"),
        ] {
            let error = reconcile(&changed, &folder, known()).unwrap_err().to_string();
            assert!(error.starts_with(option), "{error}");
        }
    }

    #[test]
    fn agents_may_be_added_and_those_that_do_not_run_left_out() {
        let (_dir, folder) = folder();
        let mut known = Record::new(7600, 3, 2, "s3://a".into());
        let more = Args { agents: Some(4), ..args() };
        assert_eq!(reconcile(&more, &folder, Some(known.clone())).unwrap().agents, 4);
        let fewer = Args { agents: Some(1), ..args() };
        assert_eq!(reconcile(&fewer, &folder, Some(known.clone())).unwrap().agents, 1);
        known.processes.insert(Member::Agent(2), ProcessId::of(std::process::id()));
        let error = reconcile(&fewer, &folder, Some(known)).unwrap_err().to_string();
        assert!(error.contains("agent-2 is running"), "{error}");
    }
}
